"""What the starts of one pool take from whom."""

from __future__ import annotations

from dataclasses import dataclass, field

from orchestrator.fleet.books import Books
from orchestrator.fleet.choose import Payment, Table, paid
from orchestrator.fleet.decisions import StopCause
from orchestrator.fleet.place import Room
from orchestrator.fleet.sharing import Sharing


@dataclass
class Bill:
    """What one pool's starts take from whom, and where they go."""

    pool: int
    starts: list[int]
    sharing: Sharing
    payment: Payment = field(default_factory=Payment.nothing)
    rooms: dict[int, Room] = field(default_factory=dict)

    def cause(self, books: Books, victim: int) -> StopCause:
        owed = [row for row in self.payment.takers(victim) if self.sharing.owed[row]]
        if not owed:
            return StopCause.WORTH
        reserved = {one.job for one in books.world.reservations if one.job}
        is_reserved = any(books.jobs[row].key in reserved for row in owed)
        return StopCause.RESERVED if is_reserved else StopCause.QUOTA


def bill_of(books: Books, pool: int, sharing: Sharing) -> Bill:
    here = (books.pool == pool) & books.running
    wanted = sharing.pool == pool
    order = books.order
    starts = order[(wanted & ~books.running)[order]]
    if not len(starts):
        return Bill(pool, [], sharing)
    free = int(books.capacity[pool]) - int(books.gpus[here].sum())
    unwanted = order[(here & ~wanted)[order]][::-1]
    table = Table(
        books.worth, books.first, books.submitted_at, sharing.gpus, books.running, here & wanted,
        books.left_h, books.price_usd, books.known,
    )  # fmt: skip
    return Bill(pool, starts.tolist(), sharing, paid(table, starts, unwanted, free, sharing.owed))
