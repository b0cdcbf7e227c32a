"""What a run would lose if it were stopped: the dollars since the newest state on the disk."""

from __future__ import annotations

import dataclasses

from orchestrator.event import Event
from orchestrator.events import (
    AttemptStarted,
    CheckpointSaved,
    Record,
    ResourcesReleased,
    RunResumed,
    SnapshotCommitted,
)
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.unsaved import Unsaved
from tests.support.timelines import step

STEP = step(1)


def after(*happened: tuple[float, Event]) -> float:
    """Dollars, after events each of which is at a bill of so many."""
    unsaved = Unsaved()
    for usd, event in happened:
        unsaved.observe(Record(0, 0.0, 0.0, event), dataclasses.replace(Ledger().bill(0.0), cost_usd=usd))
    return unsaved.at_risk_usd


def saved(step: int, staged: bool = True) -> CheckpointSaved:
    return CheckpointSaved(1, step, f"step-{step}", "/c", 0.1, staged)


def committed(step: int) -> SnapshotCommitted:
    return SnapshotCommitted(1, step, f"step-{step}", "/c", 1, 1.0)


def again(restore_step: int | None) -> AttemptStarted:
    return AttemptStarted(2, "10.0.0.1", 29500, 2, restore_step)


def test_it_grows_until_a_checkpoint_is_on_the_disk_and_counts_from_when_it_was_saved() -> None:
    begun = [(10.0, STEP), (12.0, saved(5)), (15.0, STEP)]
    assert after(*begun) == 15.0
    assert after(*begun, (16.0, committed(5))) == 4.0
    assert after(*begun, (16.0, committed(5)), (20.0, saved(9)), (21.0, committed(9)), (21.5, STEP)) == 1.5
    assert after(*begun, (16.0, committed(4))) == 16.0, "of one that was not seen nothing is known"


def test_a_script_that_writes_while_it_waits_is_safe_at_once() -> None:
    assert after((10.0, STEP), (12.0, saved(5, staged=False)), (13.0, STEP)) == 1.0


def test_what_a_fault_has_lost_is_not_at_risk_any_more() -> None:
    begun = [(10.0, saved(5)), (11.0, committed(5)), (30.0, STEP)]
    assert after(*begun, (32.0, again(5)), (33.0, STEP)) == 1.0
    assert after(*begun, (32.0, again(None)), (33.0, STEP)) == 1.0


def test_what_was_loaded_from_memory_is_at_risk_until_it_is_on_the_disk() -> None:
    begun = [(10.0, saved(5)), (11.0, committed(5)), (25.0, saved(8)), (30.0, STEP), (32.0, again(8))]
    assert after(*begun, (33.0, STEP)) == 16.0
    assert after(*begun, (34.0, committed(8)), (35.0, STEP)) == 3.0


def test_a_run_that_holds_nothing_loses_nothing_and_one_taken_up_begins_anew() -> None:
    assert after((10.0, STEP), (11.0, ResourcesReleased())) == 0.0
    assert after((50.0, RunResumed("r", "its driver was lost")), (52.0, STEP)) == 2.0
