"""The loop, with a group that plays a script and a clock that only the test moves."""

from __future__ import annotations

import dataclasses
import math
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator import errors
from orchestrator.config.schema import RecoveryConfig
from orchestrator.errors import NotEnoughResources, TrainingFailed
from orchestrator.events import (
    AttemptStarted,
    BatchesSkipped,
    Decided,
    Event,
    Fault,
    LossRejected,
    NodeDraining,
    NodeQuarantined,
    RankLost,
    ResourcesReleased,
    RunEnded,
    RunResumed,
    RunStarted,
    SnapshotCommitted,
    SnapshotQuarantined,
    Status,
    StepDone,
    StopRequested,
)
from orchestrator.script_events import ScriptSaveCompleted
from orchestrator.supervise.loop import ResumeState, StopRequest, SupervisorOptions, supervise
from orchestrator.supervise.policy import Action
from tests.support.fakes import FakeClock, FakeGroup, fail, names
from tests.support.histories import dies, done, killed, own_save

STARTED = RunStarted("run", "job", "cluster", "GPU", 2, 1.0)


def story(
    group: FakeGroup, recovery: RecoveryConfig | None = None, stop: StopRequest | None = None
) -> list[Event]:
    told = supervise(STARTED, group, recovery or RecoveryConfig(), FakeClock(), stop or StopRequest())
    return list(told)


def ended(events: list[Event]) -> RunEnded:
    last = events[-1]
    assert isinstance(last, RunEnded)
    assert isinstance(events[-2], ResourcesReleased)
    return last


def test_a_run_that_finishes_says_so_in_order() -> None:
    group = FakeGroup(steps=2, save_every=0)
    assert names(story(group)) == [
        "RunStarted", "ResourcesGranted", "AttemptStarted", "StepDone", "StepDone", "AttemptEnded",
        "ResourcesReleased", "RunEnded",
    ]  # fmt: skip
    assert group.calls == ["acquire", "start 1", "close"]


def test_a_lost_rank_restarts_from_the_last_complete_checkpoint() -> None:
    group = FakeGroup(steps=10, save_every=5, faults=[fail(rank=1).at(step=7).by("killed", -9)])
    events = story(group)
    assert ended(events).status is Status.FINISHED
    steps = [e.step for e in events if isinstance(e, StepDone)]
    assert steps == [1, 2, 3, 4, 5, 6, 7, 6, 7, 8, 9, 10]
    decided = next(e for e in events if isinstance(e, Decided))
    assert decided.action == Action.RESTART
    assert "checkpoint of step 5" in decided.reason


def test_the_same_failure_at_the_same_step_stops_with_a_diagnosis() -> None:
    fault = fail(rank=1).at(step=7).by("ValueError: bad sample 17")
    again = fail(rank=1).at(step=7).by("ValueError: bad sample 18")
    group = FakeGroup(steps=10, faults=[fault, again])
    last = ended(story(group))
    assert last.status is Status.FAILED
    assert "same failure came back at the same step" in last.reason
    assert "rank 1 on node-a (GPU 0) at step 7: ValueError: bad sample 18" in last.reason
    assert group.calls.count("close") == 1


def test_restarts_are_bounded() -> None:
    faults = [fail(rank=0).at(step=n).by(f"error {'x' * n}") for n in range(1, 9)]
    group = FakeGroup(steps=10, save_every=1, faults=list(faults))
    last = ended(story(group, RecoveryConfig(max_restarts=2)))
    assert "recovery.max_restarts=2" in last.reason
    assert [c for c in group.calls if c.startswith("start")] == ["start 1", "start 2", "start 3"]


def test_a_drained_node_is_left_with_all_steps_and_counts_against_nobody() -> None:
    group = FakeGroup(steps=10, save_every=5, drains=[(1, 3, 20.0), (1, 3, 20.0), (2, 7, None), (3, 8, -4.0)])
    events = story(group, RecoveryConfig(max_restarts=0, max_faults_without_progress=0, stop_grace_s=30.0))
    assert ended(events).status is Status.FINISHED
    assert [e.step for e in events if isinstance(e, StepDone)] == list(range(1, 11)), "none is done twice"
    assert [e.restore_step for e in events if isinstance(e, AttemptStarted)] == [None, 3, 7, 8]
    assert [e.action for e in events if isinstance(e, Decided)] == [Action.REPLACE] * 3
    assert [call for call in group.calls if call.startswith("stop")] == ["stop 20", "stop 30", "stop 5"]


