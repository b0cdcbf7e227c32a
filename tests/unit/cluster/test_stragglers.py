"""A rank that keeps the others waiting: how steps fold, and when it is named."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.agent.gather import fold_steps, part_of
from orchestrator.agent.messages import RanksStepped
from orchestrator.cluster.stragglers import StragglerWatch
from orchestrator.rank.messages import StepTaken

STEPS = 20


def step_part(rank: int, local_time_s: float | None, step_time_s: float = 1.0) -> RanksStepped:
    part = part_of(rank, StepTaken(7, step_time_s, local_time_s, loss=1.0))
    assert isinstance(part, RanksStepped)
    return part


def step_of(*local_time_s: float, step_time_s: float = 1.0) -> RanksStepped:
    """The whole step of ranks 0, 1, …"""
    return fold_steps([step_part(rank, one, step_time_s) for rank, one in enumerate(local_time_s)])


def watch(*steps: RanksStepped, factor: float = 1.5) -> list[tuple[int, float] | None]:
    observer = StragglerWatch(factor, STEPS)
    return [observer.observe(step) for step in steps]


@given(st.lists(st.floats(0.0, 1e3), min_size=2, max_size=40), st.data())
def test_steps_fold_to_the_same_however_ranks_are_grouped(
    local_time_s: list[float], data: st.DataObject
) -> None:
    parts = [step_part(rank, one) for rank, one in enumerate(local_time_s)]
    order = data.draw(st.permutations(parts))
    cut = data.draw(st.integers(1, len(parts) - 1))
    whole = fold_steps([fold_steps(order[:cut]), fold_steps(order[cut:])])
    assert whole.slowest is not None
    assert whole.slowest[0] == local_time_s[whole.slowest[1]] == max(local_time_s)
    assert whole.local_time_sum_s == pytest.approx(math.fsum(local_time_s))
    assert whole.slowest == fold_steps(parts).slowest


def test_a_rank_that_does_not_say_leaves_the_step_without_a_slowest() -> None:
    whole = fold_steps([step_part(0, 1.0), step_part(1, None)])
    assert (whole.slowest, whole.local_time_sum_s, whole.ranks) == (None, None, 2)
    assert watch(*[whole] * 2 * STEPS) == [None] * 2 * STEPS


def test_a_straggler_is_named_when_the_window_is_full_and_once() -> None:
    said = watch(*[step_of(0.1, 0.1, 0.4, 0.1)] * 3 * STEPS)
    assert said[: STEPS - 1] == [None] * (STEPS - 1)
    assert said[STEPS - 1] == (2, 4.0)
    assert said[STEPS:] == [None] * 2 * STEPS


def test_one_that_is_slowest_in_three_quarters_of_the_steps_is_one() -> None:
    slow, other = step_of(0.1, 0.4, 0.1), step_of(0.4, 0.1, 0.1)
    assert watch(*[slow] * 15, *[other] * 5)[-1] == (1, 4.0)
    assert watch(*[slow] * 14, *[other] * 6)[-1] is None


def test_now_and_then_a_very_slow_step_makes_no_straggler() -> None:
    even, pause = step_of(0.1, 0.101, 0.1), step_of(0.1, 30.0, 0.1)
    assert watch(*[even, even, even, pause] * STEPS) == [None] * 4 * STEPS


@pytest.mark.parametrize(
    ("local_time_s", "step_time_s", "named"),
    [
        ((1.0, 1.0, 1.51), 4.0, True),
        ((1.0, 1.0, 1.49), 4.0, False),  # less than the factor
        ((0.10, 0.10, 0.31), 4.0, True),
        ((0.10, 0.10, 0.29), 4.0, False),  # less than a twentieth of the step
        ((0.0, 0.0, 0.3), 4.0, True),
        ((0.0, 0.0, 0.0), 0.0, False),
        ((2.0,), 4.0, False),  # nobody waits
    ],
)
def test_who_is_named_follows_from_factor_and_share_of_the_step(
    local_time_s: tuple[float, ...], step_time_s: float, named: bool
) -> None:
    said = watch(*[step_of(*local_time_s, step_time_s=step_time_s)] * STEPS)[-1]
    assert (said is not None) is named
    assert said is None or (said[0] == 2 and math.isfinite(said[1]))


def test_a_straggler_is_named_again_only_after_it_was_none_for_a_window() -> None:
    slow, even = step_of(0.1, 0.1, 0.4), step_of(0.4, 0.4, 0.4)
    named = [one[0] for one in watch(*[slow] * 20, *[even] * 10, *[slow] * 40) if one]
    assert named == [2]
    named = [one[0] for one in watch(*[slow] * 20, *[even] * 40, *[slow] * 40) if one]
    assert named == [2, 2]


def test_another_straggler_is_named_at_once_and_the_first_again_when_it_is_back() -> None:
    first, second = step_of(0.4, 0.1, 0.1), step_of(0.1, 0.1, 0.8)
    named = [one for one in watch(*[first] * 20, *[second] * 20, *[first] * 20) if one]
    assert named == [(0, 4.0), (2, 8.0), (0, 4.0)]


def test_a_part_is_as_large_for_many_ranks_as_for_few() -> None:
    def about_stragglers(ranks: int) -> tuple[tuple[float, int] | None, float | None]:
        whole = step_of(*[0.125] * ranks)
        return whole.slowest, whole.local_time_sum_s

    assert len(repr(about_stragglers(4096))) <= len(repr(about_stragglers(2))) + len("4096") + len("512.0")


def test_nothing_is_said_in_the_first_minutes() -> None:
    observer = StragglerWatch(1.5, STEPS, after_s=300.0)
    slow = step_of(0.1, 0.1, 2.0, step_time_s=4.0)
    said = [observer.observe(slow) for _ in range(200)]
    (first,) = [number for number, one in enumerate(said) if one is not None]
    assert first == 300 / 4.0 + STEPS - 2


def test_nothing_is_said_of_short_steps() -> None:
    assert watch(*[step_of(0.01, 0.01, 0.09, step_time_s=0.1)] * 3 * STEPS) == [None] * 3 * STEPS


@pytest.mark.parametrize("seconds", [0.3])
def test_waiting_for_a_processor_is_not_a_ranks_own_time(seconds: float) -> None:
    """Two threads of two processes on one processor: each computes for half of the time."""
    script = (
        "import os, time; from orchestrator.rank.probes.own_time import OwnTime; os.sched_setaffinity(0,"
        " {0})\nif os.fork() == 0:\n    end_s = time.process_time() + 5\n    while time.process_time() <"
        " end_s: pass\nown = OwnTime(); begun_s = time.perf_counter(); end_s = time.process_time() +"
        f" {seconds}\nwhile time.process_time() < end_s: pass\nprint(own.take(), time.perf_counter() -"
        " begun_s, flush=True); os.killpg(0, 9)"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, start_new_session=True, timeout=60
    )
    local_time_s, wall_s = map(float, run.stdout.split())
    assert local_time_s < 0.8 * wall_s
    assert local_time_s >= 0.9 * seconds
