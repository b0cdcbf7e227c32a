"""The events of a run's budget: what it will come to, that most of a cap is spent, that the run saves and
stops for it, and how that came out. Others take them from :mod:`~orchestrator.events`, which has all.

A cap is told by its key, ``budget.usd``, ``budget.gpu_hours`` or ``budget.deadline``. All amounts of an event
are in that cap's unit: dollars, hours of accelerators or, of a deadline, hours since the run began.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from orchestrator.event import Event


@dataclass(frozen=True)
class BudgetProjected(Event):
    """What is spent of a cap so far, and what the run will have taken at its end: at its pace so far, and at
    those of its quickest and its slowest tenth. None where its steps or its pace are not known."""

    durable: ClassVar[bool] = False
    key: str
    cap: float
    spent: float
    total: float | None = None
    total_low: float | None = None
    total_high: float | None = None


@dataclass(frozen=True)
class BudgetWarned(Event):
    """So much of a cap is spent that somebody may want to raise it; once for each cap."""

    key: str
    cap: float
    spent: float
    total: float | None = None
    total_low: float | None = None
    total_high: float | None = None


@dataclass(frozen=True)
class SharedBudgetWarned(Event):
    """So much of what several runs share is spent by all of them that somebody may want to raise it; told by
    each run that draws from it, once. ``budget`` is who pays, as ``cost_center=42``, ``month`` of UTC."""

    budget: str
    month: str
    key: str
    cap: float
    spent: float


@dataclass(frozen=True)
class BudgetReached(Event):
    """From here on the run saves and stops: what is left of the cap is no more than that may take.
    ``reserve_s`` is the time for it. ``hard``: it is killed where it takes longer."""

    key: str
    cap: float
    spent: float
    reserve: float
    reserve_s: float
    hard: bool = False


@dataclass(frozen=True)
class BudgetKilled(Event):
    """The ranks were killed before they had saved, so that the cap is kept: what was committed before is
    there."""

    key: str
    cap: float
    spent: float


@dataclass(frozen=True)
class BudgetSettled(Event):
    """Nothing is held any more, and so much was spent of the cap; what is above it was taken by a last save
    that was longer than any before. ``to_finish`` is what the rest of the run would take beside that, None
    where that is not known, with its range."""

    key: str
    cap: float
    spent: float
    to_finish: float | None = None
    to_finish_low: float | None = None
    to_finish_high: float | None = None
