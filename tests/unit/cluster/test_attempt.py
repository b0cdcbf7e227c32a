"""From the nodes' parts to events: folding, naming the cause, ending once."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.agent.gather import MOST_NAMED, Gather, fold_steps, part_of, shortened
from orchestrator.agent.messages import (
    Gathered,
    LinePrinted,
    OpBuilding,
    RankExited,
    RankMute,
    RankPhases,
    RankRaised,
    RankSavedFile,
    RankSaveWhole,
    RanksSaved,
    RankTracked,
    RankWithoutEngine,
)
from orchestrator.cluster.attempt import HOLD_OUTPUT_S, OWN_WORDS_S, SETTLE_S, Attempt
from orchestrator.events import (
    AttemptEnded,
    CheckpointSaved,
    Fault,
    NodeQuarantined,
    Outcome,
    PhaseEntered,
    ProbesFailed,
    RankLost,
    RankOutput,
    ScriptTracked,
    StepDone,
)
from orchestrator.rank.messages import StepTaken
from orchestrator.script_events import (
    LossNotFinite,
    OpCompiled,
    OpCompiling,
    ScriptSaveCompleted,
    ScriptSaved,
    StepsWithoutEngine,
)
from orchestrator.text import exit_in_words


def exited(
    rank: int, status: int = 1, error: str | None = None, time: float = 0.0, **more: Any
) -> RankExited:
    return RankExited(rank, f"GPU {rank}", status, 4, time, error, **more)


def step_part(step: int, loss: float | None = 1.0, rank: int = 0, **more: Any) -> Gathered:
    return part_of(rank, StepTaken(step, loss=loss, **{"step_time_s": 0.1, **more}))


def attempt_on(nodes: int = 1, ranks_per_node: int = 2) -> Attempt:
    return Attempt(1, [f"node-{n}" for n in range(nodes)], ranks_per_node)


def test_what_a_script_tells_mlflow_is_an_event_without_secrets() -> None:
    part = RankTracked(0, {"a": [[1, 5, 0.5]]}, {"lr": "1", "hub_password": "swordfish"}, {"note": "x"})
    assert attempt_on().receive(0, part, 0.0) == [
        ScriptTracked(1, 0, part.metrics, {"lr": "1", "hub_password": "***"}, {"note": "x"})
    ]


@given(st.lists(st.floats(-1e6, 1e6), min_size=4, max_size=4), st.randoms())
def test_the_loss_does_not_depend_on_who_answers_first(losses: list[float], order: random.Random) -> None:
    seen = set()
    for _ in range(3):
        attempt = attempt_on(nodes=2)
        nodes = [Gather(2), Gather(2)]
        parts = [(rank // 2, step_part(7, loss)) for rank, loss in enumerate(losses)]
        order.shuffle(parts)
        events = []
        for node, part in parts:
            if whole := nodes[node].add(part):
                events += attempt.receive(node, whole, 0.0)
        assert len(events) == 1
        assert isinstance(events[0], StepDone)
        seen.add(events[0].loss)
    assert seen == {shortened(math.fsum(losses) / 4, 7)}


def test_the_slowest_rank_sets_the_step_time_and_no_loss_is_none() -> None:
    gather = Gather(2)
    assert gather.add(step_part(1, None, step_time_s=0.1)) is None
    whole = gather.add(step_part(1, None, step_time_s=0.3, lr=1e-3))
    assert whole is not None
    assert attempt_on().receive(0, whole, 0.0) == [StepDone(1, 1, 0.3, None, 1e-3, None)]


def test_a_step_is_skipped_where_one_rank_found_its_loss_scale_too_high() -> None:
    gather = Gather(2)
    gather.add(step_part(1))
    whole = gather.add(step_part(1, skipped=True))
    assert whole is not None
    assert attempt_on().receive(0, whole, 0.0) == [StepDone(1, 1, 0.1, 1.0, skipped=True)]


def test_a_rank_that_skips_a_step_does_not_make_the_gatherer_grow() -> None:
    gather = Gather(2)
    for step in range(100):
        gather.add(step_part(step))
        if step % 10 == 0:
            gather.add(step_part(step))
    assert len(gather._waiting) < 10


def test_a_checkpoint_counts_once_all_ranks_have_saved() -> None:
    attempt = attempt_on(nodes=2)
    part = RanksSaved(5, 2, "step-5", "/c", 0.2, staged=True)
    assert attempt.receive(0, part, 0.0) == []
    assert attempt.receive(1, dataclasses.replace(part, seconds=0.7), 0.0) == [
        CheckpointSaved(1, 5, "step-5", "/c", 0.7, True)
    ]


def test_ranks_whose_probes_have_failed_are_not_waited_for_but_what_they_save_is() -> None:
    attempt = attempt_on(nodes=2, ranks_per_node=1)
    failed = RankMute(1, "step", "RuntimeError: no norm")
    told = ProbesFailed(1, 1, "node-1", "step", "RuntimeError: no norm", observed=1)
    assert attempt.receive(1, failed, 0.0) == [told]
    assert attempt.receive(0, step_part(7), 0.0) == [StepDone(1, 7, 0.1, 1.0)]
    part = RanksSaved(7, 1, "t", "/c", 0.2, staged=True)
    assert attempt.receive(0, part, 0.0) == []
    assert attempt.receive(1, part, 0.0) == [CheckpointSaved(1, 7, "t", "/c", 0.2, True)]
    last = attempt.receive(0, dataclasses.replace(failed, rank=0), 0.0)
    assert last == [dataclasses.replace(told, rank=0, node="node-0", observed=0)]


def test_phases_follow_the_slowest_rank_and_never_go_back() -> None:
    attempt = attempt_on(nodes=2)
    assert attempt.receive(0, RankPhases(["initialize", "step"]), 0.0) == []
    assert attempt.receive(1, RankPhases(["import", "step"]), 0.0) == [PhaseEntered(1, "import")]
    assert attempt.receive(1, RankPhases(["step", "step"]), 0.0) == [PhaseEntered(1, "initialize")]
    assert attempt.receive(0, RankPhases(["start", "step"]), 0.0) == []


def test_the_killed_rank_is_the_cause_not_those_that_felt_it() -> None:
    attempt = attempt_on(ranks_per_node=3)
    attempt.receive(
        0, exited(0, 1, "RuntimeError: Connection closed by peer [127.0.0.1]:1234", time=1.0), 1.0
    )
    attempt.receive(
        0, exited(2, 1, "RuntimeError: Connection closed by peer [127.0.0.1]:5678", time=1.1), 1.1
    )
    attempt.receive(0, exited(1, -9, None, time=1.2), 1.2)
    lost, ended = attempt.settle(1.3)
    assert isinstance(lost, RankLost)
    assert (lost.rank, lost.reason, lost.alike, lost.gpu) == (1, "killed by SIGKILL", 1, "GPU 1")
    assert ended == AttemptEnded(1, Outcome.FAILED, 0)


def test_a_rank_that_turns_out_not_to_die_condemns_its_node_once_after_the_cause_is_named() -> None:
    attempt = attempt_on(nodes=2)
    attempt.receive(0, exited(1, -9), 0.0)
    (lost,) = attempt.settle(SETTLE_S)
    assert isinstance(lost, RankLost)
    attempt.receive(0, exited(0, -15), 1.0)
    stuck = [
        exited(rank, -9, "outlived SIGKILL by 15 s", fault=Fault.NODE, node_unusable=True) for rank in (2, 3)
    ]
    told = [event for part in stuck for event in attempt.receive(1, part, 20.0)]
    assert told == [NodeQuarantined("node-1", "rank 2 (GPU 2) outlived SIGKILL by 15 s")]
    assert attempt.broken == ["node-1"]
    assert attempt.settle(20.0) == [AttemptEnded(1, Outcome.FAILED, 0)]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_identical_errors_are_one_cause(order: tuple[int, ...]) -> None:
    attempt = attempt_on(ranks_per_node=3)
    for rank in order:
        attempt.receive(0, exited(rank, 1, f"ValueError: bad batch on rank {rank}", time=1.0), 1.0)
    lost = attempt.settle(1.0)[0]
    assert isinstance(lost, RankLost)
    assert (lost.rank, lost.alike) == (0, 3)


def test_others_may_say_their_error_before_they_are_stopped_but_a_kill_stops_at_once() -> None:
    attempt = attempt_on()
    attempt.receive(0, exited(0, 1, "ValueError: x"), now_s=10.0)
    assert attempt.failing
    assert not attempt.must_stop(10.0)
    assert attempt.must_stop(10.0 + OWN_WORDS_S)
    attempt.receive(0, exited(1, -9), now_s=10.0)
    assert attempt.must_stop(10.0)


def test_the_cause_is_named_after_a_moment_and_the_end_only_when_all_are_gone() -> None:
    attempt = attempt_on()
    attempt.receive(0, exited(0, 1, "ValueError: x"), now_s=10.0)
    assert attempt.settle(10.0) == []
    assert [type(e) for e in attempt.settle(10.0 + SETTLE_S)] == [RankLost]
    assert attempt.settle(99.0) == []
    attempt.receive(0, exited(1, -15), now_s=100.0)
    assert attempt.settle(100.0) == [AttemptEnded(1, Outcome.FAILED, 0)]
    assert attempt.settle(101.0) == []


def test_a_stop_is_not_a_failure() -> None:
    attempt = attempt_on()
    attempt.stopping = True
    attempt.receive(0, exited(0, 0), 0.0)
    attempt.receive(0, exited(1, -15), 0.0)
    assert attempt.settle(0.0) == [AttemptEnded(1, Outcome.STOPPED, 0)]


def test_a_lost_node_loses_all_its_ranks_with_a_reason() -> None:
    attempt = attempt_on(nodes=2)
    attempt.lose_node(1, "the agent died: oops", 0.0)
    attempt.receive(0, exited(0, -15), 0.0)
    attempt.receive(0, exited(1, -15), 0.0)
    lost = attempt.settle(1.0)[0]
    assert isinstance(lost, RankLost)
    assert (lost.rank, lost.node, lost.error, lost.alike) == (2, "node-1", "the agent died: oops", 2)


def test_exit_statuses_in_words() -> None:
    assert exit_in_words(-11) == "killed by SIGSEGV"
    assert exit_in_words(3) == "exited with status 3"
    assert exit_in_words(-200) == "killed by signal 200"


def test_what_a_rank_prints_when_another_died_stays_in_its_log() -> None:
    attempt = attempt_on()
    attempt.receive(0, LinePrinted("step 4 loss 2.0"), now_s=1.0)
    assert attempt.settle(1.0) == []
    assert attempt.settle(1.0 + HOLD_OUTPUT_S) == [RankOutput(1, 0, "step 4 loss 2.0")]
    attempt.receive(0, LinePrinted("Traceback: connection closed by peer"), now_s=2.0)
    attempt.receive(0, exited(1, -9), now_s=2.1)
    assert not [e for e in attempt.settle(9.0) if isinstance(e, RankOutput)]


def test_the_ranks_whose_loss_is_none_are_named_before_the_step() -> None:
    losses = {0: 1.0, 1: math.nan, 2: 2.0, 3: math.inf}
    nodes = [Gather(2), Gather(2)]
    attempt = attempt_on(nodes=2)
    events = []
    for rank, loss in losses.items():
        if whole := nodes[rank // 2].add(step_part(7, loss, rank)):
            events += attempt.receive(rank // 2, whole, 0.0)
    assert events[0] == LossNotFinite(1, 7, [1, 3], 2, 4)
    assert isinstance(events[1], StepDone)
    healthy = attempt_on().receive(0, fold_steps([step_part(8), step_part(8, 2.0, 1)]), 0.0)
    assert [type(one) for one in healthy] == [StepDone]


def test_of_many_ranks_whose_loss_is_none_the_first_are_named() -> None:
    parts = [step_part(7, math.nan, rank) for rank in range(1000)]
    (named, _) = attempt_on(ranks_per_node=1000).receive(0, fold_steps(parts), 0.0)
    assert named == LossNotFinite(1, 7, list(range(MOST_NAMED)), 1000, 1000)


def test_a_loss_that_the_loss_scale_skipped_is_not_named() -> None:
    whole = fold_steps([step_part(7, math.inf, rank, skipped=True) for rank in range(2)])
    assert [type(one) for one in attempt_on().receive(0, whole, 0.0)] == [StepDone]


def test_what_all_ranks_save_at_a_step_is_told_by_one() -> None:
    attempt = attempt_on()
    told = []
    for rank, step, name in (
        (1, 5, "model"), (1, 5, "optimizer"), (1, 10, "model"), (0, 5, "model"), (0, 10, "model"),
    ):  # fmt: skip
        told += attempt.receive(0, RankSavedFile(rank, f"/c/{name}-{rank}", step, 0.5), 0.0)
    assert told == [
        ScriptSaved(1, 1, 5, "/c/model-1", 0.5),
        ScriptSaved(1, 1, 5, "/c/optimizer-1", 0.5),
        ScriptSaved(1, 1, 10, "/c/model-1", 0.5),
    ]


def test_what_nodes_see_whole_in_a_folder_that_they_share_is_told_once() -> None:
    attempt = attempt_on()
    parts = [RankSaveWhole("/c/step_5", 5, 10)] * 2 + [
        RankSaveWhole("/c/last.pt", step, 10) for step in (5, 9)
    ]
    told = [event for part in parts for event in attempt.receive(0, part, 0.0)]
    assert told == [
        ScriptSaveCompleted(1, 5, "/c/step_5", 10),
        ScriptSaveCompleted(1, 5, "/c/last.pt", 10),
        ScriptSaveCompleted(1, 9, "/c/last.pt", 10),
    ]


def test_an_operation_that_ranks_compile_is_told_once_and_when_it_is_there() -> None:
    attempt = attempt_on()
    said = [("adam", None), ("adam", None), ("adam", 61.0), ("adam", 62.0), ("aio", 0.1)]
    told = [event for op, seconds in said for event in attempt.receive(0, OpBuilding(op, seconds), 0.0)]
    assert told == [OpCompiling(1, "adam"), OpCompiled(1, "adam", 61.0)]


def test_whose_steps_they_are_is_told_once() -> None:
    attempt = attempt_on()
    told = [event for _ in range(2) for event in attempt.receive(0, RankWithoutEngine("AdamW"), 0.0)]
    assert told == [StepsWithoutEngine(1, "AdamW")]


def test_the_state_of_a_bar_is_passed_on_as_what_is_replaced() -> None:
    attempt = attempt_on()
    attempt.receive(0, LinePrinted(" 50%", fleeting=True), now_s=1.0)
    assert attempt.settle(9.0) == [RankOutput(1, 0, " 50%", fleeting=True)]


def test_the_last_words_of_a_rank_that_finished_are_not_lost() -> None:
    attempt = attempt_on()
    attempt.receive(0, LinePrinted("done"), now_s=1.0)
    attempt.receive(0, exited(0, 0), 1.0)
    attempt.receive(0, exited(1, 0), 1.0)
    assert attempt.settle(1.0) == [RankOutput(1, 0, "done"), AttemptEnded(1, Outcome.FINISHED, 0)]


def test_a_rank_that_leaves_early_is_the_cause_of_what_the_others_felt() -> None:
    attempt = attempt_on(ranks_per_node=3)
    attempt.receive(0, exited(1, 0, time=1.0), 1.0)
    attempt.receive(
        0, exited(0, 1, "RuntimeError: Connection closed by peer [127.0.0.1]:1234", time=2.0), 2.0
    )
    attempt.receive(
        0, exited(2, 1, "RuntimeError: Connection closed by peer [127.0.0.1]:5678", time=2.1), 2.1
    )
    lost = attempt.settle(2.1)[0]
    assert isinstance(lost, RankLost)
    assert (lost.rank, lost.exit_status) == (1, 0)
    assert lost.error == "it ended by itself while the other ranks went on"


def test_a_traceback_is_told_once_with_the_exit() -> None:
    attempt = attempt_on()
    attempt.receive(0, LinePrinted("Traceback (most recent call last):"), now_s=1.0)
    attempt.receive(0, RankRaised(0), now_s=1.1)
    assert attempt.settle(9.0) == []


@pytest.mark.parametrize("fault", [Fault.MEMORY, Fault.DISK, Fault.RESTORE, Fault.EXIT])
def test_a_lost_rank_has_the_fault_that_its_exit_names(fault: Fault) -> None:
    attempt = attempt_on()
    attempt.receive(0, exited(0, 1, "OSError: No space left on device", fault=fault), 1.0)
    attempt.receive(0, exited(1, -15), 1.0)
    lost = attempt.settle(2.0)[0]
    assert isinstance(lost, RankLost)
    assert lost.fault is fault, "it is not read out of the words"
