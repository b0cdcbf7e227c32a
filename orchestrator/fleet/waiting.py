"""Why each job waits: who has what it needs, and what would have to be otherwise."""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass, field

import numpy as np

from orchestrator.fleet.books import Books
from orchestrator.fleet.choose import Payment
from orchestrator.fleet.decisions import Hold, HoldCause

_NAMED = 3  # of those who are ahead


@dataclass
class Why:
    """What the last round found of those who got nothing."""

    dear: dict[int, tuple[float, float, tuple[int, ...]]] = field(default_factory=dict)
    fragmented: set[int] = field(default_factory=set)
    limited: set[int] = field(default_factory=set)
    lost: set[int] = field(default_factory=set)

    def add_dear(self, books: Books, payment: Payment) -> None:
        """Who would have had the GPUs of somebody whose stop does not pay."""
        for victim in payment.unpaid:
            money = payment.gain_usd[victim], float(books.price_usd[victim]), (victim,)
            for row, _ in payment.takers[victim]:
                self.dear.setdefault(row, money)

    def begin(self) -> None:
        self.dear, self.fragmented, self.limited = {}, set(), set()


@dataclass
class _PoolNow:
    """A pool as those see it who wait for it: who has it, the least worthy first."""

    free: int
    rows: list[int]
    worths: list[float]
    pinned_gpus_below: list[int]
    until_at: float


def holds(books: Books, why: Why, waiting: list[int]) -> list[Hold]:
    pools = [_pool_now(books, pool) for pool in range(len(books.world.pools))]
    return [*books.held, *(_hold(books, why, pools, row) for row in waiting)]


def _pool_now(books: Books, pool: int) -> _PoolNow:
    here = np.flatnonzero(books.running & (books.pool == pool))
    here = here[np.argsort(books.worth[here], kind="stable")]
    pinned = books.pinned_until[here] > books.world.now
    until = books.pinned_until[here][pinned]
    return _PoolNow(
        int(books.capacity[pool]) - int(books.gpus[here].sum()),
        here.tolist(),
        books.worth[here].tolist(),
        [0, *np.cumsum(np.where(pinned, books.gpus[here], 0)).tolist()],
        float(until.min()) if len(until) else math.inf,
    )


def _hold(books: Books, why: Why, pools: list[_PoolNow], row: int) -> Hold:
    job, worth = books.jobs[row], float(books.worth[row])
    pool, gpus = books.options[row][0]
    now = pools[pool]
    missing = max(gpus - now.free, 0)
    if row in why.dear:
        gain_usd, price_usd, victims = why.dear[row]
        behind = tuple(books.jobs[victim].key for victim in victims[:_NAMED])
        return Hold(job.key, HoldCause.PRICE, worth, behind, missing, price_usd, gain_usd)
    if row in why.fragmented:
        return Hold(job.key, HoldCause.FRAGMENTED, worth, (), missing)
    if row in why.limited:
        return Hold(job.key, HoldCause.QUOTA, worth, (), missing)
    below = bisect.bisect_left(now.worths, worth)
    if now.pinned_gpus_below[below] >= missing > 0:
        behind = tuple(books.jobs[each].key for each in now.rows[:_NAMED])
        until = now.until_at if math.isfinite(now.until_at) else None
        return Hold(job.key, HoldCause.PINNED, worth, behind, missing, until_at=until)
    behind = tuple(books.jobs[each].key for each in now.rows[below : below + _NAMED])
    return Hold(job.key, HoldCause.AHEAD, worth, behind, missing)
