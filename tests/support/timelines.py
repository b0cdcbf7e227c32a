"""Timelines of events, for the meter and what is built on it: a vocabulary of short ones, and any that may
happen."""

from __future__ import annotations

import math
from collections.abc import Iterable

from hypothesis import strategies as st

from orchestrator.events import (
    AttemptEnded,
    AttemptStarted,
    BatchesSkipped,
    CheckpointLoaded,
    CheckpointSaved,
    CheckpointWriteBlocked,
    CheckpointWriteResumed,
    Decided,
    Event,
    LossRejected,
    MetricLogged,
    NodeDraining,
    NodeQuarantined,
    NodeSampled,
    Outcome,
    PhaseEntered,
    ProbesFailed,
    RankLost,
    Record,
    ResourcesGranted,
    ResourcesReleased,
    RunEnded,
    RunResumed,
    RunStarted,
    SnapshotCommitted,
    SnapshotQuarantined,
    StallNamed,
    Status,
    StepDone,
    StopRequested,
    StragglerNamed,
)

RUN = RunStarted(
    run="r",
    job="gpt",
    cluster="c",
    gpu_type="H100",
    gpus=4,
    price_usd_per_gpu_hour=3.6,
    steps=100,
    tokens_per_step=1000,
    model_flops_per_token=1e9,
    peak_flops_per_gpu=1e12,
)
GRANTED = ResourcesGranted(["n0"], 4)


def started(attempt: int = 1) -> AttemptStarted:
    return AttemptStarted(attempt, "10.0.0.1", 29500, 4)


def step(number: int, step_time_s: float = 1.0, attempt: int = 1, loss: float | None = None) -> StepDone:
    return StepDone(attempt, number, step_time_s, loss)


def saved(stall_s: float, number: int = 1) -> CheckpointSaved:
    return CheckpointSaved(1, number, f"step{number}", "/c", stall_s)


LOST = RankLost(1, 2, "n0", "2", -9, 3, "killed by SIGKILL")
SAMPLE = NodeSampled("n0", {"cpu_utilization_percentage": 1.0})
RESUMED = RunResumed("r", "its driver was lost")
DRAINING = NodeDraining(1, "n0", 2, 30.0)
REJECTED = LossRejected(1, 3, math.nan, "NaN")
TURN_NOTHING: list[Event] = [
    SAMPLE,
    BatchesSkipped([3], ""),
    NodeQuarantined("n0", ""),
    SnapshotCommitted(1, 1, "t", "/c", 10, 0.1),
    SnapshotQuarantined(1, "t", "/c", ""),
    CheckpointWriteBlocked("n0", "full"),
    CheckpointWriteResumed("n0", 1.0),
    StragglerNamed(1, 0, "n0", "0", 1, 2.0),
    StallNamed(1, 0, "n0", "0", 1, "step", 95.0, "sleeps"),
    ProbesFailed(1, 0, "n0", "step", "RuntimeError: no norm", observed=3),
]


def records(timeline: Iterable[tuple[float, Event]]) -> list[Record]:
    return [Record(seq, at, 1.7e9 + at, event) for seq, (at, event) in enumerate(timeline)]


attempts = st.integers(1, 4)
steps = st.integers(-1, 12)
any_seconds = st.one_of(st.floats(0, 50), st.sampled_from([math.nan, math.inf, -1.0]))
losses = st.none() | st.floats()
EVENTS: st.SearchStrategy[Event] = st.one_of(
    st.builds(
        RunStarted,
        run=st.just("r"),
        job=st.just("j"),
        cluster=st.just("c"),
        gpu_type=st.just("g"),
        gpus=st.integers(1, 9),
        price_usd_per_gpu_hour=st.floats(0, 100),
        tokens_per_step=st.none() | st.integers(0, 10**9),
        model_flops_per_token=st.none() | st.floats(0, 1e15),
        peak_flops_per_gpu=st.none() | st.floats(0, 1e16),
    ),
    st.builds(ResourcesGranted, st.just(["n"]), st.integers(0, 9)),
    st.builds(started, attempts),
    st.builds(PhaseEntered, attempts, st.just("import")),
    st.builds(StepDone, attempts, steps, any_seconds, losses),
    st.builds(StepDone, attempts, steps, any_seconds, losses),
    st.builds(MetricLogged, attempts, st.none() | steps, st.just({"val_loss": 1.0})),
    st.builds(saved, any_seconds, steps),
    st.just(CheckpointLoaded(1, 1, "t", "p", 1.0)),
    st.just(LOST),
    st.just(REJECTED),
    st.just(DRAINING),
    st.just(RESUMED),
    st.sampled_from(TURN_NOTHING),
    st.builds(AttemptEnded, attempts, st.sampled_from(Outcome), steps),
    st.just(Decided("restart", "")),
    st.just(StopRequested("x", 1)),
    st.just(ResourcesReleased()),
    st.builds(RunEnded, st.sampled_from(Status), st.just("")),
)
GAPS = st.one_of(st.just(0.0), st.integers(0, 60_000_000).map(lambda us: us / 1e6))
TIMELINES = st.lists(st.tuples(GAPS, EVENTS), max_size=60).map(
    lambda pairs: records(
        (round(sum(gap for gap, _ in pairs[: i + 1]), 6), e) for i, (_, e) in enumerate(pairs)
    )
)


def held_and_paid(timeline: list[Record]) -> tuple[int, float]:
    """GPU-microseconds held, and their dollars, from the events that change GPUs and price and nothing
    else."""
    total_us, usd, held, price, since_us = 0, 0.0, 0, 0.0, 0
    for record in timeline:
        now_us = round(record.elapsed_s * 1e6)
        total_us += held * (now_us - since_us)
        usd += held * (now_us - since_us) * price / 3.6e9
        since_us = now_us
        match record.event:
            case ResourcesGranted(gpus=gpus):
                held = gpus
            case RunStarted(price_usd_per_gpu_hour=price):
                held = 0
            case ResourcesReleased() | RunEnded() | RunResumed():
                held = 0
    return total_us, usd
