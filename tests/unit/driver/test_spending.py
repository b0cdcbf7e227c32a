"""What many runs have cost together: groups make up the whole, whichever way it is cut, and each run's part is
what its own ledger says."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import os
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.driver.run_list import list_runs
from orchestrator.driver.spending import BY, SpentLine, Wanted, grouped, spent_groups, spent_lines
from orchestrator.events import ResourcesReleased, RunEnded, Status
from orchestrator.ledger.bill import Bucket
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.spend import SpendNote
from orchestrator.records import record_to_json
from tests.support.played_runs import BEGIN, PRICE, Timeline, records, steps
from tests.unit.cli.test_cli import Call, one_line
from tests.unit.cli.test_cli import call as call
from tests.unit.config.test_conf import composed

# Ten seconds before a new month.
BEGAN_UNIX_S = datetime(2026, 11, 30, 23, 59, 50, tzinfo=UTC).timestamp()
DONE: Timeline = [
    *BEGIN,
    *steps(1, 1, 18, at=2),
    (20, ResourcesReleased()),
    (20, RunEnded(Status.FINISHED, "")),
]
names = st.sampled_from(["a", "b", "-", None])
amounts = st.floats(0, 1e9)
LINES = st.lists(
    st.builds(
        SpentLine, st.sampled_from("rst"), st.sampled_from(["ada", "bob"]), names, names, names,
        st.sampled_from(["2026-11", "2026-12"]), st.sampled_from(["", *Bucket]),
        st.sampled_from(["GPU", "CPU core"]), amounts, amounts,
    ),
    max_size=40,
)  # fmt: skip


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()


def played(root: Path, name: str, timeline: Timeline, *words: str) -> Ledger:
    """A run as its driver leaves it: a journal, and what others may know of it."""
    ledger = Ledger()
    note = SpendNote(composed("job=tiny_gpt", f"run_root={root}", *words), name, "GPU", ledger, pytest.fail)
    (root / name).mkdir(parents=True)
    lines = []
    for record in records(timeline):
        record = dataclasses.replace(record, time_unix_s=BEGAN_UNIX_S + record.elapsed_s)
        ledger.fold(record)
        note.observe(record, ledger.bill())
        lines.append(record_to_json(record) + "\n")
    (root / name / "journal.jsonl").write_text("".join(lines))
    return ledger


@settings(max_examples=200, deadline=None)
@given(LINES, st.lists(st.sampled_from(BY), unique=True))
def test_groups_sum_to_the_whole_whichever_way_it_is_cut(lines: list[SpentLine], by: list[str]) -> None:
    groups = grouped(lines, by)
    assert math.fsum(group.cost_usd for group in groups) == pytest.approx(
        math.fsum(line.cost_usd for line in lines), abs=0.005
    )
    for unit in ("GPU", "CPU core"):
        assert math.fsum(group.gpu_hours for group in groups if group.unit == unit) == pytest.approx(
            math.fsum(line.gpu_hours for line in lines if line.unit == unit)
        )
    for group in groups:
        assert sum(group.bucket_usd.values()) == pytest.approx(group.cost_usd)
        assert 0 <= group.lost_usd <= group.cost_usd * (1 + 1e-12)
    keys = [(*group.by.values(), group.unit) for group in groups]
    assert len(set(keys)) == len(keys), "what is alike is one group"


def test_a_run_over_the_end_of_a_month_is_split_where_its_seconds_were_billed(tmp_path: Path) -> None:
    ledger = played(tmp_path, "r", DONE, "owner=ada")
    november, december = spent_groups(tmp_path, ("month",), Wanted(), trust=False)
    assert (november.by, december.by) == ({"month": "2026-11"}, {"month": "2026-12"})
    assert november.cost_usd == december.cost_usd == pytest.approx(10 * 4 / 3600 * PRICE)
    assert november.bucket_usd["starting"] == pytest.approx(1 * 4 / 3600 * PRICE)
    assert november.lost_usd == pytest.approx(november.bucket_usd["starting"])
    assert sum(group.cost_usd for group in (november, december)) == pytest.approx(ledger.bill().cost_usd)
    (only,) = spent_groups(tmp_path, ("owner",), Wanted(month="2026-12"), trust=False)
    assert only.cost_usd == december.cost_usd


def test_what_a_run_list_and_the_spending_say_is_the_same_whoever_told_it(tmp_path: Path) -> None:
    """Ended, going on, without a note, without a directory, and damaged after its note."""
    played(tmp_path, "ended", DONE, "project=lm")
    played(tmp_path, "open", [*BEGIN, *steps(1, 1, 40, at=2)], "project=lm")
    played(tmp_path, "silent", DONE)
    (tmp_path / "spend" / "silent.json").unlink()
    played(tmp_path, "gone", DONE, "project=lm", "cost_center=42")
    shutil.rmtree(tmp_path / "gone")
    listed = {run.name: run.cost_usd for run in list_runs(tmp_path)}
    spent = {group.by["run"]: group.cost_usd for group in spent_groups(tmp_path, ("run",), Wanted(), False)}
    assert spent.keys() == listed.keys() == {"ended", "open", "silent", "gone"}
    assert spent == pytest.approx(listed)
    by = {group.by["project"]: group for group in spent_groups(tmp_path, ("project",), Wanted(), False)}
    assert (by["lm"].runs, by[None].runs) == (3, 1)
    assert {line.cluster for line in spent_lines(tmp_path, False) if line.run == "silent"} == {"lab"}
    journal = tmp_path / "open" / "journal.jsonl"
    journal.write_text("no record\n")
    again = {group.by["run"]: group.cost_usd for group in spent_groups(tmp_path, ("run",), Wanted(), False)}
    note = json.loads((tmp_path / "spend" / "open.json").read_text())
    assert note["cost_usd"] > 0
    assert again["open"] == pytest.approx(note["cost_usd"]), "a note says what a damaged journal does not"


def test_an_older_note_counts_whole_and_a_foolish_one_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "spend").mkdir()
    old = {
        "format": 1, "run": "old", "owner": "ada", "project": "lm", "cost_center": None, "unit": "GPU",
        "every_s": 30.0, "state": "finished", "gpus_held": 0, "gpu_hours": 12.5, "cost_usd": 40.0,
        "updated_unix_s": BEGAN_UNIX_S,
    }  # fmt: skip
    foolish = [{"month": "2026-11", "bucket": "training", "gpu_hours": float("nan"), "cost_usd": 1.0}]
    for name, body in {
        "old": old,
        "foolish": {**old, "held": foolish, "cost_usd": 7.0},
        "later": {**old, "format": 2, "more": [1]},
        "elsewhere": {**old, "project": 7},
        "huge": {**old, "updated_unix_s": 1e18, "cost_usd": float("inf"), "gpu_hours": "many"},
    }.items():
        (tmp_path / "spend" / f"{name}.json").write_text(json.dumps(body))
    found = {line.run: line for line in spent_lines(tmp_path, False)}
    assert found.keys() == {"old", "foolish", "later"}
    assert (found["old"].month, found["old"].bucket, found["old"].cost_usd) == ("2026-11", "", 40.0)
    assert found["foolish"].cost_usd == 7.0


def test_spend_as_it_is_typed(call: Call, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    assert call("spend")[1].startswith("nothing was spent in runs; set run_root")
    ledger = played(root, "r", DONE, "owner=ada", "project='=sum(A1)'")
    code, out, _ = call("spend")
    assert code == 0
    rows = [line.split() for line in out.splitlines()]
    assert rows[0] == ["owner", "month", "cost", "share", "hours", "lost", "of", "cost", "runs"]
    assert [row[:2] for row in rows[1:3]] == [["ada", "2026-11"], ["ada", "2026-12"]]
    assert out.splitlines()[3].startswith("in all $0.0800 for 0.0222 GPU-hours, of which $0.00800 trained")
    told = list(csv.DictReader(io.StringIO(call("spend", "--by", "project,month,bucket", "--csv")[1])))
    assert sum(float(row["cost_usd"]) for row in told) == pytest.approx(ledger.bill().cost_usd)
    assert told[0]["project"] == "'=sum(A1)", "no spreadsheet takes it for a formula"
    wide = next(csv.DictReader(io.StringIO(call("spend", "--by", "month", "--csv")[1])))
    assert float(wide["training_usd"]) + float(wide["starting_usd"]) == pytest.approx(float(wide["cost_usd"]))
    body = json.loads(call("spend", "--by=cluster", "--json", "--month", "2026-12")[1])
    assert [group["by"] for group in body] == [{"cluster": "local"}]
    refused = one_line(call("spend", "--by", "moth"))
    assert refused.startswith("--by 'moth': spending is not grouped by that; did you mean 'month'?")
    assert one_line(call("spend", "--month", "Nov")).endswith("is no month; write e.g. --month 2026-11")


def test_runs_that_have_ended_are_added_up_from_their_notes(tmp_path: Path) -> None:
    """Nobody folds the journal of a run that has ended and has told its sums."""
    played(tmp_path, "first", DONE)
    note = (tmp_path / "spend" / "first.json").read_text()
    journal = tmp_path / "first" / "journal.jsonl"
    journal.write_text("this would be damage\n")
    os.utime(journal, (time.time(), time.time()))
    for number in range(200):
        (tmp_path / "spend" / f"r{number}.json").write_text(note)
    (group,) = spent_groups(tmp_path, (), Wanted(), trust=False)
    assert group.runs == 201
    assert group.cost_usd == pytest.approx(201 * 20 * 4 / 3600 * PRICE)
