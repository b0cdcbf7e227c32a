from __future__ import annotations

import pytest

from orchestrator.events import (
    AttemptEnded,
    BatchesSkipped,
    CheckpointLoaded,
    CheckpointSaved,
    CheckpointWriteBlocked,
    CheckpointWriteResumed,
    Decided,
    Event,
    Fault,
    LossRejected,
    NodeChecked,
    NodeDraining,
    NodeQuarantined,
    Outcome,
    Record,
    ResourcesReleased,
    RunEnded,
    RunResumed,
    SnapshotQuarantined,
    Status,
    StepDone,
    StopRequested,
)
from orchestrator.ledger.incident import Incident, Trouble
from orchestrator.ledger.ledger import Ledger
from tests.support.played_runs import BEGIN, GRANTED, PRICE, Timeline, lost, records, started, steps


def of(*timeline: tuple[float, Event]) -> list[Incident]:
    return Ledger().fold_all(records(timeline)).incidents()


def gpu_s(incident: Incident) -> float:
    return round(incident.gpu_hours * 3600, 6)


def test_a_killed_rank() -> None:
    """The meter's own example: 30 s until it was noticed, 6 s to get going again, one step redone."""
    (incident,) = of(
        *BEGIN,
        (2, StepDone(1, 1, 1.0)),
        (3, StepDone(1, 2, 1.0)),
        (4, CheckpointSaved(1, 2, "step-2", "/c", 0.5)),
        (5, StepDone(1, 3, 1.0)),
        (35, lost(1, 3, detected_s=29.0, error="RuntimeError: boom\nwith more", alike=3)),
        (36, AttemptEnded(1, Outcome.FAILED, 3)),
        (36, Decided("restart", "restart 1 of 3 from step 2")),
        (37, started(2, 2, "memory")),
        (42, StepDone(2, 3, 1.0)),
        (43, StepDone(2, 4, 1.0)),
    )
    assert incident.what == (
        "rank 2 on node n0, GPU 2: killed by SIGKILL at step 3 (2 other ranks alike): RuntimeError: boom"
    )
    assert (incident.number, incident.fault, incident.attempt, incident.step) == (1, "exit", 1, 3)
    assert (incident.node, incident.gpu, incident.rank) == ("n0", "GPU 2", 2)
    assert (incident.at_elapsed_s, incident.time_unix_s) == (35, 1.7e9 + 35)
    assert (incident.detected_after_s, incident.recovered_after_s) == (29.0, 7 + 29.0)
    assert incident.redone_steps == 1
    assert gpu_s(incident) == 4 * (30 + 6 + 1)
    assert incident.cost_usd == pytest.approx(4 * 37 / 3600 * PRICE)
    assert (incident.action, incident.reason) == ("restart", "restart 1 of 3 from step 2")
    assert incident.done == "restored step 2 from memory"


def test_a_fault_during_a_recovery_takes_over_what_follows_but_not_what_was_lost_before() -> None:
    first, second = of(
        *BEGIN,
        *steps(1, 1, 10, at=1),
        (10, CheckpointSaved(1, 4, "step-4", "/c", 0.0)),
        (12, lost(1, 10)),
        (13, AttemptEnded(1, Outcome.FAILED, 10)),
        (13, started(2, 4, "disk")),
        *steps(2, 5, 6, at=16),  # redone for the first fault: 5, 6
        (18, lost(2, 6, rank=0)),
        (18, AttemptEnded(2, Outcome.FAILED, 6)),
        (18, Decided("restart", "again")),
        (19, started(3, 4, "disk")),
        *steps(3, 5, 12, at=22),  # 5 and 6 for the second, 7 to 10 for the first
    )
    assert (first.redone_steps, second.redone_steps) == (2 + 4, 2)
    assert (first.recovered_after_s, second.recovered_after_s) == (4, 4)
    assert gpu_s(first) == 4 * ((2 + 3) + 6)
    assert gpu_s(second) == 4 * ((1 + 3) + 2)
    assert (first.action, second.action) == (None, "restart")


def test_two_faults_before_the_next_step_are_recovered_from_together() -> None:
    first, second = of(
        *BEGIN,
        *steps(1, 1, 4, at=1),
        (5, lost(1, 4)),
        (5, AttemptEnded(1, Outcome.FAILED, 4)),
        (5, started(2, 2, "memory")),
        (9, lost(2, 2, fault=Fault.RESTORE)),
        (9, AttemptEnded(2, Outcome.FAILED, 2)),
        (10, started(3, 2, "disk")),
        *steps(3, 3, 5, at=12),
    )
    assert (first.recovered_after_s, second.recovered_after_s) == (7, 3)
    assert (first.redone_steps, second.redone_steps) == (2, 0), "the second lost no step"
    assert (gpu_s(first), gpu_s(second)) == (4 * (1 + 4 + 2), 4 * 2)
    assert first.done == second.done == "restored step 2 from disk"