def test_a_run_that_is_stopped_while_it_leaves_a_node_is_not_asked_twice() -> None:
    group, stop, told = FakeGroup(steps=10, drains=[(1, 3, None)], ignores_stop=True), StopRequest(), []
    for event in supervise(STARTED, group, RecoveryConfig(), FakeClock(), stop):
        told.append(event)
        if isinstance(event, NodeDraining):
            stop.ask("SIGTERM")
        if isinstance(event, StopRequested):
            group.ignores_stop = False
    assert ended(told).status is Status.INTERRUPTED
    assert [call for call in group.calls if call.startswith("stop")] == ["stop 30"]


def test_a_loss_that_is_rejected_while_a_node_is_left_stands_above_it() -> None:
    group = FakeGroup(steps=10, bad_batches=frozenset({2}), losses_come_late_by=1, drains=[(1, 3, None)])
    told = supervise(
        STARTED, group, RecoveryConfig(), FakeClock(), StopRequest(), SupervisorOptions(can_skip=True)
    )
    events = list(told)
    assert ended(events).status is Status.FINISHED
    assert [e.step for e in events if isinstance(e, LossRejected)] == [3]
    assert [e.action for e in events if isinstance(e, Decided)] == [Action.REWIND]
    assert group.skipped == [2]
    assert [e.restore_step for e in events if isinstance(e, AttemptStarted)] == [None, None]


def test_no_resources_is_an_end_on_record_and_an_error_for_the_caller() -> None:
    group = FakeGroup(refuse=NotEnoughResources("2 nodes are missing"))
    events: list[Event] = []
    told = supervise(STARTED, group, RecoveryConfig(), FakeClock(), StopRequest())
    with pytest.raises(NotEnoughResources, match="2 nodes are missing"):
        events.extend(told)
    assert ended(events) == RunEnded(Status.FAILED, "2 nodes are missing")
    assert group.calls == ["acquire", "close"]


def test_a_fault_of_our_own_is_on_record_before_it_is_raised() -> None:
    group = FakeGroup()
    group.poll = lambda: 1 / 0  # type: ignore[method-assign, assignment, return-value]
    told: list[Event] = []
    with pytest.raises(ZeroDivisionError):
        told.extend(supervise(STARTED, group, RecoveryConfig(), FakeClock(), StopRequest()))
    assert ended(told) == RunEnded(Status.FAILED, "ZeroDivisionError: division by zero")
    assert group.calls[-1] == "close"


def test_a_stop_while_waiting_is_an_interrupted_run() -> None:
    stop = StopRequest()
    stop.ask("Ctrl-C")
    last = ended(story(FakeGroup(waits=1), stop=stop))
    assert last.status is Status.INTERRUPTED
    assert "Ctrl-C while waiting" in last.reason


def test_one_stop_gives_the_grace_period_and_names_the_checkpoint() -> None:
    group, stop, events = FakeGroup(steps=100), StopRequest(), []
    for event in supervise(STARTED, group, RecoveryConfig(stop_grace_s=12), FakeClock(), stop):
        events.append(event)
        if isinstance(event, StepDone) and event.step == 6 and not stop.level:
            stop.ask("SIGTERM")
    assert ended(events).status is Status.INTERRUPTED
    assert ended(events).reason == "stopped by SIGTERM; the last complete checkpoint is of step 5"
    assert "stop 12" in group.calls
    assert "kill" not in group.calls


def test_a_second_stop_kills_at_once() -> None:
    group, stop, clock = FakeGroup(steps=100, ignores_stop=True), StopRequest(), FakeClock()
    events = []
    asked = clock.sleep

    def sleep(seconds: float) -> None:
        asked(seconds)
        if stop.level == 1:
            stop.ask("Ctrl-C")

    clock.sleep = sleep  # type: ignore[method-assign]
    for event in supervise(STARTED, group, RecoveryConfig(), clock, stop):
        events.append(event)
        if isinstance(event, StepDone) and event.step == 3 and not stop.level:
            stop.ask("Ctrl-C")
    assert ended(events).status is Status.INTERRUPTED
    assert [c for c in group.calls if c.startswith(("stop", "kill"))] == ["stop 30", "kill"]


