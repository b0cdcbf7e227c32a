"""When a run first reached a loss, and what it had cost by then. Pure.

The loss of one step is noise: a single easy batch would win. So a loss counts as reached at the first step at
which the median of the last five losses is no higher, which neither one easy batch nor one hard one moves.
What the run had cost then is read between the two bills around that moment, in proportion to the time.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

WINDOW_POINTS = 5


class Past(NamedTuple):
    """One value that a metric had; a history has them by time."""

    time_ms: int
    step: int
    value: float


@dataclass(frozen=True)
class Reached:
    """The first step at which the loss was no higher than the one asked for."""

    step: int
    time_ms: int


def smoothed(losses: Sequence[Past]) -> list[float]:
    """For each loss the median of the last five; for the first four of those that there are."""
    values = [one.value for one in losses]
    medians = []
    for end in range(1, len(values) + 1):
        window = sorted(values[max(0, end - WINDOW_POINTS) : end])
        middle = len(window) // 2
        medians.append(window[middle] if len(window) % 2 else (window[middle - 1] + window[middle]) / 2)
    return medians


def reached(losses: Sequence[Past], wanted: float) -> tuple[Reached | None, float | None]:
    """When a loss was first reached, None where it never was; and the lowest that the run came to, by the
    same median, None without any loss."""
    medians = smoothed(losses)
    best = min(medians, default=None)
    if best is None or best > wanted:
        return None, best
    place = next(place for place, loss in enumerate(medians) if loss <= wanted)
    return Reached(losses[place].step, losses[place].time_ms), best


def amount_at(bills: Sequence[Past], began_ms: int, time_ms: int) -> float | None:
    """What a sum that only grows was at a moment: nothing when the run began, and never more than its last
    value. None without any bill."""
    if not bills:
        return None
    place = bisect_right(bills, time_ms, key=lambda one: one.time_ms)
    if place == len(bills):
        return bills[-1].value
    after = bills[place]
    before = bills[place - 1] if place else Past(min(began_ms, after.time_ms), 0, 0.0)
    span_ms = after.time_ms - before.time_ms
    share = max(0, time_ms - before.time_ms) / span_ms if span_ms else 1.0
    return before.value + share * (after.value - before.value)


def hours_between(began_ms: int, time_ms: int) -> float:
    """By the calendar, whatever the run did meanwhile."""
    return max(0, time_ms - began_ms) / 3.6e6
