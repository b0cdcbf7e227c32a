from __future__ import annotations

import dataclasses

import pytest

from orchestrator.events import (
    AttemptEnded,
    AttemptStarted,
    CheckpointLoaded,
    CheckpointSaved,
    Decided,
    Event,
    MetricLogged,
    Outcome,
    PhaseEntered,
    ProbesFailed,
    ResourcesGranted,
    ResourcesReleased,
    RunEnded,
    Status,
    StepDone,
    StopRequested,
)
from orchestrator.ledger.bill import Bill, Bucket
from orchestrator.ledger.meter import Meter
from orchestrator.script_events import TokensSeen
from tests.support.fakes import lost
from tests.support.timelines import (
    DRAINING,
    GRANTED,
    LOST,
    REJECTED,
    RESUMED,
    RUN,
    SAMPLE,
    TURN_NOTHING,
    records,
    saved,
    started,
    step,
)


def bill(*timeline: tuple[float, Event], now: float | None = None) -> Bill:
    return Meter().fold_all(records(timeline)).bill(now)


def seconds(result: Bill) -> dict[str, float]:
    return {bucket.value: value for bucket, value in result.seconds.items() if value}


def test_a_run_without_faults() -> None:
    result = bill(
        (0, RUN),
        (10, GRANTED),
        (11, started()),
        (15, PhaseEntered(1, "import")),
        (20, step(1, 2.0, loss=5.0)),
        (21, step(2, loss=4.0)),
        (22, step(3, loss=3.0)),
        (22.5, AttemptEnded(1, Outcome.FINISHED, 3)),
        (23, ResourcesReleased()),
        (24, RunEnded(Status.FINISHED, "all steps done")),
    )
    assert seconds(result) == {"waiting": 10, "starting": 8, "training": 4, "stopping": 2}
    assert sum(result.gpu_seconds.values()) == 4 * 13
    assert result.gpu_seconds[Bucket.WAITING] == 0, "waiting for resources costs nothing"
    assert result.gpu_hours == pytest.approx(52 / 3600)
    assert result.cost_usd == pytest.approx(52 * 0.001)
    assert result.goodput == pytest.approx(4 / 13)
    assert (result.steps, result.step, result.tokens, result.restarts) == (3, 3, 3000, 0)
    assert result.tokens_per_s == pytest.approx(1000), "the first step is no steady state"
    assert result.tokens_per_s_per_gpu == pytest.approx(250)
    assert result.mfu == pytest.approx(0.25)
    assert result.cost_usd_per_million_tokens == pytest.approx(52 * 0.001 / 0.003)
    assert result.final_loss == 3.0


def test_a_lost_rank_costs_recovery_and_redone_steps() -> None:
    result = bill(
        (0, RUN),
        (0, GRANTED),
        (0, started()),
        (2, step(1)),
        (3, step(2)),
        (4, saved(0.5, 2)),
        (5, step(3)),
        (35, LOST),  # hung for half a minute before somebody noticed
        (36, AttemptEnded(1, Outcome.FAILED, 3)),
        (36, Decided("restart", "1 of 3")),
        (37, started(2)),
        (40, CheckpointLoaded(2, 2, "step2", "/c", 1.0)),
        (42, step(3, attempt=2)),
        (43, step(4, attempt=2)),
        (44, step(5, attempt=2)),
        (44, AttemptEnded(2, Outcome.FINISHED, 5)),
        (44, RunEnded(Status.FINISHED, "")),
    )
    assert seconds(result) == {
        "starting": 1,
        "training": 1 + 1 + 1.5 + 2,
        "checkpoint": 0.5,
        "recovering": 30 + 6,
        "redone": 1,
    }
    assert (result.steps, result.tokens, result.restarts) == (5, 5000, 1)


def test_a_failure_before_the_first_step_is_recovering_from_then_on() -> None:
    result = bill((0, RUN), (0, GRANTED), (1, started()), (3, LOST), (4, started(2)), (9, step(1)))
    assert seconds(result) == {"starting": 3, "recovering": 5, "training": 1}


def test_a_stop_takes_the_step_under_way_along_only_if_it_is_done() -> None:
    begin = [(0.0, RUN), (0.0, GRANTED), (0.0, started()), (1.0, step(1)), (2.0, step(2))]
    stop = StopRequested("Ctrl-C", 30)
    done = bill(*begin, (2.4, stop), (3, step(3)), (5, saved(1.5)), (6, RunEnded(Status.INTERRUPTED, "")))
    assert seconds(done) == {"training": 3, "checkpoint": 1.5, "stopping": 1.5}
    killed = bill(*begin, (2.4, stop), (5, LOST), (6, RunEnded(Status.INTERRUPTED, "")))
    assert seconds(killed) == {"training": 2, "stopping": 4}


