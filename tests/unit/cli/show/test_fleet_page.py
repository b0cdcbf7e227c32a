"""The page of a fleet: what its lanes show of a day, and what its picture cannot be fooled into."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from orchestrator.cli.show.fleet_lanes import Window, window_of
from orchestrator.cli.show.fleet_page import FUTURE_S, MOST_ROWS, PAST_S, fleet_page
from orchestrator.dispatch.facts import Submitted
from orchestrator.dispatch.fleet_seen import FleetSeen, FleetWatch
from orchestrator.dispatch.seen_file import write_seen
from orchestrator.dispatch.timeline import Kind
from orchestrator.fleet.jobs import JobSpec, PoolPlan
from tests.support.fleet_day import FLEET, HOUR_S, FleetDay, a_day

NOW = 1_800_000_000.0
EVIL = 'a"><script>alert(1)</script>'


class Bars(HTMLParser):
    """The bars of a page: kind, title, place across and height."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[set[str], str, dict[str, float]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = {name: value or "" for name, value in attrs}
        kinds = set(told.get("class", "").split())
        if tag == "div" and kinds & {"bar", "kept", "closed"}:
            numbers = re.findall(r"(\w+):([\d.]+)(?:%|px)", told.get("style", ""))
            self.found.append((kinds, told.get("title", ""), {name: float(value) for name, value in numbers}))

    def of(self, job: str) -> list[tuple[set[str], dict[str, float]]]:
        return [(kinds, place) for kinds, title, place in self.found if title.startswith(f"{job} (")]


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetDay]:
    made = a_day(tmp_path_factory.mktemp("day") / "runs", NOW)
    yield made
    made.store.close()


@pytest.fixture(scope="module")
def seen(day: FleetDay) -> FleetSeen:
    return FleetWatch(day.run_root, PAST_S, lambda: NOW).look()


def test_each_job_is_where_the_facts_have_it(seen: FleetSeen) -> None:
    ran = {(one.job, one.from_at): one for one in seen.stretches if one.kind is Kind.RAN}
    stopped = ran["pretrain-7b", NOW - 10.9 * HOUR_S]
    assert (stopped.nodes, stopped.until_at) == ((0, 1, 2, 3), NOW - 5.1 * HOUR_S)
    running = {one.job: one for one in seen.stretches if one.kind is Kind.RUNS}
    assert running["sft-chat"].nodes == (0, 1)
    assert running["sft-chat"].from_at == NOW - 2.3 * HOUR_S
    left_s = 2200 * 10.0 - 2.3 * HOUR_S
    assert running["sft-chat"].until_at == pytest.approx(NOW + left_s, rel=0.02)
    later = {one.job for one in seen.stretches if one.kind is Kind.TO_COME}
    assert {"pretrain-7b", "asr-next", "captions", "distil"} <= later


def test_nobody_is_drawn_on_more_gpus_than_a_node_has(seen: FleetSeen) -> None:
    times = {one.from_at for one in seen.stretches}
    for at in times:
        used: dict[int, int] = {}
        for one in seen.stretches:
            if one.from_at <= at < one.until_at:
                for node, gpus in zip(one.nodes, one.gpus, strict=bool(one.nodes)):
                    used[node] = used.get(node, 0) + gpus
        assert max(used.values(), default=0) <= 8, at


def test_the_page_has_lanes_the_queue_dollars_and_what_changes(seen: FleetSeen) -> None:
    text = fleet_page(seen)
    bars = Bars(text)
    ((kinds, place),) = bars.of("sft-chat")
    assert {"bar", "runs"} <= kinds
    now = Window(0.0, 1.0, 0.0) and float(re.findall(r'<em style="left:([\d.]+)%">', text)[0])
    assert place["left"] < now < place["left"] + place["width"]
    assert place["height"] > 2 * 30  # a gang of two nodes side by side is one bar
    assert [kinds & {"ran", "to-come"} for kinds, _ in bars.of("eval-0")] == [{"ran"}]
    assert any("drained" in title for kinds, title, _ in bars.found if "closed" in kinds)
    assert any(
        "2 nodes for serving, demo on stage" in title for kinds, title, _ in bars.found if "kept" in kinds
    )
    for said in (
        "node7 not there",
        "node5 drained: nothing more starts",
        "r1: 2 nodes kept for team serving",
    ):
        assert said in text
    assert "CUDA out of memory at step 1,204" in text
    assert "spent this month" in text
    assert "data-again" not in text
    assert "http://" not in text.replace("http://www.w3.org", "")
    served = fleet_page(seen, again_s=15.0)
    assert 'data-again="15"' in served
    assert "connect-src 'self'" in served
    assert "connect-src" not in text


def test_a_name_is_a_text(tmp_path: Path) -> None:
    day = FleetDay(tmp_path / "runs", NOW)
    day.nodes(missing=0)
    spec = JobSpec(EVIL, EVIL, (PoolPlan("h100", 8, 2.0),), owner=EVIL)
    day.say(1.0, Submitted(spec, "x", "/"))
    day.store.close()
    text = fleet_page(FleetWatch(day.run_root, PAST_S, lambda: NOW).look())
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)" in text


def test_an_empty_queue_has_a_page_too(tmp_path: Path) -> None:
    day = FleetDay(tmp_path / "runs", NOW)
    day.store.close()
    text = fleet_page(FleetWatch(day.run_root, PAST_S, lambda: NOW).look())
    assert "No job is in the queue." in text
    assert text.count('class="lane"') == 8


def test_a_large_fleet_is_told_in_a_page_that_can_be_read(tmp_path: Path) -> None:
    day = FleetDay(tmp_path / "runs", NOW)
    (day.run_root / "fleet.yaml").write_text(FLEET.replace("nodes: 8,", "nodes: 3000,"))
    for number in range(MOST_ROWS + 7):
        day.submit(f"job-{number}", "nlp", 64, 2.0, 0.1)
    write_seen(day.run_root / "fleet", (), NOW)
    day.store.close()
    text = fleet_page(FleetWatch(day.run_root, PAST_S, lambda: NOW).look())
    assert "nodes are drawn of pools with up to 64" in text
    assert "and 7 more, of least worth" in text
    assert "nodes 0\u20132999 not there" in text
    assert 'class="lane"' not in text
    assert len(text) < 1_000_000


def test_who_looks_again_reads_what_is_new_alone(tmp_path: Path) -> None:
    day = FleetDay(tmp_path / "runs", NOW)
    day.nodes(missing=0)
    watch = FleetWatch(day.run_root, PAST_S, lambda: NOW)
    assert watch.look().stretches == []
    day.submit("a", "nlp", 8, 1.0, 2.0)
    day.start("a", (0,), (8,), 1.9)
    assert [(one.job, one.kind) for one in watch.look().stretches] == [("a", Kind.RUNS)]
    day.end("a", 0.5)
    day.store.close()
    (one,) = watch.look().stretches
    assert (one.kind, one.until_at) == (Kind.RAN, NOW - 0.5 * HOUR_S)


def test_the_window_holds_what_happens_and_no_more_than_a_day_and_a_half(seen: FleetSeen) -> None:
    window = window_of(seen.stretches, NOW, PAST_S, FUTURE_S)
    assert window.from_at == NOW - 10.9 * HOUR_S
    assert NOW + HOUR_S < window.until_at <= NOW + FUTURE_S + 2 * HOUR_S
    assert 6 <= len(window.ticks()) <= 10
    alone = window_of([], NOW, PAST_S, FUTURE_S)
    assert alone.until_at - alone.from_at == pytest.approx(1800.0, rel=0.05)
