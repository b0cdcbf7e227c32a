"""Capped runs on a clock that only the test moves: none passes its cap, none stops far before it."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.events import (
    BudgetKilled,
    BudgetProjected,
    BudgetReached,
    BudgetSettled,
    BudgetWarned,
    CheckpointSaved,
    Event,
    RunEnded,
    Status,
    StopRequested,
)
from orchestrator.supervise.loop import StopRequest
from orchestrator.supervise.spending import (
    SAVE_FACTOR,
    Cap,
    Caps,
    Do,
    Pace,
    SaveTimes,
    Spent,
    verdict,
)
from tests.support.capped import GPUS, POLL_S, PRICE, Capped, SlowSaves
from tests.support.fakes import FakeClock

USD_PER_S = GPUS * PRICE / 3600


def varying(seed: int, shortest_s: float, by: float = 3.0) -> SlowSaves:
    """Saves that vary by so much around each other."""
    drawn = random.Random(seed)
    lengths = [shortest_s * drawn.uniform(1.0, by) for _ in range(2000)]
    return SlowSaves(
        FakeClock(), steps=100_000, step_s=2.0, save_every=40, saves_s=lambda n: lengths[n % len(lengths)]
    )


def only(told: list[Event], kind: type) -> Event:
    (found,) = [event for event in told if isinstance(event, kind)]
    return found


def saved_and_stopped(run: Capped) -> BudgetSettled:
    """What is held of every run that stops for its budget."""
    ended = run.go()
    assert isinstance(ended, RunEnded)
    assert ended.status is Status.BUDGET_REACHED
    reached, settled = only(run.told, BudgetReached), only(run.told, BudgetSettled)
    assert isinstance(reached, BudgetReached)
    assert isinstance(settled, BudgetSettled)
    # the bill that a person sees afterwards is the one that was kept within the cap
    assert settled.spent == pytest.approx(run.ledger.bill().cost_usd)
    stops = [place for place, event in enumerate(run.told) if isinstance(event, StopRequested)]
    saves = [place for place, event in enumerate(run.told) if isinstance(event, CheckpointSaved)]
    assert saves[-1] > stops[0], "it saved after it was asked to stop"
    return settled


def slowest_s(run: Capped) -> float:
    times = run.resume_state.save_times
    assert times.stall_s is not None
    return times.stall_s + times.write_s


@pytest.mark.parametrize("seed", range(50))
def test_of_fifty_capped_runs_whose_saves_vary_by_three_none_passes_its_cap(seed: int) -> None:
    cap = random.Random(seed).uniform(4.0, 12.0)
    run = Capped(Caps({Cap.USD: cap}), varying(seed, shortest_s=10.0))
    settled = saved_and_stopped(run)
    assert settled.spent <= cap
    two_reserves = 2 * (POLL_S + 2.0 + SAVE_FACTOR * (slowest_s(run) + 3.0)) * USD_PER_S
    assert cap - settled.spent <= max(0.02 * cap, two_reserves)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1 << 30),
    shortest_s=st.floats(0.5, 40.0),
    minutes=st.floats(15.0, 40.0),
    cap=st.sampled_from([Cap.USD, Cap.GPU_HOURS, Cap.DEADLINE]),
)
def test_whatever_is_capped_is_not_passed(seed: int, shortest_s: float, minutes: float, cap: Cap) -> None:
    hours = minutes / 60
    limit = {Cap.USD: hours * GPUS * PRICE, Cap.GPU_HOURS: hours * GPUS, Cap.DEADLINE: hours}[cap]
    run = Capped(Caps({cap: limit}), varying(seed, shortest_s))
    run.go()
    settled = only(run.told, BudgetSettled)
    assert isinstance(settled, BudgetSettled)
    assert settled.key == cap
    assert settled.spent <= limit


def test_a_last_save_that_is_longer_than_reserved_is_let_end_and_says_by_how_much() -> None:
    group = varying(1, shortest_s=10.0)
    usual = group.saves_s
    group.saves_s = lambda n: 500.0 if group._stop else usual(n)
    run = Capped(Caps({Cap.USD: 10.0}), group)
    settled = saved_and_stopped(run)
    assert settled.spent > 10.0
    assert settled.spent - 10.0 < 500.0 * USD_PER_S
    ended = run.told[-1]
    assert isinstance(ended, RunEnded)
    assert "more than that, by a last save that took longer than was reserved for it" in ended.reason


def test_a_hard_cap_kills_that_save_and_keeps_what_was_committed() -> None:
    group = varying(1, shortest_s=10.0)
    usual = group.saves_s
    group.saves_s = lambda n: 500.0 if group._stop else usual(n)
    run = Capped(Caps({Cap.USD: 10.0}, hard=True), group)
    ended = run.go()
    assert isinstance(ended, RunEnded)
    assert ended.status is Status.BUDGET_REACHED
    settled = only(run.told, BudgetSettled)
    assert isinstance(settled, BudgetSettled)
    assert settled.spent <= 10.0
    assert only(run.told, BudgetKilled)
    reached, asked = only(run.told, BudgetReached), only(run.told, StopRequested)
    assert isinstance(reached, BudgetReached)
    assert isinstance(asked, StopRequested)
    assert asked.grace_s <= reached.reserve_s, "no more is promised than there is"
    assert group.calls[-1] == "kill"
    assert f"step {max(run.resume_state.history.restorable)}" in ended.reason


def test_ranks_that_never_save_and_do_not_listen_are_killed_within_what_was_reserved() -> None:
    group = varying(1, shortest_s=10.0)
    group.deaf, group.save_every = True, 1 << 30
    run = Capped(Caps({Cap.USD: 5.0}), group)
    ended = run.go()
    assert isinstance(ended, RunEnded)
    assert ended.status is Status.BUDGET_REACHED
    settled = only(run.told, BudgetSettled)
    assert isinstance(settled, BudgetSettled)
    assert settled.spent - 5.0 < 10 * USD_PER_S, "no more than a stop"


def test_four_fifths_are_warned_of_once_with_what_the_run_will_come_to() -> None:
    group = varying(2, shortest_s=5.0)
    group.steps = 600
    run = Capped(Caps({Cap.USD: 9.0}), group)
    ended = run.go()
    assert isinstance(ended, RunEnded)
    assert ended.status is Status.FINISHED, "a run that fits is left alone"
    warned = only(run.told, BudgetWarned)
    assert isinstance(warned, BudgetWarned)
    assert warned.spent == pytest.approx(0.8 * 9.0, abs=0.1)
    total = run.ledger.bill().cost_usd
    assert warned.total == pytest.approx(total, rel=0.05)
    assert warned.total_low is not None
    assert warned.total_high is not None
    assert warned.total_low <= total <= warned.total_high
    assert any(isinstance(event, BudgetProjected) and event.total for event in run.told)


def test_a_run_that_is_taken_up_with_the_same_cap_is_not_warned_of_it_again_and_knows_its_saves() -> None:
    run = Capped(Caps({Cap.USD: 10.0}), varying(3, shortest_s=10.0))
    run.go()
    later = SaveTimes()
    for event in run.told:
        later.fold(event)
    assert (Cap.USD, 10.0) in later.warned
    assert later.reserve_s(POLL_S, 120.0) == run.resume_state.save_times.reserve_s(POLL_S, 120.0)


def test_somebody_who_asks_first_is_the_one_who_stopped_it() -> None:
    stop = StopRequest()
    run = Capped(Caps({Cap.USD: 10.0}), varying(3, shortest_s=10.0))

    def interrupt(event: Event) -> None:
        if isinstance(event, BudgetWarned):
            stop.ask("Ctrl-C")

    ended = run.go(stop, interrupt)
    assert isinstance(ended, RunEnded)
    assert ended.status is Status.INTERRUPTED
    assert not [event for event in run.told if isinstance(event, BudgetReached)]


def test_a_second_word_from_somebody_ends_a_save_for_the_budget_at_once() -> None:
    stop = StopRequest()
    run = Capped(Caps({Cap.USD: 10.0}), varying(3, shortest_s=10.0))

    def at_once(event: Event) -> None:
        if isinstance(event, StopRequested):
            stop.ask("Ctrl-C")

    ended = run.go(stop, at_once)
    assert run.group.calls[-1] == "kill"
    assert isinstance(ended, RunEnded)
    assert ended.status is Status.BUDGET_REACHED


HELD = Spent(usd=9.0, gpu_hours=4.0, since_hours=1.0, gpus_held=8, usd_per_gpu_hour=PRICE)


@pytest.mark.parametrize(
    ("limit", "stopping", "hard", "do"),
    [
        (20.0, False, False, Do.GO_ON),
        (9.0 + 99 * USD_PER_S, False, False, Do.SAVE_AND_STOP),
        (9.0 + 101 * USD_PER_S, False, False, Do.GO_ON),
        (9.0 + 99 * USD_PER_S, True, False, Do.GO_ON),
        (8.0, True, False, Do.GO_ON),
        (9.0 + 4 * USD_PER_S, True, True, Do.KILL),
        (9.0 + 6 * USD_PER_S, True, True, Do.GO_ON),
    ],
)
def test_the_decision(limit: float, stopping: bool, hard: bool, do: Do) -> None:
    caps = Caps({Cap.USD: limit}, hard=hard)
    assert verdict(caps, HELD, 100.0, stopping=stopping, kill_s=5.0).do is do


def test_nothing_is_spent_while_nothing_is_held_but_a_deadline_passes() -> None:
    waiting = Spent(9.0, 4.0, 1.0, 0, PRICE)
    caps = Caps({Cap.USD: 9.01, Cap.DEADLINE: 1.01})
    assert verdict(caps, waiting, 100.0, stopping=False, kill_s=5.0).cap is Cap.DEADLINE
    assert verdict(Caps({Cap.USD: 9.01}), waiting, 100.0, stopping=False, kill_s=5.0).do is Do.GO_ON


@given(st.lists(st.floats(0.01, 10.0), min_size=3, max_size=400), st.integers(0, 1000))
def test_what_is_to_come_lies_between_the_quickest_and_the_slowest_pace(
    paces: list[float], left: int
) -> None:
    pace, usd = Pace(), 0.0
    for step, each in enumerate(paces, 1):
        usd += each
        pace.reached(step, Spent(usd, 0, 0, 8, PRICE))
        pace.reached(step - 1, Spent(usd, 0, 0, 8, PRICE))  # done again: its cost is the next one's
    found = pace.to_finish(Cap.USD, len(paces), len(paces) + left)
    assert found is not None
    assert found.low <= found.expected <= found.high
    # each is a sum of differences of a growing total
    slack = 1e-6 * (1 + usd) * left
    assert left * min(paces) - slack <= found.low
    assert found.high <= left * max(paces) + slack
