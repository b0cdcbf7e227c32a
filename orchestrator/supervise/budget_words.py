"""What is said of a run's budget."""

from __future__ import annotations

from orchestrator.budget_events import (
    BudgetKilled,
    BudgetProjected,
    BudgetReached,
    BudgetSettled,
    BudgetWarned,
    SharedBudgetWarned,
)
from orchestrator.supervise.spending import IN_USD, S_PER_HOUR, Cap
from orchestrator.text import hours, hours_name, usd

_SPENT = BudgetKilled | BudgetProjected | BudgetReached | BudgetSettled | BudgetWarned


def amount(key: str, value: float, unit: str = "") -> str:
    """In a cap's unit: dollars, or hours of accelerators or of the clock."""
    if key in IN_USD:
        return usd(value)
    return f"{hours(value)} {hours_name(unit) if unit and key != Cap.DEADLINE else 'hours'}"


def named(event: _SPENT, unit: str = "") -> str:
    """A cap with its key, and what is spent of it."""
    return (
        f"{event.key}: {amount(event.key, event.spent, unit)} of {amount(event.key, event.cap, unit)} spent"
    )


def between(key: str, expected: float, low: float | None, high: float | None, unit: str = "") -> str:
    """An amount with its range, where it has one that can be told apart."""
    said = [amount(key, expected if each is None else each, unit) for each in (low, expected, high)]
    return said[0] if len(set(said)) == 1 else f"{said[1]} ({said[0]} to {said[2]})"


def projected(event: BudgetProjected, unit: str) -> str:
    """The shortest that says it, for a line that is always there."""
    said = f"{amount(event.key, event.spent, unit)} of {amount(event.key, event.cap, unit)}"
    if event.total_low is None or event.total_high is None:
        return said
    low, high = (amount(event.key, each, unit) for each in (event.total_low, event.total_high))
    return f"{said} (at its end {low} to {high})"


def warned(event: BudgetWarned, unit: str) -> str:
    """With what the run will come to, where that is known."""
    if event.total is None:
        return named(event, unit)
    total = between(event.key, event.total, event.total_low, event.total_high, unit)
    return f"{named(event, unit)}; at its end the run will have taken {total}"


def shared_warned(event: SharedBudgetWarned, unit: str) -> str:
    """Of a budget that this run is not alone with."""
    spent, cap = (amount(event.key, value, unit) for value in (event.spent, event.cap))
    return f"{spent} of the {cap} of {event.budget} in {event.month} are spent, by all runs together"


def reached(event: BudgetReached, unit: str) -> str:
    """Why the run saves now and not later."""
    kept = f"{amount(event.key, event.reserve, unit)} ({seconds(event.reserve_s)})"
    return f"{named(event, unit)}; it saves and stops now: {kept} is what that may take"


def killed(event: BudgetKilled, unit: str) -> str:
    """What `budget.hard` has done."""
    return f"{named(event, unit)}: ranks that had not saved yet are killed (budget.hard=true)"


def settled(event: BudgetSettled, unit: str = "") -> str:
    """What was spent in the end, and what finishing would take."""
    left = event.cap - event.spent
    beside = f"{amount(event.key, abs(left), unit)} {'less than that' if left >= 0 else 'more than that'}"
    passed = "" if left >= 0 else ", by a last save that took longer than was reserved for it"
    said = f"{event.key}={event.cap:g}: {amount(event.key, event.spent, unit)} spent, {beside}{passed}"
    if not event.to_finish:
        return said
    more = between(event.key, event.to_finish, event.to_finish_low, event.to_finish_high, unit)
    return f"{said}; to finish takes {more} more"


def seconds(value: float) -> str:
    """Of a reserve."""
    return f"{value:.0f} s" if value < S_PER_HOUR else f"{value / S_PER_HOUR:.1f} h"