def test_a_stall_is_found_behind_the_records_that_came_with_it() -> None:
    begin = [(0.0, RUN), (0.0, GRANTED), (0.0, started()), (1.0, step(1)), (2.0, step(2))]
    behind_small = bill(*begin, (2.9, SAMPLE), (2.95, MetricLogged(1, 2, {"val_loss": 1.0})), (3, saved(0.8)))
    assert behind_small.seconds[Bucket.CHECKPOINT] == pytest.approx(0.8)
    one_poll = bill(*begin, (3.5, step(3)), (3.5, saved(0.5)))
    assert seconds(one_poll) == {"training": 3, "checkpoint": 0.5}
    assert one_poll.tokens_per_s == pytest.approx(1000), "a stall is no part of the throughput"
    longer_than_everything = bill(*begin, (3, saved(99)))
    assert seconds(longer_than_everything) == {"checkpoint": 3}
    claimed_once = bill(*begin, (2.5, saved(0.5)), (2.5, saved(5)))
    assert seconds(claimed_once) == {"training": 2, "checkpoint": 0.5}


def test_steps_of_the_first_poll_are_warm_up() -> None:
    begin = [(0.0, RUN), (0.0, GRANTED), (0.0, started())]
    burst = [(1.0, step(number, 0.02)) for number in range(1, 6)]
    later = [(1.1 + 0.1 * poll, step(6 + 5 * poll + i, 0.02)) for poll in range(4) for i in range(5)]
    assert bill(*begin, *burst, *later).tokens_per_s == pytest.approx(20_000 / 0.4)


def test_too_short_for_a_steady_state_falls_back_to_all_steps() -> None:
    assert bill((0, RUN), (0, GRANTED), (0, started()), (9, step(1, 2.0))).tokens_per_s == pytest.approx(500)


def test_unknown_stays_unknown() -> None:
    run = dataclasses.replace(RUN, tokens_per_step=None, model_flops_per_token=None, peak_flops_per_gpu=None)
    result = bill((0, run), (0, GRANTED), (0, started()), (1, step(1)), (2, step(2)))
    assert (result.tokens, result.tokens_per_s, result.tokens_per_s_per_gpu) == (None, None, None)
    assert (result.mfu, result.cost_usd_per_million_tokens) == (None, None)
    nothing = bill()
    assert (nothing.cost_usd, nothing.goodput, nothing.tokens) == (0, None, None)


def test_a_live_bill_grows_until_the_run_has_ended() -> None:
    timeline: list[tuple[float, Event]] = [(0, RUN), (1, GRANTED), (2, started())]
    assert seconds(bill(*timeline, now=12)) == {"waiting": 1, "starting": 11}
    assert bill(*timeline, now=12).cost_usd == pytest.approx(44 * 0.001)
    assert bill(*timeline, now=0).elapsed_s == 2, "never earlier than the last record"
    ended = [*timeline, (3.0, RunEnded(Status.FAILED, "no"))]
    assert bill(*ended, now=99) == bill(*ended)


def test_a_run_taken_up_again_holds_nothing_until_it_is_granted_anew() -> None:
    result = bill((0, RUN), (0, GRANTED), (0, started()), (1, step(1)), (2, step(2)), (2, RUN), (5, GRANTED),
                  (5, started(2)), (8, step(2)), (9, step(3)))  # fmt: skip
    assert seconds(result) == {"training": 3, "waiting": 3, "starting": 2, "redone": 1}
    assert (result.steps, result.restarts) == (3, 1)


def test_after_a_dead_driver_the_run_recovers_and_holds_nothing_until_it_is_granted_anew() -> None:
    result = bill((0, RUN), (0, GRANTED), (0, started()), (1, step(1)), (2, step(2)), (2.5, RESUMED), (6, GRANTED),
                  (7, started(2)), (10, step(2, attempt=2)), (11, step(3, attempt=2)))  # fmt: skip
    assert seconds(result) == {"training": 3, "recovering": 0.5 + 3.5 + 1 + 2, "redone": 1}
    assert result.gpu_seconds[Bucket.RECOVERING] == 4 * (0.5 + 1 + 2), "the dead driver's GPUs are gone"
    assert (result.steps, result.restarts) == (3, 1)


