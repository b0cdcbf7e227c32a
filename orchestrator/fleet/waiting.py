"""Why each job waits: who has what it needs, and what would have to be otherwise."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from orchestrator.fleet.books import Books
from orchestrator.fleet.choose import Payment
from orchestrator.fleet.decisions import Hold, HoldCause
from orchestrator.fleet.trace import Floats, Ints

_NAMED = 3  # of those who are ahead


@dataclass
class Why:
    """What the last round found of those who got nothing."""

    dear: dict[int, tuple[float, float, tuple[int, ...]]] = field(default_factory=dict)
    fragmented: set[int] = field(default_factory=set)
    limited: set[int] = field(default_factory=set)
    kept: dict[int, float] = field(default_factory=dict)
    lost: set[int] = field(default_factory=set)

    def add_dear(self, books: Books, payment: Payment) -> None:
        """Who would have had the GPUs of somebody whose stop does not pay."""
        unpaid = np.isin(payment.stops, payment.unpaid)[payment.from_stop]
        for place, row in zip(
            payment.from_stop[unpaid].tolist(), payment.to_row[unpaid].tolist(), strict=True
        ):
            if row not in self.dear:
                victim = payment.stops[place]
                gain_usd = float(payment.gains_usd[place])
                self.dear[row] = gain_usd, float(books.price_usd[victim]), (victim,)

    def begin(self) -> None:
        self.dear, self.fragmented, self.limited, self.kept = {}, set(), set(), {}


@dataclass
class _PoolNow:
    """A pool as those see it who wait for it: who has it, the least worthy first."""

    free: int
    keys: list[str]
    worths: Floats
    pinned_gpus_below: Ints
    until_at: float | None


def holds(books: Books, why: Why, waiting: Ints) -> list[Hold]:
    """Most wait behind others; those are looked at together."""
    found: dict[int, Hold] = {}
    known = why.dear.keys() | why.limited | why.fragmented | why.kept.keys()
    for pool in range(len(books.world.pools)):
        now, here = _pool_now(books, pool), waiting[books.pool[waiting] == pool]
        for row in known.intersection(here.tolist()) if known else ():
            found[row] = _for_its_own_reason(books, why, now, row)
        _behind_others(books, now, here[~np.isin(here, list(found))] if found else here, found)
    return [*books.held, *(found[row] for row in waiting.tolist())]


def _for_its_own_reason(books: Books, why: Why, now: _PoolNow, row: int) -> Hold:
    key, worth, missing = (
        books.jobs[row].key,
        float(books.worth[row]),
        max(int(books.gpus[row]) - now.free, 0),
    )
    if row in why.dear:
        gain_usd, price_usd, victims = why.dear[row]
        behind = tuple(books.jobs[victim].key for victim in victims[:_NAMED])
        return Hold(key, HoldCause.PRICE, worth, behind, missing, price_usd, gain_usd)
    if row in why.kept:
        return Hold(key, HoldCause.RESERVED, worth, (), missing, until_at=why.kept[row])
    return Hold(key, HoldCause.FRAGMENTED if row in why.fragmented else HoldCause.QUOTA, worth, (), missing)


def _pool_now(books: Books, pool: int) -> _PoolNow:
    here = np.flatnonzero(books.running & (books.pool == pool))
    here = here[np.argsort(books.worth[here], kind="stable")]
    pinned = books.pinned_until[here] > books.world.now
    until = float(books.pinned_until[here][pinned].min(initial=math.inf))
    return _PoolNow(
        int(books.capacity[pool]) - int(books.gpus[here].sum()),
        [books.jobs[row].key for row in here.tolist()],
        books.worth[here],
        np.concatenate([[0], np.cumsum(np.where(pinned, books.gpus[here], 0))]),
        until if math.isfinite(until) else None,
    )


def _behind_others(books: Books, now: _PoolNow, rows: Ints, found: dict[int, Hold]) -> None:
    """Behind who is next worthier; or, if that would not help, behind those who must not be stopped."""
    worths = books.worth[rows]
    below = np.searchsorted(now.worths, worths)
    missing = np.maximum(books.gpus[rows] - now.free, 0)
    pinned = (now.pinned_gpus_below[below] >= missing) & (missing > 0)
    keys = [books.jobs[row].spec.key for row in rows.tolist()]
    ahead = [tuple(now.keys[place : place + _NAMED]) for place in range(len(now.keys) + 1)]
    behind = [ahead[place] for place in below.tolist()]
    columns = zip(keys, worths.tolist(), behind, missing.tolist(), strict=True)
    told = [Hold(key, HoldCause.AHEAD, worth, who, gpus) for key, worth, who, gpus in columns]
    for at in np.flatnonzero(pinned).tolist():
        told[at] = told[at]._replace(cause=HoldCause.PINNED, behind=ahead[0], until_at=now.until_at)
    found.update(zip(rows.tolist(), told, strict=True))
