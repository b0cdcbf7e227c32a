"""Why each job waits: who has what it needs, and what would have to be otherwise."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from orchestrator.fleet.books import Books
from orchestrator.fleet.choose import Payment
from orchestrator.fleet.decisions import Hold, HoldCause, hold_of
from orchestrator.fleet.teams import next_month_at
from orchestrator.fleet.trace import Ints

_NAMED = 3  # of those who are ahead
_Reason = tuple[HoldCause, tuple[str, ...], float, float, float | None]  # behind whom, price, gain, until


@dataclass
class Why:
    """What the last round found of those who got nothing."""

    dear: list[Payment] = field(default_factory=list)  # with stops that do not pay
    fragmented: set[int] = field(default_factory=set)
    limited: set[int] = field(default_factory=set)
    kept: dict[int, float] = field(default_factory=dict)
    leave: dict[int, float] = field(default_factory=dict)  # when the nodes leave that it would have been on
    lost: set[int] = field(default_factory=set)
    claimed: dict[int, list[int]] = field(default_factory=dict)  # by whom what is left of its team's month

    def begin(self) -> None:
        self.dear, self.fragmented, self.limited, self.kept, self.leave = [], set(), set(), {}, {}
        self.claimed = {}

    def of_its_own(self, books: Books) -> dict[int, _Reason]:
        """Why somebody waits who is not just behind others."""
        found: dict[int, _Reason] = dict.fromkeys(self.limited, (HoldCause.QUOTA, (), 0.0, 0.0, None))
        found |= dict.fromkeys(self.fragmented, (HoldCause.FRAGMENTED, (), 0.0, 0.0, None))
        needed = {row: at for row, at in self.leave.items() if row in found} | self.kept
        found |= {row: (HoldCause.RESERVED, (), 0.0, 0.0, until_at) for row, until_at in needed.items()}
        for payment in self.dear:
            found |= _cannot_pay(books, payment)
        for row, others in self.claimed.items():
            behind = tuple(books.jobs[other].key for other in others[:_NAMED])
            cause = HoldCause.CLAIMED if behind else HoldCause.BUDGET
            found[row] = cause, behind, 0.0, 0.0, None if behind else next_month_at(books.world.now)
        return found


def _cannot_pay(books: Books, payment: Payment) -> dict[int, _Reason]:
    """Who would have had the GPUs of somebody whose stop does not pay: the first of them."""
    parts = np.flatnonzero(payment.unpaid[payment.from_stop])
    parts = parts[np.diff(payment.to_row[parts], prepend=-1) != 0]
    stops, cause = payment.from_stop[parts], HoldCause.PRICE
    victims = [(books.jobs[stop].spec.key,) for stop in payment.stops]
    prices_usd = books.price_usd[payment.stops]
    columns = zip(
        payment.to_row[parts].tolist(),
        stops.tolist(),
        prices_usd[stops].tolist(),
        payment.gains_usd[stops].tolist(),
        strict=True,
    )
    return {row: (cause, victims[stop], price, gain, None) for row, stop, price, gain in columns}


def holds(books: Books, why: Why, waiting: Ints) -> list[Hold]:
    """In columns, since there may be ten thousand. Most wait behind others, and share what is told of it."""
    usual: list[_Reason] = []
    place, missing = np.zeros(len(waiting), int), np.zeros(len(waiting), int)
    for pool in range(len(books.world.pools)):
        here = books.pool[waiting] == pool
        place[here], missing[here] = _behind_others(books, pool, waiting[here], usual)
    reasons = [usual[at] for at in place.tolist()]
    own = why.of_its_own(books)
    is_own = np.zeros(len(books.jobs), bool)
    is_own[list(own)] = True
    for at in np.flatnonzero(is_own[waiting]).tolist():
        reasons[at] = own[int(waiting[at])]
    keys = [books.jobs[row].spec.key for row in waiting.tolist()]
    columns = zip(keys, reasons, books.worth[waiting].tolist(), missing.tolist(), strict=True)
    told = [
        hold_of((key, cause, worth, behind, gpus, price_usd, gain_usd, until_at))
        for key, (cause, behind, price_usd, gain_usd, until_at), worth, gpus in columns
    ]
    return [*books.held, *told]


def _behind_others(books: Books, pool: int, rows: Ints, usual: list[_Reason]) -> tuple[Ints, Ints]:
    """Behind who is next worthier; or, if that would not help, behind those who must not be stopped. Returns
    the place of each one's reason, and how many GPUs it misses; reasons that are new are appended."""
    now = np.flatnonzero(books.running & (books.pool == pool))
    now = now[np.argsort(books.worth[now], kind="stable")]
    pinned = books.pinned_until[now] > books.world.now
    below = np.searchsorted(books.worth[now], books.worth[rows])
    missing = np.maximum(books.gpus[rows] + int(books.gpus[now].sum()) - int(books.capacity[pool]), 0)
    pinned_gpus_below = np.concatenate([[0], np.cumsum(np.where(pinned, books.gpus[now], 0))])
    waits_for_pinned = (pinned_gpus_below[below] >= missing) & (missing > 0)
    until = float(books.pinned_until[now][pinned].min(initial=math.inf))
    is_next = np.zeros(len(now) + 1, bool)
    is_next[below] = True
    place = np.where(waits_for_pinned, len(usual), len(usual) + np.cumsum(is_next)[below])
    jobs, listed, ahead = books.jobs, now.tolist(), HoldCause.AHEAD
    named = [
        tuple([jobs[row].spec.key for row in listed[first : first + _NAMED]])
        for first in [0, *np.flatnonzero(is_next).tolist()]
    ]
    usual.append((HoldCause.PINNED, named[0], 0.0, 0.0, until if until < math.inf else None))
    usual += [(ahead, keys, 0.0, 0.0, None) for keys in named[1:]]
    return place, missing