@given(st.lists(st.integers(0, 30), max_size=12), st.integers(0, 5))
def test_whatever_fails_the_story_ends_once_and_leaves_nothing(steps: list[int], restarts: int) -> None:
    faults = [fail(rank=0).at(step=s).by(f"E{'abcdefghijkl'[i]}") for i, s in enumerate(steps)]
    group = FakeGroup(steps=20, save_every=3, faults=list(faults))
    events = story(group, RecoveryConfig(max_restarts=restarts))
    assert names(events).count("RunEnded") == 1
    assert names(events).count("AttemptStarted") == names(events).count("AttemptEnded") <= restarts + 1
    assert group.calls[-1] == "close"


def test_a_rejected_loss_goes_back_before_it_and_skips_its_batch() -> None:
    group = FakeGroup(steps=12, save_every=4, bad_batches=frozenset({9}))
    told = list(
        supervise(
            STARTED, group, RecoveryConfig(), FakeClock(), StopRequest(), SupervisorOptions(can_skip=True)
        )
    )
    assert ended(told).status is Status.FINISHED
    assert [e.batches for e in told if isinstance(e, BatchesSkipped)] == [[9]]
    assert [e.step for e in told if isinstance(e, LossRejected)] == [10]
    assert group.calls.count("abort") == 1
    attempts = [e.restore_step for e in told if isinstance(e, AttemptStarted)]
    assert attempts == [None, 8]
    last = {e.step: e.loss for e in told if isinstance(e, StepDone)}
    assert all(loss is not None and math.isfinite(loss) for loss in last.values())


def test_checkpoints_after_a_rejected_loss_are_not_gone_on_from() -> None:
    """The loss of step 10 is heard of when step 12 is saved already."""
    group = FakeGroup(steps=12, save_every=4, bad_batches=frozenset({9}), losses_come_late_by=3)
    told = list(
        supervise(
            STARTED, group, RecoveryConfig(), FakeClock(), StopRequest(), SupervisorOptions(can_skip=True)
        )
    )
    assert ended(told).status is Status.FINISHED
    assert [e.restore_step for e in told if isinstance(e, AttemptStarted)] == [None, 8]


def test_a_node_lost_while_an_attempt_is_prepared_is_a_fault_like_others() -> None:
    group = FakeGroup(steps=4, lost_at_start=2)
    told = story(group)
    assert ended(told).status is Status.FINISHED
    assert [e.fault for e in told if isinstance(e, RankLost)] == [Fault.NODE, Fault.NODE]
    assert [e.action for e in told if isinstance(e, Decided)] == [Action.REPLACE, Action.REPLACE]
    assert [c for c in group.calls if c.startswith("start")] == ["start 1", "start 2", "start 3"]


def test_a_node_that_cannot_end_its_processes_is_not_used_again() -> None:
    outlived = (
        fail(rank=1).at(step=3).by("outlived SIGKILL by 15 s", -9).as_fault(Fault.NODE, node_unusable=True)
    )
    group = FakeGroup(steps=6, faults=[outlived])
    told = story(group)
    assert ended(told).status is Status.FINISHED
    assert [e.node for e in told if isinstance(e, NodeQuarantined)] == ["node-a"]
    assert "quarantine node-a" in group.calls


def test_a_run_that_is_taken_up_decides_what_the_driver_before_could_not() -> None:
    group = FakeGroup(steps=10, save_every=5, faults=[None, None])
    first = FakeGroup(steps=10, save_every=5)
    resume_state = ResumeState()
    for event in supervise(STARTED, first, RecoveryConfig(), FakeClock(), StopRequest()):
        resume_state.fold(event)
        if isinstance(event, StepDone) and event.step == 7:
            break  # the driver dies here
    group.checkpoints = first.checkpoints
    resumed = RunResumed("run", "its driver was lost after step 7")
    told = list(
        supervise(resumed, group, RecoveryConfig(), FakeClock(), StopRequest(), resume_state=resume_state)
    )
    assert ended(told).status is Status.FINISHED
    assert names(told)[:4] == ["RunResumed", "ResourcesGranted", "Decided", "AttemptStarted"]
    started = next(e for e in told if isinstance(e, AttemptStarted))
    assert (started.attempt, started.restore_step) == (2, 5)
    assert [e.step for e in told if isinstance(e, StepDone)] == [6, 7, 8, 9, 10]