def test_a_run_that_was_stopped_and_is_taken_up_again_is_under_way() -> None:
    stopped: list[tuple[float, Event]] = [
        (0, RUN), (0, GRANTED), (0, started()), (1, step(1)), (1, StopRequested("Ctrl-C", 1)),
        (2, AttemptEnded(1, Outcome.STOPPED, 1)), (2, ResourcesReleased()),
        (2, RunEnded(Status.INTERRUPTED, "")),
    ]  # fmt: skip
    assert bill(*stopped, now=9).elapsed_s == 2
    again = [*stopped, (2, RESUMED), (3, GRANTED), (3, started(2))]
    resumed = bill(*again, now=9)
    assert seconds(resumed) == {"training": 1, "stopping": 1, "waiting": 1, "starting": 6}
    assert resumed.gpus_held == 4
    assert resumed.restarts == 0, "nothing was restarted: somebody had stopped it"
    faulty = bill(*again, (4, step(2, attempt=2)), (5, lost(2, 2)), (6, started(3)), (7, step(3, attempt=3)))
    assert faulty.restarts == 1
    assert seconds(faulty)["recovering"] == 1 + 1


def test_a_run_that_is_stopped_before_its_first_attempt_has_restarted_nothing_either() -> None:
    waited = [(0, RUN), (1, RunEnded(Status.INTERRUPTED, "")), (1, RESUMED), (2, GRANTED), (2, started())]
    faulty = bill(*waited, (3, step(1)), (4, lost(1, 1)), (5, started(2)), (6, step(2, attempt=2)))
    assert (bill(*waited).restarts, faulty.restarts) == (0, 1)


def test_a_rejected_loss_is_a_fault_whatever_the_ranks_still_do() -> None:
    result = bill((0, RUN), (0, GRANTED), (0, started()), (1, step(1)), (2, step(2)), (3, REJECTED),
                  (4, step(3, 0.25)), (5, AttemptEnded(1, Outcome.STOPPED, 3)), (6, started(2)),
                  (8, step(2, attempt=2)), (9, step(3, attempt=2)), (10, step(4, attempt=2)))  # fmt: skip
    assert seconds(result) == {"training": 2.25 + 1, "recovering": 1 + 0.75 + 1 + 1 + 1, "redone": 2}


def test_until_a_drained_node_is_left_its_steps_are_training_and_then_it_is_recovered_from() -> None:
    leaves = [(0, RUN), (0, GRANTED), (0, started()), (1, step(1)), (2, step(2)), (2.25, DRAINING), (3, step(3)),
              (4, saved(0.75, 3)), (5, AttemptEnded(1, Outcome.STOPPED, 3)), (6, started(2)),
              (9, step(4, attempt=2)), (10, step(5, attempt=2))]  # fmt: skip
    assert seconds(bill(*leaves)) == {"training": 5, "checkpoint": 0.75, "recovering": 0.25 + 1 + 1 + 2}
    stopped = bill(*leaves[:7], (3.5, StopRequested("SIGTERM", 30)), *leaves[7:9])
    assert seconds(stopped) == {"training": 3, "checkpoint": 0.75, "stopping": 1.25}


def test_steps_that_the_loss_scale_skipped_are_no_training_no_tokens_and_no_throughput() -> None:
    def skipped(number: int) -> StepDone:
        return dataclasses.replace(step(number, loss=float("inf")), skipped=True)

    result = bill((0, RUN), (0, GRANTED), (0, started()), (1, skipped(1)), (2, skipped(2)), (3, step(3, loss=2.0)),
                  (4, step(4, loss=1.0)), (5, skipped(5)), (7, saved(0.5, 5)), (8, step(6, loss=0.5)))  # fmt: skip
    assert seconds(result) == {"skipped": 3, "training": 2 + 2.5, "checkpoint": 0.5}
    assert (result.skipped_steps, result.steps, result.step, result.tokens) == (3, 3, 6, 3000)
    assert (result.final_loss, result.cost_usd_per_million_tokens) == (
        0.5,
        pytest.approx(result.cost_usd * 1e6 / 3000),
    )
    again = bill((0, RUN), (0, GRANTED), (0, started()), (1, skipped(1)), (2, LOST), (3, started(2)),
                 (4, dataclasses.replace(step(1, attempt=2), skipped=True)), (5, step(2, attempt=2)))  # fmt: skip
    assert (seconds(again)["redone"], again.skipped_steps, again.steps) == (1, 1, 1)


