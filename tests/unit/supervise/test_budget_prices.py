"""A cap in dollars, and a price that changes before the run has ended."""

from __future__ import annotations

import pytest

from orchestrator.events import BudgetProjected, BudgetReached, BudgetSettled, Event, RunEnded, Status
from orchestrator.plan.forecast.price_schedule import Schedule
from orchestrator.supervise.spending import Cap, Caps
from tests.support.capped import BEGAN_UNIX_S, GPUS, PRICE, Capped, SlowSaves
from tests.support.fakes import FakeClock


def run_of(usd: float, rises_after_s: float, to_usd: float, steps: int = 100_000) -> Capped:
    """Steps of two seconds; each hour costs more from a certain second on."""
    group = SlowSaves(FakeClock(), steps=steps, step_s=2.0, save_every=40, saves_s=lambda n: 4.0)
    schedule = Schedule(PRICE, ((BEGAN_UNIX_S + rises_after_s, to_usd),))
    return Capped(Caps({Cap.USD: usd}, first_save_s=20.0), group, schedule=schedule)


def projections(run: Capped) -> list[BudgetProjected]:
    return [event for event in run.told if isinstance(event, BudgetProjected) and event.total is not None]


@pytest.mark.parametrize("rises_after_s", [100.0, 500.0, 1510.0, 1560.0])
def test_a_cap_is_kept_though_the_price_rises_tenfold_shortly_before_it(rises_after_s: float) -> None:
    """What is kept free to save is paid at the price that will hold then."""
    run = run_of(10.0, rises_after_s, 10 * PRICE)
    ended = run.go()
    assert isinstance(ended, RunEnded)
    assert ended.status is Status.BUDGET_REACHED
    (settled,) = [event for event in run.told if isinstance(event, BudgetSettled)]
    assert settled.spent == pytest.approx(run.ledger.bill().cost_usd)
    assert settled.spent <= 10.0
    reserve_usd = 40.0 * GPUS * 10 * PRICE / 3600
    assert settled.spent >= 10.0 - 2 * reserve_usd, "and it does not stop long before it either"


def test_what_a_run_will_come_to_is_at_the_prices_that_are_to_come() -> None:
    """All of its first third is told at the first price, and its end is known from the beginning."""
    run = run_of(1e9, 1000.0, 4 * PRICE, steps=1500)

    ended = run.go()
    assert isinstance(ended, RunEnded)
    assert ended.status is Status.FINISHED
    total = run.ledger.bill().cost_usd
    early = [event for event in projections(run) if event.spent < GPUS * PRICE * 900 / 3600]
    assert len(early) > 3
    for event in early:
        assert event.total == pytest.approx(total, rel=0.1), "and not a third of it"


def test_without_a_schedule_the_projection_is_the_pace_of_the_dollars() -> None:
    events: list[list[Event]] = []
    for schedule in (None, Schedule(PRICE)):
        group = SlowSaves(FakeClock(), steps=300, step_s=2.0, save_every=40, saves_s=lambda n: 4.0)
        run = Capped(Caps({Cap.USD: 1e9}, first_save_s=20.0), group, schedule=schedule)
        run.go()
        events.append(list(projections(run)))
        assert not [event for event in run.told if isinstance(event, BudgetReached)]
    plain, at_one_price = events
    assert len(plain) > 3
    for one, other in zip(plain, at_one_price, strict=True):
        assert isinstance(one, BudgetProjected)
        assert isinstance(other, BudgetProjected)
        assert one.total == pytest.approx(other.total)
        assert one.total_high == pytest.approx(other.total_high)