def test_two_faults_at_once_are_two_incidents_and_cost_once() -> None:
    timeline = [
        *BEGIN,
        *steps(1, 1, 4, at=1),
        (6, lost(1, 4, alike=2)),
        (6, lost(1, 4, rank=3)),  # one of the two alike
        (6, lost(1, 4, rank=0, node="n1", exit_status=1, error="MemoryError", reason="exited with status 1")),
        (7, AttemptEnded(1, Outcome.FAILED, 4)),
        (7, Decided("restart", "")),
        (7, started(2)),
        *steps(2, 1, 1, at=10),
    ]
    first, second = of(*timeline)
    assert (gpu_s(first), gpu_s(second)) == (4 * (2 + 3 + 1), 0)
    assert (first.action, second.action) == ("restart", "restart")
    assert (first.recovered_after_s, second.recovered_after_s) == (4, 4)
    assert second.node == "n1"
    assert first.done == "began again at step 1"


def test_a_rejected_loss_is_one_incident_with_all_that_follows_from_it() -> None:
    (incident,) = of(
        *BEGIN,
        *steps(1, 1, 6, at=1),
        (7, LossRejected(1, 6, float("nan"), "it is NaN")),
        (7, StepDone(1, 7, 0.5)),
        (8, lost(1, 7, fault=Fault.LOSS)),
        (8, AttemptEnded(1, Outcome.FAILED, 7)),
        (8, BatchesSkipped([5, 6, 7], "")),
        (8, Decided("rewind", "rewind 1 of 3")),
        (8, SnapshotQuarantined(6, "step-6", "/c", "it follows step 6, whose loss was rejected")),
        (9, started(2, 4, "disk")),
        *steps(2, 5, 8, at=12),
    )
    assert (incident.fault, incident.step, incident.rank) == ("loss", 6, 2)
    assert incident.what == "the loss of step 6 was rejected: it is NaN"
    assert incident.done == "batches 5–7 left out; checkpoint step-6 quarantined; restored step 4 from disk"
    assert (incident.redone_steps, incident.action) == (3, "rewind")
    assert gpu_s(incident) == 4 * (1 + 1 + 1 + 2 + 3)


def test_a_stop_by_somebody_is_no_incident_and_pays_for_what_is_done_again() -> None:
    stopped: list[tuple[float, Event]] = [
        *BEGIN, *steps(1, 1, 5, at=1), (5.5, StopRequested("Ctrl-C", 30.0)),
        (6, AttemptEnded(1, Outcome.STOPPED, 5)), (6, ResourcesReleased()), (6, RunEnded(Status.INTERRUPTED, "")),
        (6, RunResumed("night-1", "it had ended as interrupted at step 5")), (8, GRANTED),
        (9, started(2, 3, "disk")), *steps(2, 4, 6, at=12),
    ]  # fmt: skip
    assert of(*stopped) == []
    (incident,) = of(*stopped, (20, lost(2, 6)), (21, started(3, 6, "disk")), *steps(3, 7, 8, at=22))
    assert (incident.number, incident.fault, incident.redone_steps) == (1, "exit", 0)


def test_a_dead_driver() -> None:
    timeline = records(
        [
            *BEGIN,
            *steps(1, 1, 5, at=1),
            (5.5, RunResumed("night-1", "its driver was lost after step 5")),
            (8, GRANTED),
            (9, started(2, 3, "disk")),
            *steps(2, 4, 6, at=12),
        ]
    )
    later = [
        Record(r.seq, r.elapsed_s, r.time_unix_s + 60 * (r.elapsed_s > 5.2), r.event) for r in timeline
    ]  # a minute that is on no clock of the run's
    (incident,) = Ledger().fold_all(later).incidents()
    assert incident.fault == "driver"
    assert incident.what == (
        "the run was taken up again 60.5 s after its last word: its driver was lost after step 5"
    )
    assert (incident.step, incident.attempt, incident.node, incident.rank) == (5, 1, None, None)
    assert (incident.detected_after_s, incident.recovered_after_s) == (None, 6.5)
    assert incident.redone_steps == 2
    assert gpu_s(incident) == 4 * (0.5 + 3 + 2), (
        "from the last step on, without the time in which nothing was held"
    )
    assert incident.done == "restored step 3 from disk"