def test_where_nobody_tells_of_steps_any_more_time_is_unobserved_and_not_stopping() -> None:
    begin = [(0, RUN), (0, GRANTED), (0, started()), (1, step(1)), (2, step(2))]
    some = ProbesFailed(1, 0, "n0", "step", "RuntimeError: no norm", observed=1)
    none = dataclasses.replace(some, rank=1, observed=0)
    assert seconds(bill(*begin, (2.5, some), (3, step(3)))) == {"training": 3}
    hour = bill(*begin, (2.5, none), (2000, saved(3.0, 0)), (3602, AttemptEnded(1, Outcome.FINISHED, 2)),
                (3602, ResourcesReleased()), (3603, RunEnded(Status.FINISHED, "done")))  # fmt: skip
    assert seconds(hour) == {"training": 2, "checkpoint": 3, "unobserved": 3597, "stopping": 1}
    again = [(10, LOST), (11, started(2)), (13, step(3, attempt=2))]
    assert seconds(bill(*begin, (2.5, none), *again)) == {"training": 3, "unobserved": 8, "recovering": 2}
    asked = bill(
        *begin, (2.5, none), (5, StopRequested("SIGTERM", 30)), (6, AttemptEnded(1, Outcome.STOPPED, 2))
    )
    assert seconds(asked) == {"training": 2, "unobserved": 3, "stopping": 1}


@pytest.mark.parametrize("event", TURN_NOTHING, ids=lambda event: type(event).__name__)
def test_what_is_only_told_turns_nothing(event: Event) -> None:
    timeline: list[tuple[float, Event]] = [(0, RUN), (0, GRANTED), (0, started()), (1, step(1)), (3, step(2))]
    told = bill(*timeline[:4], (2, event), *timeline[4:])
    assert told == bill(*timeline)


def test_tokens_that_a_trainer_hands_over_count_where_nobody_has_said_how_many() -> None:
    timeline: list[tuple[float, Event]] = [
        (0, GRANTED),
        (0, started()),
        (1, step(1)),
        (2, TokensSeen(1, 1, 300)),
    ]
    more: list[tuple[float, Event]] = [(3, step(2)), (4, TokensSeen(1, 50, 200)), (5, step(3))]
    unknown = dataclasses.replace(RUN, tokens_per_step=None)
    assert bill((0, unknown), *timeline).tokens == 300
    assert bill((0, unknown), *timeline, *more).tokens == 3 * 200, "the mean of all steps"
    told = RUN.tokens_per_step
    assert told is not None
    assert bill((0, RUN), *timeline).tokens == told


def test_the_shape_of_the_cluster_may_change() -> None:
    result = bill((0, RUN), (0, GRANTED), (0, started()), (1, step(1)), (2, step(2)), (2, LOST),
                  (2, ResourcesReleased()), (4, ResourcesGranted(["n1"], 2)), (4, started(2)), (5, step(3)),
                  (7, step(4, 2.0)))  # fmt: skip
    assert sum(result.gpu_seconds.values()) == 2 * 4 + 3 * 2
    assert result.gpu_seconds[Bucket.WAITING] == 0
    assert result.tokens_per_s_per_gpu == pytest.approx(2000 / (4 + 4))


def test_a_driver_that_was_frozen_bills_the_checkpoint_that_ranks_waited_in() -> None:
    """Ranks trained on for 8 s, then waited 48 s in the second checkpoint that nobody had committed."""
    steps = [(0.2 * step, StepDone(1, step, 0.2)) for step in range(1, 23)]
    late = [(64.4, StepDone(1, step, 0.2)) for step in range(23, 41)]
    later = [(64.4, StepDone(1, step, 0.2)) for step in range(41, 61)]
    after = [(64.4 + 0.2 * step, StepDone(1, 60 + step, 0.2)) for step in range(1, 41)]
    timeline = [
        (0.0, RUN),
        (0.0, ResourcesGranted(["n0"], 2)),
        (0.0, AttemptStarted(1, "h", 1, 2)),
        *steps,
        *late,
        (64.4, CheckpointSaved(1, 40, "a", "/c", 0.1, True)),
        *later,
        (64.4, CheckpointSaved(1, 60, "b", "/c", 48.0, True)),
        *after,
    ]
    bill = Meter().fold_all(records(timeline)).bill()
    assert bill.seconds[Bucket.CHECKPOINT] == pytest.approx(48.1)
    assert bill.seconds[Bucket.TRAINING] == pytest.approx(64.4 + 8.0 - 48.1)
