"""What the policy remembers of a run, folded from its events."""

from __future__ import annotations

from orchestrator.config.schema import RecoveryConfig
from orchestrator.events import (
    AttemptStarted,
    BatchesSkipped,
    CheckpointLoaded,
    Decided,
    Fault,
    NodeQuarantined,
    RunEnded,
    RunResumed,
    SnapshotQuarantined,
    Status,
    StopRequested,
)
from orchestrator.supervise.policy import Action, decide
from tests.support.histories import AT_15, dies, done, killed, nan, saved, story


def test_in_one_attempt_the_first_failure_counts_but_a_rejected_loss_most() -> None:
    history = story(done(1, 4), killed(1, 4))
    history.fold(dies(1, 4, Fault.HANG))
    assert [f.fault for f in history.failures] == [Fault.EXIT]
    history.fold(nan(1, 4))
    history.fold(nan(1, 5))
    assert [(f.fault, f.step) for f in history.failures] == [(Fault.LOSS, 4)]
    assert not history.may_restore(4, 1)


def test_a_loss_may_be_rejected_by_the_rank_itself() -> None:
    decision = decide(
        story(saved(1, 15), done(1, 20), dies(1, 20, Fault.LOSS)), RecoveryConfig(), can_skip=True
    )
    assert (decision.action, decision.restore_before, decision.skip) == (Action.REWIND, 20, (19,))


def test_what_was_saved_after_a_rejected_step_is_not_restored_until_it_is_saved_anew() -> None:
    history = story(AttemptStarted(1, "", 0, 2), saved(1, 15), nan(1, 20), saved(1, 20), saved(1, 25))
    assert history.restorable == [15]
    history.fold_all([CheckpointLoaded(2, 15, "step-15", "/checkpoints", 0.1), saved(2, 20)])
    assert history.restorable == [15, 20]
    history.fold(SnapshotQuarantined(20, "step-20", "/checkpoints", "rank 1's file differs from its hash"))
    assert history.restorable == [15]
    history.fold(CheckpointLoaded(3, 12, "step-12", "/elsewhere", 0.1))
    assert history.restorable == [12, 15]


def test_a_decision_that_a_lost_driver_did_not_finish_is_taken_again_alike() -> None:
    history = story(*AT_15, nan(1, 20))
    first = decide(history, RecoveryConfig(), can_skip=True)
    history.fold_all([BatchesSkipped(list(first.skip), first.reason), RunResumed("run", "")])
    assert decide(history, RecoveryConfig(), can_skip=True) == first
    assert history.idle_faults == 2
    assert history.skipped == [19]


def test_nodes_that_are_not_used_any_more_are_known_to_the_next_driver() -> None:
    history = story(NodeQuarantined("node-a", ""), RunResumed("run", ""))
    assert history.quarantined == ["node-a"]


def test_what_ends_at_a_request_is_no_failure() -> None:
    history = story(done(1, 5), StopRequested("Ctrl-C", 30), killed(1, 5))
    history.fold_all([RunEnded(Status.INTERRUPTED, ""), RunResumed("run", "")])
    assert history.failures == []
    history.fold_all([AttemptStarted(2, "", 0, 2), killed(2, 5)])
    assert len(history.failures) == 1


def test_a_run_that_was_given_up_begins_its_budgets_anew_but_not_its_batches() -> None:
    history = story(nan(1, 5), BatchesSkipped([4], ""), dies(2, 7), dies(3, 7), Decided("stop", ""))
    history.fold_all([RunEnded(Status.FAILED, ""), RunResumed("run", ""), dies(4, 7)])
    decision = decide(history, RecoveryConfig(), can_skip=True)
    assert decision.action is Action.RESTART
    assert "restart 1 of 3" in decision.reason
    assert history.skipped == [4]
    assert not history.may_restore(5, 1)


def test_a_run_that_ended_before_it_could_decide_has_that_left_to_do() -> None:
    history = story(dies(1, 7), nan(2, 9))
    history.fold_all([RunEnded(Status.FAILED, "no space left on device"), RunResumed("run", "")])
    assert [f.fault for f in history.failures] == [Fault.LOSS]
    assert decide(history, RecoveryConfig(), can_skip=True).action is Action.REWIND


def test_what_an_attempt_went_on_from_is_known_though_it_was_saved_by_another_run() -> None:
    history = story(AttemptStarted(1, "127.0.0.1", 29500, 2, 60, "disk"), killed(1, 60))
    decision = decide(history, RecoveryConfig(), can_skip=True)
    assert decision.reason.startswith("restart 1 of 3 from the checkpoint of step 60 or the newest whole one")