def test_a_bad_checkpoint_pays_for_the_steps_that_it_would_have_saved() -> None:
    fault, checkpoint = of(
        *BEGIN,
        *steps(1, 1, 10, at=1),
        (10, lost(1, 10)),
        (10, AttemptEnded(1, Outcome.FAILED, 10)),
        (10, SnapshotQuarantined(8, "step-8", "/c", "mp_rank_00_model_states.pt: sha256 differs")),
        (10, started(2, 4, "disk")),
        *steps(2, 5, 11, at=12),
    )
    assert (checkpoint.fault, checkpoint.step, checkpoint.action) == ("checkpoint", 8, None)
    assert checkpoint.what == "checkpoint step-8 was quarantined: mp_rank_00_model_states.pt: sha256 differs"
    assert (fault.redone_steps, checkpoint.redone_steps) == (2, 4)
    assert (gpu_s(fault), gpu_s(checkpoint)) == (4 * (1 + 2), 4 * 4)
    assert fault.done == checkpoint.done == "restored step 4 from disk"


def test_a_rank_that_found_no_space_is_recovered_from_as_from_any_fault() -> None:
    """It is another thing than a checkpoint that waits for a full disk."""
    (incident,) = of(
        *BEGIN,
        *steps(1, 1, 2, at=1),
        (3, lost(1, 2, fault=Fault.DISK, error="OSError: [Errno 28] No space left on device")),
        (4, started(2, 2, "memory")),
        (7, StepDone(2, 3, 1.0)),
    )
    assert (incident.fault, incident.recovered_after_s, incident.done) == (
        "disk",
        4.0,
        "restored step 2 from memory",
    )
    assert gpu_s(incident) == 4 * (1 + 3)


def test_kinds_of_incidents_are_told_apart_by_their_names() -> None:
    assert not set(map(str, Fault)) & set(map(str, Trouble))


def test_a_full_disk_costs_nothing_of_its_own() -> None:
    held = CheckpointWriteBlocked("n1", "No space left on device")
    still, freed = of(
        *BEGIN,
        *steps(1, 1, 3, at=1),
        (3.5, CheckpointWriteBlocked("n0", "x")),
        (4, held),
        *steps(1, 4, 9, at=4.5),
        (9.6, CheckpointWriteBlocked("n0", "given up")),
        (10, CheckpointWriteResumed("n1", 6.0)),
    )
    assert (freed.fault, freed.node, freed.step) == ("write_blocked", "n1", 3)
    assert (freed.recovered_after_s, freed.cost_usd, freed.done) == (6.0, 0, "wrote it after 6.00 s")
    assert (still.node, still.recovered_after_s, still.done) == ("n0", None, "given up")


def test_a_run_that_is_given_up_and_taken_up_again() -> None:
    begin: Timeline = [
        *BEGIN,
        *steps(1, 1, 2, at=1),
        (3, lost(1, 2, fault=Fault.NODE, gpu="the whole node", error="its agent died")),
        (3, AttemptEnded(1, Outcome.FAILED, 2)),
        (3, NodeQuarantined("n0", "")),
        (3, Decided("stop", "stop: no restarts are allowed")),
        (4, ResourcesReleased()),
        (4, RunEnded(Status.FAILED, "stop")),
    ]
    (given_up,) = of(*begin)
    assert given_up.what == "node n0: lost at step 2: its agent died"
    assert (given_up.action, given_up.recovered_after_s) == ("stop", None)
    assert given_up.done == "node n0 quarantined; the run ended, failed"
    node, driver = of(*begin, (4, RunResumed("night-1", "it had ended as failed at step 2")), (5, GRANTED),
                      (5, started(2)), *steps(2, 1, 3, at=7))  # fmt: skip
    assert node.done == "node n0 quarantined; began again at step 1"
    assert (node.recovered_after_s, driver.recovered_after_s) == (4, 3)
    assert (node.redone_steps, driver.redone_steps) == (2, 0)
    assert (node.action, driver.action) == ("stop", None)


def test_an_attempt_that_fails_without_a_word_is_an_incident_and_a_stopped_one_is_none() -> None:
    failed = AttemptEnded(1, Outcome.FAILED, 2)
    (incident,) = of(*BEGIN, *steps(1, 1, 2, at=1), (3, failed), (4, started(2)), *steps(2, 1, 1, at=6))
    assert (incident.what, incident.fault) == ("attempt 1 failed at step 2", "exit")
    assert of(*BEGIN, *steps(1, 1, 2, at=1), (3, StopRequested("Ctrl-C", 30)), (4, failed)) == []


