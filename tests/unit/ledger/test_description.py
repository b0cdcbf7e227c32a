from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.events import (
    AttemptEnded,
    AttemptStarted,
    BudgetSettled,
    Event,
    Outcome,
    RankLost,
    Record,
    ResourcesGranted,
    RunEnded,
    RunStarted,
    Status,
    StepDone,
)
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.mlflow.client import MAX_TAG_CHARACTERS, MlflowRun
from orchestrator.ledger.mlflow.description import BEGINS, ENDS, description, placed, without
from orchestrator.ledger.mlflow.projection import Projection
from orchestrator.ledger.mlflow.tracking_file import Tracking
from orchestrator.ledger.mlflow.views import NOTE

GO_ON = "python -m orchestrator resume /r/night"
RUN = RunStarted(
    "r", "gpt", "lab", "H100", 4, 2.5, "GPU", 5, 1000, 1e9, 1e12,
    predicted_step_time_s=1.0, predicted_memory_bytes=60_000_000_000, predicted_cost_usd_per_step=1.0,
)  # fmt: skip


def lost(attempt: int, error: str = "boom") -> RankLost:
    return RankLost(attempt, 2, "n", "GPU 2", -9, 1, "killed by SIGKILL", error)


def records(incidents: int, end: Status, reason: str = "") -> list[Record]:
    told: list[tuple[float, Event]] = [(0, RUN), (0, ResourcesGranted(["n"], 4))]
    for attempt in range(1, incidents + 2):
        at = attempt * 1000.0
        told += [(at, AttemptStarted(attempt, "h", 1, 4)), (at + 500, StepDone(attempt, attempt, 1.0, 3.0))]
        if attempt <= incidents:
            told += [(at + 600, lost(attempt)), (at + 600, AttemptEnded(attempt, Outcome.FAILED, attempt))]
    told.append((told[-1][0] + 1, RunEnded(end, reason)))
    return [Record(seq, at, 1e9 + at, event) for seq, (at, event) in enumerate(told)]


def note_of(told: list[Record]) -> str:
    projection = Projection(1e9, {}, GO_ON)
    for record in told:
        projection.fold(record)
    return projection.note


def test_a_run_says_what_it_cost_what_was_predicted_and_what_broke() -> None:
    told = records(1, Status.FINISHED)
    note = note_of(told)
    # 2501 s on 4 GPUs at $2.50 an hour
    assert note.startswith("**finished**\n\n**$6.95** for 2.78 GPU-hours on 4 × H100 (lab);")
    assert "Step 2, 2k tokens at $3,473.61 per million, loss 3.000." in note
    assert "| cost of the steps done | $2.00 | $6.95 | × 3.47 |" in note
    assert "| recovering | 0:16:39 | 39.9% |" in note
    assert "**1 incident**: 1.11 GPU-hours, $2.77" in note
    assert "- $2.77: rank 2 on node n, GPU 2: killed by SIGKILL at step 1: boom; went on at step 2" in note
    assert "To go on" not in note, "it has finished"


def test_one_that_was_stopped_says_how_to_go_on_and_one_under_way_does_not() -> None:
    told = records(0, Status.INTERRUPTED, "Ctrl-C")
    assert "**interrupted**: Ctrl-C\n\n**$4" in note_of(told)
    assert f"To go on with it: `{GO_ON}`" in note_of(told)
    assert note_of(told[:-1]).startswith("**running**")
    assert "To go on" not in note_of(told[:-1])


def test_one_that_stopped_for_its_cap_says_the_cap_that_finishes_it() -> None:
    told = records(0, Status.BUDGET_REACHED, "")
    settled = BudgetSettled("budget.usd", 5.0, 4.9, 3.0, 2.0, 4.0)
    told.insert(-1, Record(len(told) - 1, told[-1].elapsed_s, told[-1].time_unix_s, settled))
    assert f"To go on with it: `{GO_ON} budget.usd=9.2`" in note_of(told)


def test_it_is_written_anew_seldom_however_long_the_run_is() -> None:
    projection, notes = Projection(1e9), set()
    steps = [StepDone(1, number, 60.0) for number in range(1, 43_200)]
    begin = [RUN, ResourcesGranted(["n"], 4), AttemptStarted(1, "h", 1, 4)]
    for seq, event in enumerate([*begin, *steps]):
        projection.fold(Record(seq, 60.0 * seq, 1e9 + 60.0 * seq, event))
        notes.add(projection.note)
    assert 10 < len(notes) < 60, "of a month"


def test_words_of_a_job_are_no_markup_and_much_of_them_is_cut() -> None:
    reason = "**bold** [click](javascript:alert(1)) <img src=x>\n\n# title | `x`" + "y" * 5000
    note = description(Ledger().fold_all(records(0, Status.FAILED)), "failed", reason, "")
    first = note.split("\n\n")[0]
    assert r"\*\*bold\*\* \[click\](javascript" in first
    assert r"\<img src=x\> \# title \| \`x\`" in first
    assert len(first) < 300


def test_of_many_incidents_the_newest_are_told_and_all_fits() -> None:
    told = records(300, Status.FAILED, "x" * 900)
    note = note_of(told)
    assert "**300 incidents**" in note
    assert "the first 288 are in `incidents.json`" in note
    assert len(placed(note, "")) < MAX_TAG_CHARACTERS


@given(st.text(), st.text())
def test_what_others_have_written_stays(before: str, after: str) -> None:
    mine = placed("first", before) + after
    assert placed("second", mine) == mine.replace(f"{BEGINS}\nfirst\n{ENDS}", f"{BEGINS}\nsecond\n{ENDS}")
    assert without(placed("second", before)) == before.strip()


@pytest.mark.parametrize("scripts", [None, "the script's"])
def test_the_description_keeps_what_somebody_wrote(scripts: str | None, tmp_path: Any) -> None:
    run = MlflowRun(tmp_path, Tracking("sqlite:///x.db", "e", "r"))
    run.run_id, tags, written = "1", {NOTE: placed("old", "a person's")}, []
    run._client = SimpleNamespace(  # type: ignore[assignment]
        get_run=lambda _: SimpleNamespace(data=SimpleNamespace(tags=tags)),
        set_tag=lambda _run, key, value: (tags.update({key: value}), written.append(value)),
    )
    run.write_note("ours", scripts)
    run.write_note("ours", scripts)
    assert written == [placed("ours", scripts or "a person's")], "once, where nothing has changed"
    tags[NOTE] = placed("old", "z" * 9000)
    run.write_note("new", None)
    assert len(tags[NOTE]) <= MAX_TAG_CHARACTERS
    assert placed("new", "") in tags[NOTE]
