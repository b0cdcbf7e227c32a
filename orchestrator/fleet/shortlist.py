"""Of a long queue those who could start next, so that an event does not weigh all of it.

Who starts is the worthiest of those with the same gang: a few of each size are looked at again at each event,
and whoever has come since; the rest only once these are few, or an hour has passed. What those are worth who
are looked at is exact; somebody else would have to pass all of them within the hour to be missed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from orchestrator.fleet.simulate import Run
from orchestrator.fleet.trace import Floats, Ints

_LONG = 256  # a shorter queue is looked at whole
_KEPT = 16  # of each size, beyond those that fit into what is free
_OLD_S = 3600.0


@dataclass
class Shortlist:
    _near: Ints | None = None  # rows that wait; None: the queue was short
    _most: int = 0
    _seen_at: float = -math.inf
    _stopped: list[int] = field(default_factory=list)

    def rows(self, run: Run, arrived: Sequence[int], worth_of: Callable[[Ints], Floats]) -> Ints:
        """Who runs, and who may start, in the order of their submission."""
        if sum(run.waiting.values()) <= _LONG:
            self._near = None
            return run.active
        near = self._near
        if near is not None:
            near = np.concatenate([near, np.array([*arrived, *self._stopped], int)])
            near = near[~run.running[near] & np.isnan(run.ended_at[near])]
        if near is None or self._is_old(run, near):
            near = self._looked_anew(run, worth_of)
        self._near, self._stopped = near, []
        return np.sort(np.concatenate([np.fromiter(run.runs, int, len(run.runs)), near]))

    def stopped(self, rows: Sequence[int]) -> None:
        """They wait again."""
        self._stopped += rows

    def _is_old(self, run: Run, near: Ints) -> bool:
        if run.now - self._seen_at > _OLD_S or len(near) > self._most:
            return True
        sizes, counts = np.unique(run.arrivals.gpus[near], return_counts=True)
        there = dict(zip(sizes.tolist(), counts.tolist(), strict=True))
        return any(
            there.get(size, 0) < min(count, run.free // size + 1) for size, count in run.waiting.items()
        )

    def _looked_anew(self, run: Run, worth_of: Callable[[Ints], Floats]) -> Ints:
        waits = run.active[~run.running[run.active]]
        worth, gpus = worth_of(waits), run.arrivals.gpus[waits]
        found = []
        for size in [size for size, count in run.waiting.items() if count]:
            these = np.flatnonzero(gpus == size)
            best = np.argsort(-worth[these], kind="stable")[: _KEPT + max(run.free, 0) // size]
            found.append(waits[these[best]])
        near = np.concatenate(found)
        self._most, self._seen_at = 2 * len(near) + _KEPT, run.now
        return near