def test_a_run_does_not_begin_anew_by_itself_once_a_checkpoint_was_committed() -> None:
    resume_state = ResumeState()
    for event in (
        STARTED,
        AttemptStarted(1, "127.0.0.1", 29500, 2),
        SnapshotCommitted(1, 5, "step-5", "/c", 10, 0.1),
    ):
        resume_state.fold(event)
    group = FakeGroup(steps=10)
    told: list[Event] = []
    with pytest.raises(
        TrainingFailed, match="checkpoint of step 5 was committed, and the nodes of this attempt"
    ):
        told.extend(
            supervise(
                RunResumed("run", "x"),
                group,
                RecoveryConfig(),
                FakeClock(),
                StopRequest(),
                resume_state=resume_state,
            )
        )
    assert ended(told).status is Status.FAILED
    assert group.calls[-1] == "close"


def test_it_does_where_the_checkpoint_is_quarantined_on_the_way() -> None:
    resume_state = ResumeState()
    for event in (
        STARTED,
        AttemptStarted(1, "127.0.0.1", 29500, 2),
        SnapshotCommitted(1, 5, "step-5", "/c", 10, 0.1),
    ):
        resume_state.fold(event)
    group = FakeGroup(steps=10)
    group._queue.append(SnapshotQuarantined(5, "step-5", "/c/.quarantine/step-5.1", "sha256 differs"))
    resumed = RunResumed("run", "x")
    told = list(
        supervise(resumed, group, RecoveryConfig(), FakeClock(), StopRequest(), resume_state=resume_state)
    )
    assert ended(told).status is Status.FINISHED


def test_nodes_that_were_quarantined_before_are_so_for_the_next_driver_too() -> None:
    resume_state = ResumeState()
    resume_state.fold(NodeQuarantined("node-b", "it outlived"))
    group = FakeGroup(steps=2)
    list(
        supervise(
            RunResumed("run", "x"),
            group,
            RecoveryConfig(),
            FakeClock(),
            StopRequest(),
            resume_state=resume_state,
        )
    )
    assert group.calls[0] == "quarantine node-b"


ERRORS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, errors.OrchestratorError)
]


@pytest.mark.parametrize("kind", ERRORS)
def test_every_error_survives_pickling(kind: type[errors.OrchestratorError]) -> None:
    error = pickle.loads(pickle.dumps(kind("a message")))
    assert type(error) is kind
    assert str(error) == "a message"
    assert error.exit_code > 0


def test_events_are_immutable() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        STARTED.run = "other"  # type: ignore[misc]


def test_an_interrupted_run_names_what_its_script_has_saved_by_itself() -> None:
    resume_state, stop = ResumeState(), StopRequest()
    resume_state.fold(ScriptSaveCompleted(1, 9, "/kept/step_9", 100))
    stop.ask("Ctrl-C")
    group = FakeGroup(steps=4, save_every=9)
    told = list(supervise(STARTED, group, RecoveryConfig(), FakeClock(), stop, resume_state=resume_state))
    assert ended(told).reason == "stopped by Ctrl-C; the script has saved /kept/step_9 after step 9"


def test_the_group_is_told_what_to_put_aside_also_by_the_driver_that_comes_after() -> None:
    resume_state = ResumeState()
    undecided = (
        done(1, 11),
        killed(1, 11),
        Decided("", ""),
        own_save(2, "/kept/10.pt"),
        dies(2, 0, error="E"),
    )
    for event in (STARTED, *undecided):
        resume_state.fold(event)
    group, resumed = FakeGroup(steps=2), RunResumed("run", "x")
    told = list(
        supervise(resumed, group, RecoveryConfig(), FakeClock(), StopRequest(), resume_state=resume_state)
    )
    assert ended(told).status is Status.FINISHED
    assert group.put_aside == ["/kept/10.pt"]


def test_nodes_that_are_left_out_are_on_record_before_any_is_taken() -> None:
    group, options = FakeGroup(steps=1, save_every=0), SupervisorOptions(leave_out={"bad": "half as fast"})
    told = list(supervise(STARTED, group, RecoveryConfig(), FakeClock(), StopRequest(), options))
    assert names(told)[:3] == ["RunStarted", "NodeQuarantined", "ResourcesGranted"]
    assert NodeQuarantined("bad", "half as fast") in told
    assert group.calls[:2] == ["quarantine bad", "acquire"]
