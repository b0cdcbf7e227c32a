"""The pages and the picture of runs: one file, nothing fetched, nothing of others' taken for markup."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.cli.show import runs_page as runs_page_module
from orchestrator.cli.show.page import BUCKETS
from orchestrator.cli.show.run_page import run_page
from orchestrator.cli.show.runs_page import bars_of, runs_page, series_of, with_curves
from orchestrator.cli.show.runs_picture import runs_picture
from orchestrator.cli.show.svg_chart import OTHERS, SERIES, Axis, Mark, Scale, chart, scale_of
from orchestrator.cli.show.written import place_of, write_at
from orchestrator.errors import ConfigError
from orchestrator.events import (
    AttemptEnded,
    AttemptStarted,
    Decided,
    Event,
    Outcome,
    RankLost,
    Record,
    ResourcesGranted,
    ResourcesReleased,
    RunEnded,
    RunStarted,
    Status,
    StepDone,
)
from orchestrator.ledger.bill import Bucket
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.loss_trail import loss_trail
from orchestrator.ledger.mlflow.curves import CurvePoint, curve
from orchestrator.ledger.mlflow.reaching import Past
from orchestrator.ledger.mlflow.run_groups import grouped
from orchestrator.ledger.mlflow.runs import RunRow
from tests.unit.cli.show.test_runs_table import row

EVIL = "a<script>alert(1)</script>\"'&\x1b[2J\u202e"
VOID = {"meta", "link", "input"}


class Tags(HTMLParser):
    """What a browser would make of it: each tag closed, its attributes, and all text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.open: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words = ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open[-1] != tag and self.open[-1] in ("td", "th"):
            self.open.pop()  # a cell need not be closed
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def many(count: int) -> list[RunRow]:
    return [
        row(
            f"run-{place}", place, cluster=f"c{place % 3}", cost_usd=10.0 + place, hours=1.0 + place % 7,
            final_loss=2 + place % 5 / 10, bucket_usd={"training": 8.0 + place, "redone": 2.0},
            started_at=f"2026-01-01T{place % 24:02d}:00:00+00:00",
        )
        for place in range(count)
    ]  # fmt: skip


def curves_of(rows: list[RunRow]) -> dict[str, list[CurvePoint]]:
    return {one.run_id: [CurvePoint(0.1, 1.0, 4.0), CurvePoint(1.0, 9.0, 2.5)] for one in rows}


def assert_self_contained(text: str) -> Tags:
    tags = Tags(text)
    assert tags.seen.count("script") == 1
    assert "default-src 'none'" in text
    for name, value in tags.attributes:
        assert not name.startswith("on")
        if name in ("src", "href"):
            assert value.startswith(("#", "data:")), "nothing is fetched"
    assert not re.search(r"https?://|@import|url\((?!#)", text)
    assert "\x1b" not in text
    return tags


def test_a_page_of_runs_is_whole_without_a_network_and_takes_no_name_for_markup() -> None:
    rows = [
        row(EVIL, 0, cluster=EVIL, settings={EVIL: EVIL}, hours=2.0, bucket_usd={"training": 120.0}),
        *many(3),
    ]
    page = runs_page(rows, (), curves_of(rows), EVIL, EVIL)
    tags = assert_self_contained(page)
    assert tags.words.count("alert(1)") >= 3, "it is said, and is text"
    assert page.count("<figure>") == 6
    for title in ("Loss against dollars", "Cost against time", "Predicted against actual cost"):
        assert title in tags.words


def test_a_secret_in_a_name_is_hidden() -> None:
    rows = [row("password=hunter2hunter2", 0), *many(2)]
    assert "hunter2hunter2" not in runs_page(rows, (), {}, "Runs", "")


def test_a_page_without_figures_is_still_one() -> None:
    bare = row("bare", 0, status="running", **dict.fromkeys(("cost_usd", "final_loss", "predicted_cost_usd")))
    tags = assert_self_contained(runs_page([bare], (), {}, "Runs", ""))
    assert "bare" in tags.words
    assert "svg" in tags.seen


def test_a_thousand_runs_fit_into_two_megabytes() -> None:
    rows = many(1000)
    chosen = with_curves(rows)
    assert len({one.run_id for one in chosen}) == runs_page_module.MOST_CURVES
    line = [CurvePoint(0.1 * place + 0.01, 1.234 * place + 0.1, 4 - place / 20) for place in range(40)]
    page = runs_page(rows, (), {one.run_id: line for one in chosen}, "Runs", "")
    assert len(page.encode()) < 2e6
    assert page.count("<tr>") == 1001


@given(st.integers(1, 40), st.integers(1, 10))
def test_every_run_has_a_colour_and_the_largest_groups_have_their_own(count: int, clusters: int) -> None:
    rows = [row(f"r{place}", place, cluster=f"c{place % clusters}") for place in range(count)]
    groups = grouped(rows, ["cluster"])
    for series in (series_of(rows, groups), series_of(rows, ())):
        assert set(series.of) == {one.run_id for one in rows}
        assert len(series.names) <= SERIES + 1
        assert all(place < len(series.names) for place in series.of.values())
    assert (OTHERS in series_of(rows, groups).of.values()) == (len(groups) > SERIES)