def test_a_script_that_loads_by_itself() -> None:
    (incident,) = of(*BEGIN, *steps(1, 1, 9, at=1), (9, lost(1, 9)), (9, AttemptEnded(1, Outcome.FAILED, 9)),
                     (9, started(2)), (11, CheckpointLoaded(2, 8, "step-8", "/c", 0.1)),
                     *steps(2, 9, 9, at=12))  # fmt: skip
    assert incident.done == "loaded step 8 by itself"


def test_what_a_check_of_the_node_found_is_in_the_incident() -> None:
    def checked(well: bool, found: str) -> Incident:
        (incident,) = of(*BEGIN, *steps(1, 1, 9, at=1), (9, lost(1, 9)), (9, AttemptEnded(1, Outcome.FAILED, 9)),
                         (20, NodeChecked(1, "n0", well, found, 9.5)), (20, Decided("restart", "again")),
                         (21, started(2, 9, "disk")), *steps(2, 10, 10, at=24))  # fmt: skip
        return incident

    assert checked(True, "").checked == "well"
    assert checked(True, "").done == "node n0 was checked: well; restored step 9 from disk"
    assert checked(False, "memory errors, 2").checked == "memory errors, 2"
    assert gpu_s(checked(True, "")) == 4 * (23 - 9), "the time of the check is the fault's"


def test_a_drained_node_costs_its_recovery_and_no_step() -> None:
    (incident,) = of(
        *BEGIN,
        *steps(1, 1, 4, at=1),
        (4.5, NodeDraining(1, "n1", 4, 27.53)),
        (5, StepDone(1, 5, 1.0)),
        (6, CheckpointSaved(1, 5, "step-5", "/c", 1.0)),
        (7, AttemptEnded(1, Outcome.STOPPED, 5)),
        (7, Decided("replace", "n1 is being drained: wait for another node")),
        (9, started(2, 5, "disk")),
        (12, StepDone(2, 6, 1.0)),
    )
    assert (incident.fault, incident.node, incident.rank) == ("drain", "n1", None)
    assert incident.what == "node n1 is being drained, 27.5 s are left"
    assert (incident.redone_steps, incident.recovered_after_s) == (0, 7.5)
    assert gpu_s(incident) == 4 * (1 + 2 + 2)
    assert (incident.action, incident.done) == ("replace", "restored step 5 from disk")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault.EXIT, "rank 2 on node n0, GPU 2: killed by SIGKILL at step 7"),
        (Fault.MEMORY, "rank 2 on node n0, GPU 2: killed by SIGKILL as the host ran out of memory at step 7"),
        (Fault.HANG, "rank 2 on node n0, GPU 2: made no progress any more at step 7"),
        (Fault.NODE, "node n0: lost at step 7"),
        (Fault.LOSS, "rank 2 on node n0, GPU 2: its loss was rejected at step 7"),
        (
            Fault.RESTORE,
            "rank 2 on node n0, GPU 2: did not load the checkpoint that it was told to at step 7",
        ),
        (Fault.DRIVER, "the run's own process: lost at step 7"),
    ],
)
def test_every_kind_of_fault_is_said_in_its_own_words(fault: Fault, words: str) -> None:
    (incident,) = of(*BEGIN, (1, lost(1, 7, fault=fault, reason="why")))
    assert incident.what == f"{words}: why"
    assert incident.fault == fault.value


def test_a_run_under_way_is_counted_up_to_now() -> None:
    folded = Ledger().fold_all(records([*BEGIN, *steps(1, 1, 3, at=1), (4, lost(1, 3))]))
    assert gpu_s(folded.incidents()[0]) == 4 * 1
    assert gpu_s(folded.incidents(now_elapsed_s=14)[0]) == 4 * 11
    folded.fold(Record(99, 5, 1.7e9, started(2)))
    folded.fold(Record(100, 6, 1.7e9, StepDone(2, 1, 0.5)))
    assert gpu_s(folded.incidents(now_elapsed_s=16)[0]) == 4 * (1 + 2 + 10), (
        "the step under way is to be redone too"
    )


@pytest.mark.parametrize(
    ("first_step", "done"),
    [(1, "began again at step 1"), (3, "went on at step 3, from a snapshot of the script's own")],
)
def test_what_an_attempt_without_a_checkpoint_of_ours_begins_at_is_said_when_it_is_known(
    first_step: int, done: str
) -> None:
    fault: Timeline = [
        *BEGIN,
        *steps(1, 1, 4, at=1),
        (5, lost(1, 4)),
        (5, AttemptEnded(1, Outcome.FAILED, 4)),
    ]
    (before,) = of(*fault, (6, started(2)))
    assert before.done == "restarted without a checkpoint of ours"
    (after,) = of(*fault, (6, started(2)), *steps(2, first_step, 5, at=7))
    assert after.done == done
