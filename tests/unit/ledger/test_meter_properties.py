from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.events import (
    AttemptEnded,
    Event,
    Outcome,
    Record,
    RunEnded,
    Status,
)
from orchestrator.ledger.bill import Bucket
from orchestrator.ledger.meter import Meter
from tests.support.timelines import (
    GRANTED,
    LOST,
    RUN,
    TIMELINES,
    held_and_paid,
    records,
    saved,
    started,
    step,
)


@settings(max_examples=400, deadline=None)
@given(TIMELINES)
def test_whatever_happens_the_books_balance(timeline: list[Record]) -> None:
    result = Meter().fold_all(timeline).bill()
    elapsed_us = round(timeline[-1].elapsed_s * 1e6) if timeline else 0
    assert sum(round(value * 1e6) for value in result.seconds.values()) == elapsed_us
    assert all(value >= 0 for value in result.seconds.values())
    held_us, paid_usd = held_and_paid(timeline)
    assert sum(round(value * 1e6) for value in result.gpu_seconds.values()) == held_us
    assert all(value >= 0 for value in result.gpu_seconds.values())
    assert result.gpu_hours == pytest.approx(held_us / 3.6e9)
    assert result.cost_usd == pytest.approx(paid_usd), "each hour at the price that it was held for"
    assert result.goodput is None or 0 <= result.goodput <= 1
    assert result.tokens_per_s is None or result.tokens_per_s >= 0


@settings(max_examples=150, deadline=None)
@given(TIMELINES, st.floats(0, 100))
def test_folding_one_by_one_with_bills_between_equals_folding_all(
    timeline: list[Record], ahead_s: float
) -> None:
    meter = Meter()
    for record in timeline:
        meter.fold(record)
        meter.bill(record.elapsed_s + ahead_s)
    # repr, because a loss may be NaN, which is not equal to itself
    assert repr(meter.bill()) == repr(Meter().fold_all(timeline).bill())


@settings(max_examples=150, deadline=None)
@given(TIMELINES, st.integers(0, 10**8))
def test_a_live_bill_balances_too(timeline: list[Record], ahead_us: int) -> None:
    meter = Meter().fold_all(timeline)
    ended = bool(timeline) and not meter.bill(10**9).elapsed_s > timeline[-1].elapsed_s
    now_us = (round(timeline[-1].elapsed_s * 1e6) if timeline else 0) + ahead_us
    result = meter.bill(now_us / 1e6)
    total_us = sum(round(value * 1e6) for value in result.seconds.values())
    assert total_us == (now_us - ahead_us if ended else now_us)


Truth = dict[str, float]


def simulate_year(mtbf_h: float, save_every: int, rng: random.Random) -> tuple[list[Record], Truth]:
    """A year of ten-minute steps with exponential failures; returns the truth beside the records."""
    timeline: list[tuple[float, Event]] = [(0, RUN), (600, GRANTED)]
    truth: Truth = {"failures": 0.0, "redone": 0.0, "checkpoint": 0.0}
    now, done, attempt, year_s = 600.0, 0, 0, 365 * 86400.0
    highest = 0
    while now < year_s:
        attempt += 1
        timeline.append((now, started(attempt)))
        number = done
        fails_at = now + rng.expovariate(1 / (mtbf_h * 3600))
        now += 90  # start, load
        while now + 600 < min(fails_at, year_s):
            now, number = now + 600, number + 1
            timeline.append((now, step(number, 600.0, attempt)))
            truth["redone"] += 600 if number <= highest else 0
            highest = max(highest, number)
            if number % save_every == 0:
                now, done = now + 5, number
                truth["checkpoint"] += 5
                timeline.append((now, saved(5.0, number)))
        if fails_at >= year_s:
            break
        now = max(now, fails_at) + 10
        truth["failures"] += 1
        timeline += [(now, LOST), (now + 1, AttemptEnded(attempt, Outcome.FAILED, number))]
        now += 1
    timeline.append((max(now, year_s), RunEnded(Status.FINISHED, "a year")))
    return records(timeline), truth


def test_a_simulated_year_of_failures() -> None:
    timeline, truth = simulate_year(mtbf_h=8, save_every=3, rng=random.Random(7))
    result = Meter().fold_all(timeline).bill()
    assert truth["failures"] > 800
    assert result.restarts == truth["failures"]
    assert result.seconds[Bucket.REDONE] == pytest.approx(truth["redone"])
    assert result.seconds[Bucket.CHECKPOINT] == pytest.approx(truth["checkpoint"])
    assert result.seconds[Bucket.TRAINING] == pytest.approx(result.steps * 600)
    assert result.tokens_per_s == pytest.approx(1000 / 600)
    assert sum(result.seconds.values()) == pytest.approx(timeline[-1].elapsed_s)
    assert result.goodput is not None
    assert 0.9 < result.goodput < 0.97
    rare, _ = simulate_year(mtbf_h=80, save_every=3, rng=random.Random(7))
    rarely = Meter().fold_all(rare).bill().goodput
    assert rarely is not None
    assert rarely > result.goodput, "ten times fewer failures, more of the paid time trains"
