"""How much of its budget a run has spent, what it will come to, and when it has to save and stop. Pure.

A run is to be stopped when what is left of a cap is no more than it still takes until nothing is held any
more: a look of the supervisor, a step, and saves. Saves vary, and one may have begun when the run is asked to
stop. So time for two of them is kept free, each half as long again as the slowest so far (the stall of the
ranks, and the time until it was on the disk): of saves that vary by three the slowest does not pass the cap.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from orchestrator.budget_events import BudgetWarned, SharedBudgetWarned
from orchestrator.checkpoint_events import CheckpointSaved, SnapshotCommitted
from orchestrator.events import AttemptStarted, Event, StepDone
from orchestrator.script_events import ScriptSaved

S_PER_HOUR = 3600.0
# A cap of which so much is spent is warned of.
WARN_SHARE = 0.8
# Of the slowest save so far, for each of the two that are reserved.
SAVE_FACTOR = 1.5
RESERVED_SAVES = 2
# To end ranks and agents and to give the nodes back: 2 to 4 s on two cores with two ranks.
STOP_S = 5.0
# A save that takes longer than was reserved is let go on for so many times that, and is then taken for stuck.
PATIENCE = 5.0
STEPS_KEPT = 20  # newest step times, of which the slowest is reserved
STRETCHES = 64  # of the run's steps, by whose paces its total is told
QUICK, SLOW = 0.1, 0.9


class Cap(StrEnum):
    """What is capped, by its key."""

    USD = "budget.usd"
    GPU_HOURS = "budget.gpu_hours"
    DEADLINE = "budget.deadline"
    # of what several runs share, as much as this one has claimed so far
    SHARED_USD = "budgets.usd"
    SHARED_GPU_HOURS = "budgets.gpu_hours"


IN_USD = (Cap.USD, Cap.SHARED_USD)
SHARED = (Cap.SHARED_USD, Cap.SHARED_GPU_HOURS)


@dataclass(frozen=True)
class Spent:
    """What a run has taken until now: dollars, hours of accelerators, and hours since it began; how many
    accelerators it holds, and the price at which it would save and stop."""

    usd: float
    gpu_hours: float
    since_hours: float
    gpus_held: int
    usd_per_gpu_hour: float

    def of(self, cap: Cap) -> float:
        """In a cap's unit."""
        if cap is Cap.DEADLINE:
            return self.since_hours
        return self.usd if cap in IN_USD else self.gpu_hours

    def per_s(self, cap: Cap) -> float:
        """How fast that grows."""
        if cap is Cap.DEADLINE:
            return 1.0 / S_PER_HOUR
        return self.gpus_held * (self.usd_per_gpu_hour if cap in IN_USD else 1.0) / S_PER_HOUR


@dataclass(frozen=True)
class Caps:
    """A run's budget. ``first_save_s`` is reserved to save and to stop before a first save was seen."""

    limits: dict[Cap, float] = field(default_factory=dict)
    hard: bool = False
    first_save_s: float = 120.0


class Do(StrEnum):
    """What is to be done about a budget."""

    GO_ON = "go on"
    SAVE_AND_STOP = "save and stop"
    KILL = "kill"


@dataclass(frozen=True)
class Verdict:
    """What is to be done, and for which cap."""

    do: Do
    cap: Cap | None = None


def shared_key(event: SharedBudgetWarned) -> str:
    """What tells one month of one shared budget from all others."""
    return f"{event.key} of {event.budget} in {event.month}"


