from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.driver.resume import unfinished
from orchestrator.errors import RunDirectoryError
from orchestrator.events import AttemptStarted, LossRejected, RunEnded, RunStarted, Status, StepDone
from orchestrator.ledger.journal import Journal


def test_what_another_driver_has_done_since_is_known_to_the_one_that_takes_the_run_up(tmp_path: Path) -> None:
    """Between the first look at a run and the moment its directory is held somebody else may have had it."""
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        journal.append(RunStarted("r", "j", "local", "cpu", 2, 0.1))
        journal.append(AttemptStarted(1, "127.0.0.1", 29500, 2))
        journal.append(StepDone(1, 1, 0.5, 2.0))
    found = unfinished(tmp_path)
    assert found is not None
    assert found.resumed.because == "its driver was lost after step 1"
    with Journal(path) as journal:
        journal.append(AttemptStarted(2, "127.0.0.1", 29500, 2))
        journal.append(StepDone(2, 2, 0.5, 9.0))
        journal.append(LossRejected(2, 2, 9.0, "a spike"))
        journal.append(RunEnded(Status.INTERRUPTED, "stopped"))
    past = found.folded().resume_state
    assert (past.attempts, past.history.reached) == (2, 2)
    assert [loss for _, loss in past.losses._accepted] == [2.0], "a rejected loss is none to compare with"
    assert found.resumed.because == "it had ended as interrupted at step 2"
    with Journal(path, after=found.fold.mark) as journal:
        journal.append(RunEnded(Status.FINISHED, "the job ended by itself"))
    with pytest.raises(RunDirectoryError, match="its run has finished meanwhile"):
        found.folded()
    assert unfinished(tmp_path) is None
