"""Who should run, by what it is worth: counted in GPUs, before anybody looks at nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

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
        return worthiest_first(self.worth, self.first, self.submitted_at)


@dataclass
class Payment:
    """Rows that stop, and of each who takes how many of its GPUs. Those that are ``unpaid`` should not: what
    takes their place gains no more than their stop costs. The parts are columns: from which of the stops, by
    its place among them, to which row, and how many GPUs."""

    stops: list[int]
    gains_usd: Floats
    unpaid: Bools  # by stop
    from_stop: Ints
    to_row: Ints
    parts: Ints
    wasted: Bools  # by stop: whether some of its GPUs are taken by nobody

    @staticmethod
    def nothing() -> Payment:
        none, no_stops = np.empty(0, int), np.empty(0, bool)
        return Payment([], np.empty(0), no_stops, none, none, none, no_stops)

    def takers(self, row: int) -> list[int]:
        """Who gets GPUs of a row that stops, the worthiest first."""
        found: list[int] = self.to_row[self.from_stop == self.stops.index(row)].tolist()
        return found

    def fits_badly(self) -> Ints:
        """Of those whose stop does not pay who would leave more GPUs than are taken."""
        found: Ints = np.array(self.stops, int)[self.unpaid & self.wasted]
        return found

    def cannot_pay(self) -> Ints:
        """Who would take GPUs of the others whose stop does not pay."""
        found: Ints = self.to_row[(self.unpaid & ~self.wasted)[self.from_stop]]
        return found

    def gain_usd(self, row: int) -> float:
        return float(self.gains_usd[self.stops.index(row)])


@dataclass
class Choice:
    """Rows that start, in their order, and rows that stop for them."""

    starts: list[int]
    stops: list[int]


def fill(gpus: Ints, free: int) -> Bools:
    """In this order, who fits into what those before it leave."""
    taken, left = np.zeros(len(gpus), bool), np.arange(len(gpus))
    while len(left) and free > 0:
        sums = gpus[left].cumsum()
        fit = int(sums.searchsorted(free, side="right"))
        taken[left[:fit]] = True
        free -= int(sums[fit - 1]) if fit else 0
        left = left[fit:]
        left = left[gpus[left] <= free]
    return taken


def worthiest_first(worth: Floats, first: Ints, submitted_at: Floats) -> Ints:
    """Of equals who came first, then in the order of the rows. Where nobody is anybody's equal it is known
    by the worth alone, in a fifth of the time."""
    order = np.argsort(-worth)
    if not first.any() and (worth[order[:-1]] > worth[order[1:]]).all():
        return order
    return np.lexsort((submitted_at, -worth, -first))


_NONE_LEFT = 4  # the try at which nobody is stopped any more


@dataclass
class TooDear:
    """What has been found not to pay while one thing is decided: who stays, and who does not start.

    Of whom only a part of the GPUs would be used another may fit better: it stays, and others are looked at.
    Who cannot pay for a stop that gives it all of its GPUs cannot for a worthier one either, and leaves its
    place to who is behind it. If that does not do, only those stops are left that pay, and at last none.
    """

    pinned: Bools
    running: Bools
    stay: Bools = field(init=False)
    out: Bools = field(init=False)
    tries: int = 0

    def __post_init__(self) -> None:
        self.stay, self.out = self.pinned, np.zeros(len(self.running), bool)

    def add(self, payments: Sequence[Payment]) -> bool:
        """Returns whether there was anything that does not pay."""
        if not any(payment.unpaid.any() for payment in payments):
            return False
        self.tries += 1
        if self.tries < _NONE_LEFT - 1:
            self.stay = self.stay.copy()
            for payment in payments:
                self.stay[payment.fits_badly()] = True
                self.out[payment.cannot_pay()] = True
            return True
        self.stay = self.running.copy()
        if self.tries == _NONE_LEFT:
            self.out = np.zeros(len(self.out), bool)
            return True
        for payment in payments:
            self.stay[payment.stops] = payment.unpaid
        return True


def choose(table: Table, gpus: int) -> Choice:
    """Greedy by worth; stops only as many as the starts need, and only where that gains more than it
    costs."""
    order = table.order()
    nobody, dear = np.zeros(len(order), bool), TooDear(table.pinned, table.running)
    while True:
        stays = dear.stay[order]
        ranked = np.concatenate([order[stays], order[~(stays | dear.out[order])]])
        wanted = np.zeros(len(order), bool)
        wanted[ranked] = fill(table.gpus[ranked], gpus)
        wanted |= dear.stay
        starts = ranked[(wanted & ~table.running)[ranked]]
        unwanted = order[(table.running & ~wanted)[order]][::-1]
        free = gpus - int(table.gpus[table.running].sum())
        payment = paid(table, starts, unwanted, free, nobody)
        if not dear.add([payment]):
            return Choice(starts.tolist(), payment.stops)


def paid(table: Table, starts: Ints, unwanted: Ints, free: int, owed: Bools) -> Payment:
    """Who leaves for whom: free GPUs go to the worthiest, then the least worthy leave. For a start that is
    ``owed`` its GPUs they leave whatever it costs."""
    wants = table.gpus[starts]
    need = int(wants.sum()) - free
    if need <= 0:
        return Payment.nothing()
    stops = unwanted[: int(table.gpus[unwanted].cumsum().searchsorted(need)) + 1]
    if not len(stops):
        return Payment.nothing()
    spare = int(table.gpus[stops].sum()) - need
    if spare >= int(table.gpus[stops].min()):  # the worthiest of them stays where the others are enough
        stays = fill(table.gpus[stops][::-1], spare)[::-1]
        stops = stops[~stays]
    from_stop, to_row, parts = _parts(table.gpus[stops], starts, wants, free)
    gains_usd = _gains_usd(table, stops, from_stop, to_row, parts)
    # Also for whom nobody can say what it gains: its claim alone has decided.
    must = owed[to_row] | (table.first[to_row] > table.first[stops[from_stop]]) | ~table.known[to_row]
    must_leave = np.bincount(from_stop[must], minlength=len(stops)) > 0
    unpaid = (gains_usd <= table.price_usd[stops]) & ~must_leave
    wasted = np.bincount(from_stop, weights=parts, minlength=len(stops)) < table.gpus[stops]
    return Payment(stops.tolist(), gains_usd, unpaid, from_stop, to_row, parts, wasted)


def _parts(leaves: Ints, starts: Ints, wants: Ints, free: int) -> tuple[Ints, Ints, Ints]:
    """GPUs laid end to end, the free ones and those of who leaves, and over them the starts, in their order.
    Where fewer than none are free the first of them pays for that."""
    first = max(free, 0)
    given, taken = leaves.cumsum() + first, wants.cumsum() + max(-free, 0)
    edges = np.concatenate([[first], given, taken[taken > first]])
    edges = edges[edges <= min(given[-1], taken[-1])]
    edges.sort(kind="stable")
    parts, edges = edges[1:] - edges[:-1], edges[1:]
    edges, parts = edges[parts > 0], parts[parts > 0]
    return given.searchsorted(edges), starts[taken.searchsorted(edges)], parts


def _gains_usd(table: Table, stops: Ints, from_stop: Ints, to_row: Ints, parts: Ints) -> Floats:
    """Dollars of delay that are avoided when these go first, less those of who is delayed by that: two jobs
    that change places. GPUs of the victim that nobody takes are a loss."""
    left_h, worth, victims = table.left_h, table.worth, stops[from_stop]
    taken = np.bincount(from_stop, weights=parts, minlength=len(stops))
    idle = (table.gpus[stops] / np.maximum(taken, 1.0))[from_stop]
    gains: Floats = parts * left_h[to_row] * left_h[victims] * (worth[to_row] - worth[victims] * idle)
    return np.bincount(from_stop, weights=gains, minlength=len(stops)).astype(float)
