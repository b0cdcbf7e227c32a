"""What is said of a run's budget."""

from __future__ import annotations

import math

from orchestrator.budget_events import (
    BudgetKilled,
    BudgetProjected,
    BudgetReached,
    BudgetSettled,
    BudgetWarned,
    SharedBudgetWarned,
)
from orchestrator.supervise.spending import IN_USD, S_PER_HOUR, SHARED, Cap
from orchestrator.text import hours, hours_name, usd

# What is proposed is a little more than what is expected at most.
_ROOM = 1.05
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


def words_to_go_on(settled: BudgetSettled) -> str:
    """The words that a run which has stopped for its budget needs to be finished; none where others have
    spent what it shares."""
    if settled.key in SHARED:
        return ""
    more = settled.to_finish_high
    enough = 2 * settled.cap if more is None else settled.cap + max(more, 0.0) * _ROOM
    return as_key(Cap(settled.key), rounded_up(max(enough, settled.spent * _ROOM)))


def going_on(command: str, settled: BudgetSettled | None) -> str:
    """The command that takes a run up ("" stays ""), with the cap that lets it finish where it has stopped
    for a smaller one: without that the command would be refused. ``settled`` is None where it did not stop
    for a cap."""
    words = words_to_go_on(settled) if settled else ""
    return f"{command} {words}" if command and words else command


def as_key(cap: Cap, value: float) -> str:
    """As it is typed."""
    return f"{cap}={value:.12g}"


def rounded_up(value: float) -> float:
    """To two digits, so that it is a number to type."""
    if value <= 0:
        return 0.0
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return round(math.ceil(value / unit - 1e-9) * unit, 12)