@dataclass
class SaveTimes:
    """What of a run's past says how long it takes to save and stop; folded from its events, also those of
    earlier drivers. ``warned`` are the caps that were warned of, with their amounts."""

    stall_s: float | None = None  # of the slowest save
    write_s: float = 0.0  # of the slowest, until it was on the disk
    warned: set[tuple[str, float]] = field(default_factory=set)
    _steps_s: deque[float] = field(default_factory=lambda: deque(maxlen=STEPS_KEPT))

    def fold(self, event: Event) -> None:
        """Take one event into account."""
        match event:
            case StepDone():
                self._steps_s.append(event.step_time_s)
            case CheckpointSaved() | ScriptSaved():
                self.stall_s = max(self.stall_s or 0.0, event.stall_s)
            case SnapshotCommitted():
                self.write_s = max(self.write_s, event.write_s)
            case AttemptStarted():
                self._steps_s.clear()
            case BudgetWarned():
                self.warned.add((event.key, event.cap))
            case SharedBudgetWarned():
                self.warned.add((shared_key(event), event.cap))

    def reserve_s(self, poll_s: float, first_save_s: float) -> float:
        """How long it may take from now on until nothing is held."""
        step_s = max(self._steps_s, default=0.0)
        if self.stall_s is None:
            return poll_s + step_s + first_save_s
        saves_s = RESERVED_SAVES * SAVE_FACTOR * (self.stall_s + self.write_s)
        return poll_s + step_s + saves_s + STOP_S


def verdict(caps: Caps, spent: Spent, reserve_s: float, *, stopping: bool, kill_s: float) -> Verdict:
    """What the budget asks for now. ``stopping``: the ranks have been asked to save and leave. ``kill_s`` is
    what it takes to end them without asking."""
    nearest = Verdict(Do.GO_ON)
    for cap, limit in caps.limits.items():
        left, per_s = limit - spent.of(cap), spent.per_s(cap)
        if caps.hard and left <= per_s * kill_s:
            return Verdict(Do.KILL, cap)
        if not stopping and nearest.cap is None and left <= per_s * reserve_s:
            nearest = Verdict(Do.SAVE_AND_STOP, cap)
    return nearest


@dataclass(frozen=True)
class Range:
    """An expected amount, and between what it lies."""

    low: float
    expected: float
    high: float

    def plus(self, amount: float) -> Range:
        """All of it moved."""
        return Range(self.low + amount, self.expected + amount, self.high + amount)


@dataclass
class Pace:
    """What a step has taken, over stretches of the run that grow with it: steps that are done again, faults
    and saves are in the stretch in which they happened."""

    _points: list[tuple[int, Spent]] = field(default_factory=list)
    _every: int = 1  # points that are left out between two that are kept, and one
    _since: int = 0

    def reached(self, step: int, spent: Spent) -> None:
        """A step was done, for the first time or again."""
        if self._points and step <= self._points[-1][0]:
            return
        self._since += 1
        if self._points and self._since < self._every:
            return
        self._since = 0
        self._points.append((step, spent))
        if len(self._points) > STRETCHES:
            self._points = self._points[::2]
            self._every *= 2

    def to_finish(self, cap: Cap, step: int, steps: int | None) -> Range | None:
        """What the steps that are left will take; None before two stretches are known."""
        if steps is None or len(self._points) < 3:
            return None
        left = max(0, steps - step)
        (first, began), (last, now) = self._points[0], self._points[-1]
        paces = sorted(
            (after.of(cap) - before.of(cap)) / (at - since)
            for (since, before), (at, after) in zip(self._points, self._points[1:], strict=False)
        )
        mean = (now.of(cap) - began.of(cap)) / (last - first)
        low, high = min(mean, _quantile(paces, QUICK)), max(mean, _quantile(paces, SLOW))
        return Range(left * low, left * mean, left * high)


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, math.floor(share * len(ordered)))]


@dataclass(frozen=True)
class Budget:
    """What the supervisor needs for a run's budget: its caps, what is spent at this moment, and how many
    steps it has, None where nobody knows. ``shared`` says up to which totals
    the run may go of what several runs share; it may claim more while it is asked. ``mean_usd`` is what an
    accelerator-hour will cost over so many hours from now on, where that is not what it has cost so far.
    ``shared_warnings`` are the shared budgets of which most is spent, by whatever run."""

    own: Caps
    spent: Callable[[], Spent]
    steps: int | None = None
    shared: Callable[[Spent], dict[Cap, float]] | None = None
    mean_usd: Callable[[float], float] | None = None
    shared_warnings: Callable[[], list[SharedBudgetWarned]] | None = None

    def caps(self, spent: Spent) -> Caps:
        """All that hold now."""
        if self.shared is None:
            return self.own
        return replace(self.own, limits={**self.own.limits, **self.shared(spent)})
