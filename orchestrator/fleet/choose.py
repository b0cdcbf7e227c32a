"""Who should run, by what it is worth: counted in GPUs, before anybody looks at nodes."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from orchestrator.fleet.trace import Bools, Floats, Ints


@dataclass
class Table:
    """Jobs of one pool that run or could, a column for each fact."""

    worth: Floats
    first: Ints  # of whom goes before all others: the higher goes first
    submitted_at: Floats
    gpus: Ints
    running: Bools
    pinned: Bools  # it runs and must not be stopped
    left_h: Floats
    price_usd: Floats
    known: Bools  # whether anybody has said how long it takes; where not, what it has left is only a claim

    def order(self) -> Ints:
        """The worthiest first; of equals who came first. Rows are in the order of their keys."""
        return np.lexsort((self.submitted_at, -self.worth, -self.first))


@dataclass
class Payment:
    """Rows that stop, and of each who takes how many of its GPUs. ``unpaid`` of them should not: what takes
    their place gains no more than their stop costs."""

    stops: list[int]
    takers: dict[int, list[tuple[int, int]]]
    gain_usd: dict[int, float]
    unpaid: list[int]


@dataclass
class Choice:
    """Rows that start, in their order, and rows that stop for them."""

    starts: list[int]
    stops: list[int]
    kept: bool  # whether somebody stays only because its stop would not pay


def fill(gpus: Ints, free: int) -> Bools:
    """In this order, who fits into what those before it leave."""
    taken = np.zeros(len(gpus), bool)
    at = 0
    while at < len(gpus) and free > 0:
        sums = np.cumsum(gpus[at:])
        fit = int(np.searchsorted(sums, free, side="right"))
        if fit:
            taken[at : at + fit] = True
            free -= int(sums[fit - 1])
        at += fit + 1
        if at >= len(gpus):
            break
        next_fit = np.flatnonzero(gpus[at:] <= free)
        if not len(next_fit):
            break
        at += int(next_fit[0])
    return taken


_MOST_TRIES = 4


def choose(table: Table, gpus: int) -> Choice:
    """Greedy by worth; stops only as many as the starts need, and only where that gains more than it
    costs."""
    order = table.order()
    stay = table.pinned
    nobody = np.zeros(len(order), bool)
    for tries in itertools.count(1):
        ranked = np.concatenate([order[stay[order]], order[~stay[order]]])
        wanted = np.zeros(len(order), bool)
        wanted[ranked] = fill(table.gpus[ranked], gpus)
        wanted |= stay
        starts = ranked[(wanted & ~table.running)[ranked]]
        unwanted = order[(table.running & ~wanted)[order]][::-1]
        free = gpus - int(table.gpus[table.running].sum())
        payment = paid(table, starts, unwanted, free, nobody)
        if not payment.unpaid:
            return Choice(starts.tolist(), payment.stops, tries > 1)
        stay = who_stays(stay, table.running, payment.unpaid, tries)
    raise AssertionError("where all stay nobody has to be paid for")


def who_stays(stay: Bools, running: Bools, unpaid: list[int], tries: int) -> Bools:
    """Those whose stop would not pay. Behind them may come others: after a few tries all who run stay."""
    if tries >= _MOST_TRIES:
        return running.copy()
    stay = stay.copy()
    stay[unpaid] = True
    return stay


def paid(table: Table, starts: Ints, unwanted: Ints, free: int, owed: Bools) -> Payment:
    """Who leaves for whom: free GPUs go to the worthiest, then the least worthy leave. For a start that is
    ``owed`` its GPUs they leave whatever it costs."""
    wants = table.gpus[starts]
    need = int(wants.sum()) - free
    if need <= 0:
        return Payment([], {}, {}, [])
    freed = np.cumsum(table.gpus[unwanted])
    stops = unwanted[: int(np.searchsorted(freed, need)) + 1].tolist()
    spare = int(table.gpus[stops].sum()) - need
    for row in reversed(list(stops)):  # the worthiest of them stays where the others are enough
        if int(table.gpus[row]) <= spare:
            spare -= int(table.gpus[row])
            stops.remove(row)
    takers: dict[int, list[tuple[int, int]]] = {row: [] for row in stops}
    served = int(np.searchsorted(np.cumsum(wants), free, side="right"))  # these need nobody's
    free -= int(wants[:served].sum())
    at, left = 0, int(table.gpus[stops[0]])
    for row, count in zip(starts[served:].tolist(), wants[served:].tolist(), strict=True):
        want = max(count - free, 0)
        free = max(free - count, 0)
        while want:
            part = min(want, left)
            takers[stops[at]].append((row, part))
            want -= part
            left -= part
            if not left:
                at += 1
                left = int(table.gpus[stops[at]]) if at < len(stops) else 0
                if not left:
                    break
    gain_usd = {row: _gain_usd(table, row, takers[row]) for row in stops}
    unpaid = [
        row
        for row in stops
        if gain_usd[row] <= table.price_usd[row] and not _must_leave(table, row, takers[row], owed)
    ]
    return Payment(stops, takers, gain_usd, unpaid)


def _gain_usd(table: Table, victim: int, takers: list[tuple[int, int]]) -> float:
    """Dollars of delay that are avoided when these go first, less those of who is delayed by that: two jobs
    that change places. GPUs of the victim that nobody takes are a loss."""
    left_h, worth = table.left_h, table.worth
    taken = sum(part for _, part in takers)
    if not taken:
        return 0.0
    idle = float(table.gpus[victim]) / taken
    return sum(
        part * float(left_h[row] * left_h[victim] * (worth[row] - worth[victim] * idle))
        for row, part in takers
    )


def _must_leave(table: Table, victim: int, takers: list[tuple[int, int]], owed: Bools) -> bool:
    """Also for whom nobody can say what it gains: its claim alone has decided."""
    return any(
        owed[row] or table.first[row] > table.first[victim] or not table.known[row] for row, _ in takers
    )
