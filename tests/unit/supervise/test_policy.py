"""The policy beside its table: which failures are the same, and what holds for any history."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from orchestrator.config.schema import RecoveryConfig
from orchestrator.events import (
    AttemptStarted,
    BatchesSkipped,
    Decided,
    Event,
    Fault,
    LossRejected,
    NodeDraining,
    RunResumed,
    SnapshotQuarantined,
)
from orchestrator.script_events import ScriptSaved
from orchestrator.supervise.history import History
from orchestrator.supervise.policy import Action, Decision, decide, signature
from tests.support.fakes import lost
from tests.support.histories import AT_15, ENGINE, begun, dies, done, killed, nan, own_save, saved, story

STRICT = RecoveryConfig(max_restarts=0)


@pytest.mark.parametrize("fault", [Fault.EXIT, Fault.MEMORY, Fault.HANG, Fault.NODE, Fault.RESTORE])
def test_strict_stops_at_the_first_fault_of_whatever_kind(fault: Fault) -> None:
    assert decide(story(dies(1, 7, fault)), STRICT, can_skip=True).action is Action.STOP
    assert decide(story(nan(1, 7)), STRICT, can_skip=True).action is Action.STOP


def test_numbers_that_vary_do_not_hide_a_repeated_failure() -> None:
    one, two = (lost(n, 5, f"RuntimeError: [10.0.0.{n}]:471{n} refused after {n}.5 s") for n in (1, 2))
    assert signature(one) == signature(two)
    assert signature(one) != signature(lost(1, 5, "RuntimeError: no route"))
    assert signature(one) != signature(dataclasses.replace(one, exit_status=2))


@pytest.mark.parametrize(
    "second",
    [dies(2, 6), dies(2, 5, error="KeyError"), dies(2, 5, Fault.MEMORY), dies(2, 5, Fault.HANG)],
    ids=["another step", "another error", "another cause", "a hang"],
)
def test_what_differs_is_not_the_same_failure(second: Event) -> None:
    assert decide(story(dies(1, 5), second), RecoveryConfig(), can_skip=True).action is Action.RESTART


@pytest.mark.parametrize("others", [{"rank": 1}, {"alike": 2}], ids=["another rank", "more ranks"])
def test_other_ranks_that_hang_are_another_hang(others: dict[str, int]) -> None:
    history = story(dies(1, 5, Fault.HANG), dies(2, 5, Fault.HANG, **others))
    assert decide(history, RecoveryConfig(), can_skip=True).action is Action.RESTART


def test_faults_of_nodes_and_of_the_driver_leave_the_budget_alone() -> None:
    history = story(done(1, 1), killed(1, 1), Decided("", ""))
    for attempt in range(2, 30):
        history.fold(done(attempt, attempt))
        history.fold(dies(attempt, attempt, Fault.NODE) if attempt % 2 else RunResumed("run", ""))
        assert decide(history, RecoveryConfig(), can_skip=True).action in (Action.REPLACE, Action.RESTART)
        history.fold(Decided("", ""))
    history.fold(killed(30, 29))
    assert "restart 2 of 3" in decide(history, RecoveryConfig(), can_skip=True).reason


def test_drained_nodes_count_against_nothing() -> None:
    strict = RecoveryConfig(max_restarts=0, max_faults_without_progress=0)
    history = story(done(1, 5))
    for attempt in range(1, 30):  # not a new step between them
        history.fold(AttemptStarted(attempt, "", 0, 2, 5))
        history.fold(NodeDraining(attempt, f"node-{attempt}", 5, None))
        history.fold(dies(attempt, 5))  # felt it
        assert decide(history, strict, can_skip=False, can_go_back=False).action is Action.REPLACE
        history.fold(Decided("replace", ""))
    assert history.idle_faults == 0
    history.fold_all([AttemptStarted(30, "", 0, 2, 5), dies(30, 5)])
    assert "restart 1 of 3" in decide(history, RecoveryConfig(), can_skip=False).reason
    assert history.idle_faults == 1


def test_the_caller_knows_better_what_can_be_restored() -> None:
    history = story(*AT_15, nan(1, 20), nan(2, 20))
    decision = decide(history, RecoveryConfig(), can_skip=True, restorable=[19])
    assert (decision.restore_before, decision.skip) == (20, (19,)), (
        "going back further would go to the beginning"
    )
    assert "the checkpoint of step 19" in decision.reason
    decision = decide(story(*AT_15, killed(1, 20)), RecoveryConfig(), can_skip=True, restorable=[])
    assert "from its start, without a checkpoint" in decision.reason


def test_going_back_is_not_forgotten_when_no_attempt_could_begin() -> None:
    history = story(*AT_15, saved(1, 20), nan(1, 20), Decided("rewind", ""))
    history.fold(dies(2, 20, Fault.NODE, "the node was lost before the attempt began"))
    decision = decide(history, RecoveryConfig(), can_skip=True, restorable=[10, 15, 20])
    assert (decision.action, decision.restore_before) == (Action.REPLACE, 20)
    assert "restart from the checkpoint of step 15" in decision.reason
    history.fold_all([Decided("replace", ""), RunResumed("run", "")])
    assert decide(history, RecoveryConfig(), can_skip=True).restore_before == 20
    history.fold_all([Decided("restart", ""), AttemptStarted(3, "", 0, 2, 15), killed(3, 17)])
    assert decide(history, RecoveryConfig(), can_skip=True).restore_before is None


def test_a_spike_may_be_usual() -> None:
    spike = LossRejected(1, 20, 9.5, "the loss 9.5 is 4 times 2.4")
    for can_skip, events in ((True, (spike,)), (False, (spike, dataclasses.replace(spike, attempt=2)))):
        reason = decide(story(*events), RecoveryConfig(max_skips=0), can_skip=can_skip).reason
        assert "raise recovery.loss_spike if such losses are usual" in reason
    assert "loss_spike" not in decide(story(nan(1, 20)), RecoveryConfig(max_skips=0), can_skip=True).reason


def test_many_batches_are_told_by_their_ends() -> None:
    history = story(done(1, 20), BatchesSkipped([25], ""), nan(1, 20))
    decision = decide(history, RecoveryConfig(skip_batches=200), can_skip=True)
    assert len(decision.skip) == 200
    assert "skip 200 batches from 19 to 219" in decision.reason


def test_nothing_open_is_nothing_to_decide() -> None:
    with pytest.raises(ValueError, match="nothing failed"):
        decide(story(killed(1, 5), Decided("restart", "")), RecoveryConfig(), can_skip=True)


FAULTS = st.tuples(
    st.sampled_from([f for f in Fault if f is not Fault.DRIVER]), st.integers(0, 30), st.integers(0, 3)
)


@example([(Fault.LOSS, 0, 0), (Fault.LOSS, 0, 0), (Fault.LOSS, 1, 0)], True, 3, 3)
@given(st.lists(FAULTS, min_size=1, max_size=12), st.booleans(), st.integers(0, 3), st.integers(0, 3))
def test_every_history_has_a_decision_and_no_budget_is_exceeded(
    faults: list[tuple[Fault, int, int]], can_skip: bool, restarts: int, skips: int
) -> None:
    recovery, history = RecoveryConfig(max_restarts=restarts, max_skips=skips), History()
    for attempt, (fault, step, rank) in enumerate(faults, 1):
        history.fold_all([AttemptStarted(attempt, "", 0, 2), done(attempt, step)])
        history.fold(dies(attempt, step, fault, f"error {'x' * attempt}", rank=rank))
        decision = decide(history, recovery, can_skip=can_skip)
        assert decide(history, recovery, can_skip=can_skip) == decision, "asked twice it says the same"
        if decision.action is Action.STOP:
            return
        kinds = [f.fault for f in history.failures]
        assert sum(kind in (Fault.EXIT, Fault.MEMORY, Fault.HANG) for kind in kinds) <= restarts
        assert kinds.count(Fault.LOSS) <= skips
        assert (decision.restore_before is not None) == (fault is Fault.LOSS)
        history.fold_all([BatchesSkipped(list(decision.skip), ""), Decided(decision.action, decision.reason)])


HALF = "FileNotFoundError: trainer_state.json"


def after_half(*events: Event) -> Decision:
    return decide(story(*events), RecoveryConfig(), can_skip=True)


def test_only_what_may_be_half_written_is_put_aside() -> None:
    at_15 = (*AT_15, killed(1, 20))
    assert after_half(*at_15, begun(2, 15), dies(2, 0, error=HALF)).restore_before == 15
    assert after_half(*at_15, begun(2, 15), killed(2, 0)).restore_before is None, "killed from outside"
    assert after_half(*at_15, begun(2, 15), dies(2, 0, Fault.HANG)).restore_before is None
    again = (begun(2, 15), done(2, 16), killed(2, 16), begun(3, 15), dies(3, 0, error=HALF))
    assert after_half(*at_15, *again).restore_before is None, "an attempt has begun from it already"
    plain = dataclasses.replace(begun(2, 15), restore_alone=False)  # type: ignore[type-var]
    assert after_half(*at_15, plain, dies(2, 0, error=HALF)).restore_before is None, (
        "sums have vouched for it"
    )
    of_another_run = (begun(1, 60), dies(1, 0, error=HALF))
    assert after_half(*of_another_run).restore_before is None, "another run's is not ours to put aside"


def test_where_none_is_before_it_a_checkpoint_is_tried_twice() -> None:
    first = (ENGINE, saved(1, 5), killed(1, 6), begun(2, 5), dies(2, 0, error=HALF))
    decision = after_half(*first)
    assert (decision.action, decision.restore_before) == (Action.RESTART, None)
    decision = after_half(*first, begun(3, 5), dies(3, 0, error=HALF))
    assert (decision.action, decision.restore_before) == (Action.RESTART, 5)
    assert "from its start, without a checkpoint; the folder of step 5 is put aside" in decision.reason


TEN, FIVE = "/kept/checkpoint-10", "/kept/checkpoint-5"


def test_what_a_script_has_saved_by_itself_is_put_aside_where_nothing_can_be_begun_from_it() -> None:
    first = (done(1, 11), killed(1, 11))
    decision = after_half(*first, own_save(2, TEN), dies(2, 0, error=HALF))
    assert (decision.action, decision.put_aside, decision.restore_before) == (Action.RESTART, TEN, None)
    assert decision.reason.startswith(
        "restart 2 of 3 from what the script has saved before; checkpoint-10 is put aside, from which nothing"
        " could be begun, after rank 0"
    )
    again = (*first, own_save(2, TEN), dies(2, 0, error=HALF), own_save(3, FIVE))
    assert after_half(*again, dies(3, 0, error=HALF)).action is Action.STOP, "it is the job's own"
    assert after_half(*again, dies(3, 0, error="OSError: another")).put_aside == FIVE


def test_a_script_s_own_save_stays_where_it_is_not_at_fault() -> None:
    first = (done(1, 11), killed(1, 11))
    assert after_half(*first, own_save(2, TEN), killed(2, 0)).put_aside == "", "killed from outside"
    assert after_half(*first, own_save(2, TEN), dies(2, 0, Fault.HANG)).put_aside == ""
    assert after_half(*first, own_save(2, TEN), dies(2, 1, error=HALF)).put_aside == "", "it has begun"
    begun_already = (*first, own_save(2, TEN), done(2, 11), killed(2, 11), own_save(3, TEN))
    assert after_half(*begun_already, dies(3, 0, error=HALF)).put_aside == ""
    anew = (*begun_already[:-1], ScriptSaved(2, 0, 12, f"{TEN}/model.pt", 0.1), own_save(3, TEN))
    assert after_half(*anew, dies(3, 0, error=HALF)).put_aside == TEN, "it was written anew"
    nobody_sees = (killed(1, 0), own_save(2, TEN), dies(2, 0, error=HALF))
    assert after_half(*nobody_sees).put_aside == "", "nobody knows whether it has begun"


def test_a_script_s_only_save_is_tried_twice() -> None:
    first = (done(1, 6), killed(1, 6), own_save(2, FIVE, False), dies(2, 0, error=HALF))
    assert (after_half(*first).action, after_half(*first).put_aside) == (Action.RESTART, "")
    decision = after_half(*first, own_save(3, FIVE, False), dies(3, 0, error=HALF))
    assert (decision.action, decision.put_aside) == (Action.RESTART, FIVE)
    assert "from its start; checkpoint-5 is put aside" in decision.reason


def test_nobody_knows_yet_what_a_script_without_deepspeed_has_saved() -> None:
    said = "restart 1 of 3 from what the script has saved by itself, else from its start, after rank 0"
    assert after_half(killed(1, 0)).reason.startswith(said)
    assert said not in after_half(ENGINE, killed(1, 0)).reason
    kept_out = decide(story(killed(1, 0)), RecoveryConfig(), can_skip=True, can_go_back=False)
    assert "from its start, without a checkpoint" in kept_out.reason


def test_what_fails_from_the_one_before_as_well_is_the_job_s_own() -> None:
    aside = SnapshotQuarantined(15, "step-15", "", "")
    events = (saved(1, 5), *AT_15, killed(1, 20), begun(2, 15), dies(2, 0, error=HALF), aside, begun(3, 10))
    decision = after_half(*events, dies(3, 0, error=HALF))
    assert (decision.action, decision.restore_before) == (Action.STOP, None)
    assert "the same failure came back" in decision.reason
    assert after_half(*events, dies(3, 0, error="OSError: another")).restore_before == 10