def test_bars_make_up_what_runs_cost_also_of_those_that_tell_no_buckets() -> None:
    rows = [*many(4), row("older", 9, cost_usd=7.0)]
    told = bars_of(rows, grouped(rows, ["cluster"]))
    assert sum(sum(parts.values()) for _, parts in told) == pytest.approx(
        sum(one.cost_usd or 0 for one in rows)
    )
    assert dict(bars_of(rows, ()))["older"] == {"untold": 7.0}
    assert {bucket.value for bucket in Bucket} - {"waiting"} <= set(BUCKETS)


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(-1e9, 1e12), st.floats(1e-6, 1e12)), min_size=1, max_size=20))
def test_whatever_the_values_marks_lie_within_the_drawing(points: list[tuple[float, float]]) -> None:
    drawing = chart(Axis("x"), Axis("y"), [], [Mark(x, y, "") for x, y in points], "a chart")
    for x, y in re.findall(r'href="#m0" x="([^"]*)" y="([^"]*)"', drawing):
        assert 0 <= float(x) <= 460
        assert 0 <= float(y) <= 320
    assert "nan" not in drawing
    scale = scale_of([y for _, y in points], Axis("y"), 0, 100)
    assert isinstance(scale, Scale)
    assert 1 <= len(scale.ticks()) <= 12


def test_a_curve_keeps_its_ends() -> None:
    losses = [Past(1000 * place, place, 10 / place) for place in range(1, 500)]
    bills = [Past(0, 0, 0.0), Past(500_000, 500, 50.0)]
    points = curve(losses, bills, 0)
    assert len(points) <= 41
    assert points[0].cost_usd == pytest.approx(0.1)
    assert points[-1].cost_usd == pytest.approx(49.9)
    assert [one.hours for one in points] == sorted(one.hours for one in points)
    assert len(curve(losses[:1], bills, 0)) == 1


def records() -> list[Record]:
    steps: list[tuple[float, Event]] = [(20 + 3 * n, StepDone(1, n, 3.0, 10 / n)) for n in range(1, 21)]
    told: list[tuple[float, Event]] = [
        (0, RunStarted(EVIL, "gpt", "lab", "H100", 4, 2.5, "GPU", 40, 1000, 1e9, 1e12, None, 2.9, None, 0.01)),
        (5, ResourcesGranted(["n"], 4)), (10, AttemptStarted(1, "h", 1, 4)), *steps,
        (90, RankLost(1, 3, "n", "g3", -9, 20, EVIL)), (95, AttemptEnded(1, Outcome.FAILED, 20)),
        (96, Decided("restart", "one of three")), (100, AttemptStarted(2, "h", 1, 4, 10, "disk")),
        *((120 + 3 * n, StepDone(2, n, 3.0, 10 / n)) for n in range(11, 41)),
        (250, AttemptEnded(2, Outcome.FINISHED, 40)), (255, ResourcesReleased()), (255, RunEnded(Status.FINISHED, "done")),
    ]  # fmt: skip
    return [Record(seq, float(at), 1.7e9 + at, event) for seq, (at, event) in enumerate(told)]


def test_a_page_of_one_run_has_its_bill_and_its_incidents() -> None:
    ledger = Ledger().fold_all(records())
    losses, spent = loss_trail(records())
    assert [one.step for one in losses] == list(range(1, 41)), "a step that is done again is the first one"
    assert spent[-1].value == pytest.approx(Ledger().fold_all(records()[:-3]).bill().cost_usd)
    assert all(one.value <= other.value for one, other in pairwise(spent))
    tags = assert_self_contained(run_page(ledger, "finished", losses, spent))
    for said in (
        "By attempt",
        "attempt 2",
        "incident 1",
        "redone",
        "predicted against actual",
        "restored step 10",
    ):
        assert said in tags.words
    assert "$" in tags.words


def test_the_picture_is_one_and_holds_every_kind_of_run() -> None:
    rows = [row(EVIL, 0, cluster="$x$", hours=2.0, bucket_usd={"training": 120.0}), *many(9)]
    picture = runs_picture(rows, grouped(rows, ["cluster"]), curves_of(rows), "Runs")
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 20_000
    bare = row("bare", 0, status="running", cost_usd=None, final_loss=None)
    assert runs_picture([bare], (), {}, "Runs").startswith(b"\x89PNG")


def test_a_file_that_cannot_be_written_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--html .*: there is no folder .*; mkdir -p "):
        place_of("--html", str(tmp_path / "none" / "a.html"))
    with pytest.raises(ConfigError, match="is there and is no file"):
        place_of("--html", str(tmp_path))
    with pytest.raises(ConfigError, match="is a link"):
        place_of("--png", "/dev/stdout")
    write_at("--html", place_of("--html", str(tmp_path / "a.html")), "text")
    assert (tmp_path / "a.html").read_text() == "text"
