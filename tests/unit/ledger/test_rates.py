"""Prices that change while a run goes on, and the month whose money it is: whatever happens in a run, each
microsecond of an accelerator is paid for once, at the price and in the month of that microsecond."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.events import (
    Event,
    PricesAnnounced,
    Record,
    ResourcesGranted,
    ResourcesReleased,
    RunEnded,
    RunResumed,
    RunStarted,
    Status,
)
from orchestrator.ledger.bill import Bucket
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.meter import Meter
from orchestrator.ledger.rates import Rate, Stretch
from orchestrator.records import LONGEST_S
from tests.support.timelines import EVENTS, GRANTED, LOST, RUN, saved, started, step

# Half an hour before a new month, so that runs of minutes meet it.
BEGAN_UNIX_S = datetime(2026, 11, 30, 23, 30, tzinfo=UTC).timestamp()
MIDNIGHT_UNIX_S = datetime(2026, 12, 1, tzinfo=UTC).timestamp()
prices = st.lists(
    st.tuples(st.integers(-600, 7200), st.sampled_from([0.0, 1.5, 2.25, 90.0])), max_size=5
).map(lambda pairs: PricesAnnounced([[BEGAN_UNIX_S + after_s, usd] for after_s, usd in sorted(pairs)]))
TIMELINES = st.lists(
    st.tuples(st.integers(0, 600_000_000), st.one_of(EVENTS, EVENTS, EVENTS, prices)), max_size=50
).map(lambda pairs: told(pairs))


def told(pairs: Sequence[tuple[int, Event]]) -> list[Record]:
    """Each event so many microseconds after the one before it."""
    records, at_us = [], 0
    for seq, (gap_us, event) in enumerate(pairs):
        at_us += gap_us
        records.append(Record(seq, at_us / 1e6, BEGAN_UNIX_S + at_us / 1e6, event))
    return records


def at(*pairs: tuple[float, Event]) -> list[Record]:
    return [Record(seq, s, BEGAN_UNIX_S + s, event) for seq, (s, event) in enumerate(pairs)]


def brute_force(timeline: list[Record]) -> tuple[float, dict[str, float]]:
    """Dollars in all, and by month: between two records each stretch on which neither price nor month
    changes, found by trying every moment at which one may."""
    usd, months = 0.0, {"2026-11": 0.0, "2026-12": 0.0}
    held, price, announced, since_us = 0, 0.0, [], 0
    midnight_us = round((MIDNIGHT_UNIX_S - BEGAN_UNIX_S) * 1e6)
    for record in timeline:
        now_us = round(record.elapsed_s * 1e6)
        moments = sorted({since_us, now_us, midnight_us, *(when for when, _ in announced)})
        for begin, end in itertools.pairwise(moments):
            if since_us <= begin and end <= now_us:
                for when, to in announced:
                    price = to if when <= begin else price
                cost = held * (end - begin) * price / 3.6e9
                usd += cost
                months["2026-11" if begin < midnight_us else "2026-12"] += cost
        for when, to in announced:
            price = to if when <= now_us else price
        announced = [one for one in announced if one[0] > now_us]
        since_us = now_us
        match record.event:
            case PricesAnnounced(prices=told_prices):
                announced = [(round((when - BEGAN_UNIX_S) * 1e6), to) for when, to in told_prices]
                for when, to in announced:
                    price = to if when <= now_us else price
            case ResourcesGranted(gpus=gpus):
                held = gpus
            case RunStarted(price_usd_per_gpu_hour=price):
                held, announced = 0, []
            case ResourcesReleased() | RunEnded() | RunResumed():
                held = 0
    return usd, months


@settings(max_examples=300, deadline=None)
@given(TIMELINES)
def test_prices_that_change_integrate_exactly_and_months_are_split_where_time_was_held(
    timeline: list[Record],
) -> None:
    ledger = Ledger().fold_all(timeline)
    usd, months = brute_force(timeline)
    bill, held = ledger.bill(), ledger.by_month()
    assert bill.cost_usd == pytest.approx(usd)
    for month, expected in months.items():
        assert sum(each.cost_usd for each in held if each.month == month) == pytest.approx(expected)
    assert sum(each.cost_usd for each in held) == pytest.approx(bill.cost_usd)
    assert sum(each.gpu_hours for each in held) == pytest.approx(bill.gpu_hours)
    assert sum(bill.bucket_usd.values()) == pytest.approx(bill.cost_usd)
    assert sum(bill.seconds.values()) == pytest.approx(bill.elapsed_s)
    for bucket in Bucket:
        of_month = [each for each in held if each.bucket == bucket]
        assert all(each.cost_usd >= 0 for each in of_month)
        assert sum(each.gpu_hours for each in of_month) == pytest.approx(bill.gpu_seconds[bucket] / 3600)
        assert sum(each.cost_usd for each in of_month) == pytest.approx(bill.bucket_usd.get(bucket, 0.0))
    attempts = sum(each.cost_usd for each in ledger.money().attempts)
    assert attempts == pytest.approx(bill.cost_usd)
    incidents = ledger.incident_totals()[1] + ledger.asked_for_usd()
    lost = sum(bill.bucket_usd.get(bucket, 0.0) for bucket in (Bucket.RECOVERING, Bucket.REDONE))
    assert -1e-6 <= incidents <= lost + 1e-6


@settings(max_examples=150, deadline=None)
@given(TIMELINES, st.integers(0, 600_000_000))
def test_totals_never_decrease_whoever_looks_when(timeline: list[Record], ahead_us: int) -> None:
    meter, had = Meter(), (0.0, 0.0)
    for record, after in itertools.zip_longest(timeline, timeline[1:]):
        meter.fold(record)
        until_s = min(record.elapsed_s + ahead_us / 1e6, after.elapsed_s if after else float("inf"))
        for spent in (meter.spent(), meter.spent(until_s)):
            now = (spent.cost_usd, spent.gpu_hours)
            assert now[0] >= had[0] - 1e-9
            assert now[1] >= had[1] - 1e-12
            had = now


def test_a_price_that_falls_at_six_is_paid_from_six_on_though_the_driver_was_frozen_then() -> None:
    """It hears of the checkpoint, and of the steps before it, an hour after the price has changed."""
    falls = PricesAnnounced([[BEGAN_UNIX_S + 1000, 1.0]])
    run = replace(RUN, price_usd_per_gpu_hour=3.0)
    timeline = at((0, run), (0, falls), (0, GRANTED), (0, started()), (500, step(1, 500.0)), (4600, LOST))
    bill = Meter().fold_all(timeline).bill()
    assert bill.cost_usd == pytest.approx(4 * (1000 * 3.0 + 3600 * 1.0) / 3600)


def test_a_stall_that_is_found_in_earlier_steps_takes_back_what_these_had_cost() -> None:
    """Both steps and the save came with one look, at the lower price; the stall is of the last of them."""
    falls = PricesAnnounced([[BEGAN_UNIX_S + 100, 1.0]])
    run = replace(RUN, price_usd_per_gpu_hour=10.0)
    timeline = at(
        (0, run), (0, falls), (0, GRANTED), (0, started()), (80, step(1, 80.0)), (120, step(2, 10.0)),
        (120, saved(30.0, 2)), (130, step(3, 10.0)), (140, RunEnded(Status.FINISHED, "")),
    )  # fmt: skip
    bill = Meter().fold_all(timeline).bill()
    assert bill.seconds[Bucket.CHECKPOINT] == pytest.approx(30.0)
    assert bill.bucket_usd[Bucket.CHECKPOINT] == pytest.approx(4 * (20 * 1.0 + 10 * 10.0) / 3600)
    assert bill.cost_usd == pytest.approx(4 * (100 * 10.0 + 40 * 1.0) / 3600)


def test_a_clock_that_is_set_back_brings_back_no_price() -> None:
    falls = PricesAnnounced([[BEGAN_UNIX_S + 10, 1.0]])
    timeline = at((0, replace(RUN, price_usd_per_gpu_hour=3.0)), (0, falls), (0, GRANTED), (20, started()))
    timeline.append(Record(4, 30.0, BEGAN_UNIX_S - 500, step(1)))
    timeline.append(Record(5, 40.0, BEGAN_UNIX_S - 490, step(2)))
    assert Meter().fold_all(timeline).bill().cost_usd == pytest.approx(4 * (10 * 3.0 + 30 * 1.0) / 3600)


@pytest.mark.parametrize(
    "prices", [[[1.0]], [[-1.0, 2.0]], [[2e9, float("nan")]], [[2e9, -1.0]], [[1, 2, 3]]]
)
def test_what_is_no_price_in_a_journal_changes_nothing(prices: list[list[float]]) -> None:
    timeline = at((0, RUN), (0, PricesAnnounced(prices)), (0, GRANTED), (3600, started()))
    assert Meter().fold_all(timeline).bill().cost_usd == pytest.approx(4 * 3.6)


def test_a_journal_of_three_hundred_years_at_the_end_of_all_dates_is_counted() -> None:
    run = replace(RUN, price_usd_per_gpu_hour=1.0)
    timeline = [Record(0, 0.0, 253_402_300_000.0, run), Record(1, 1.0, 253_402_300_798.0, GRANTED)]
    timeline.append(Record(2, LONGEST_S, 253_402_300_798.5, RunEnded(Status.FINISHED, "")))
    ledger = Ledger().fold_all(timeline)
    assert ledger.by_month()[0].month == "9999-12"
    assert ledger.bill().gpu_hours == pytest.approx(4 * (LONGEST_S - 1) / 3600)


@given(st.lists(st.tuples(st.integers(1, 50), st.sampled_from([1.0, 2.0])), max_size=9), st.integers(0, 400))
def test_a_stretch_gives_from_either_end_what_lies_there(pairs: list[tuple[int, float]], us: int) -> None:
    each = [price for count, price in pairs for _ in range(count)]

    def prices_in(parts: list[tuple[int, Rate]]) -> list[float]:
        return [rate.usd_per_gpu_hour for count, rate in parts for _ in range(count)]

    def stretch() -> Stretch:
        made = Stretch()
        made.add((count, Rate(price)) for count, price in pairs)
        return made

    first = stretch()
    assert prices_in(first.first(us)) == each[:us]
    assert prices_in(list(first)) == each[us:]
    last = stretch()
    assert prices_in(last.take_last(us)) == each[::-1][:us]
    assert last.us == len(list(each)[: max(0, len(each) - us)])
    kept = stretch()
    kept.keep_last(us)
    assert prices_in(list(kept)) == (each[-us:] if us else [])
