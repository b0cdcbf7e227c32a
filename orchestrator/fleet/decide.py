"""The one function that decides: the world in, decisions out, each with its reason.

It works in rounds: who should run is shared out by quota and worth, who has to leave for that is found and
paid for, and whoever starts is placed. What a round decides is entered in the books, and the next begins from
there, until one decides nothing: so asking again before anything has happened changes nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from orchestrator.fleet.bill import Bill, bill_of
from orchestrator.fleet.books import Books, books_of
from orchestrator.fleet.choose import TooDear
from orchestrator.fleet.decisions import (
    Decision,
    Move,
    Start,
    StartCause,
    Stop,
    StopCause,
)
from orchestrator.fleet.jobs import Job, JobState, Placement
from orchestrator.fleet.place import Movable, Nodes, Room, free_nodes, make_room
from orchestrator.fleet.pools import leaves_at
from orchestrator.fleet.purse import Purse
from orchestrator.fleet.settings import Policy
from orchestrator.fleet.sharing import Sharing, share_out
from orchestrator.fleet.trace import Floats, Ints
from orchestrator.fleet.waiting import Why, holds
from orchestrator.fleet.world import World
from orchestrator.fleet.worth import HOUR_S

_MOST_ROUNDS = 100  # each but the last starts a job; what is left is decided when somebody asks again


def decide(world: World, policy: Policy) -> tuple[Decision, ...]:
    """What follows from the world: stops and moves, then starts, then who waits and why."""
    desk = _Desk.of(world, policy)
    desk.stop_on_lost_nodes()
    desk.stop_over_budget()
    for _ in range(_MOST_ROUNDS):
        if not desk.round():
            break
    return (*desk.stops, *desk.moves, *desk.starts, *holds(desk.books, desk.why, desk.waiting()))


@dataclass
class _Desk:
    """The books, and what has been decided from them so far."""

    books: Books
    policy: Policy
    nodes: list[Nodes]
    placements: dict[int, Placement]
    leaves: dict[tuple[int, int], set[str]]  # pool, node: who still has to leave it
    gone: set[int] = field(default_factory=set)  # rows that stop
    stops: list[Stop] = field(default_factory=list)
    moves: list[Move] = field(default_factory=list)
    starts: list[Start] = field(default_factory=list)
    why: Why = field(default_factory=Why)
    leaves_at: dict[int, Floats] = field(default_factory=dict)  # by node, of pools that are to lose some

    @staticmethod
    def of(world: World, policy: Policy) -> _Desk:
        books = books_of(world, policy)
        placements = {
            row: placement
            for row in np.flatnonzero(books.running).tolist()
            if (placement := books.jobs[row].placement) is not None
        }
        nodes = [
            free_nodes(
                pool.name, pool.nodes, pool.gpus_per_node, books.not_up[at],
                [placement for placement in placements.values() if placement.pool == pool.name],
            )
            for at, pool in enumerate(world.pools)
        ]  # fmt: skip
        leave = {at: leaves_at(pool, world.changes) for at, pool in enumerate(world.pools) if world.changes}
        for at, times in leave.items():  # who starts there would have to stop: they are taken last
            nodes[at].leaving[np.isfinite(times)] = True
        desk = _Desk(books, policy, nodes, placements, {}, leaves_at=leave)
        at_pool = {pool.name: at for at, pool in enumerate(world.pools)}
        stopping = JobState.STOPPING
        for job in world.jobs:
            still = job.placement if job.state is stopping else job.leaving
            if still is not None and still.pool in at_pool:
                desk._lingers(job.key, at_pool[still.pool], still)
        return desk

    def _lingers(self, key: str, pool: int, placement: Placement) -> None:
        for node in placement.nodes:
            self.leaves.setdefault((pool, node), set()).add(key)
            if node < len(self.nodes[pool].leaving):
                self.nodes[pool].leaving[node] = True

    def waiting(self) -> Ints:
        waits = ~self.books.running
        waits[list(self.gone)] = False
        return np.flatnonzero(waits)

    def stop_on_lost_nodes(self) -> None:
        """Nodes that a pool has no more, and pools whose time is over, leave nobody a choice."""
        world = self.books.world
        if all(pool.is_open(world.now) for pool in world.pools) and not any(one.beyond for one in self.nodes):
            return
        for row, placement in list(self.placements.items()):
            where = self.books.world.pools[self.books.pool[row]]
            lost = max(placement.nodes, default=0) >= where.nodes
            if lost or not where.is_open(self.books.world.now):
                self.why.lost.add(row)
                self._stop(row, StopCause.NODE, 0.0, ())

    def stop_over_budget(self) -> None:
        """Before a team's month is spent those who run save and leave, the least worthy first."""
        purse = Purse.of(self.books, self.policy)
        for row in purse.to_stop() if purse is not None else ():
            self._stop(row, StopCause.BUDGET, 0.0, ())

    def round(self) -> bool:
        """Whether it decided anything."""
        books = self.books
        out = np.zeros(len(books.jobs), bool)
        out[list(self.gone)] = True
        dear = TooDear(np.zeros(len(out), bool), books.running)
        self.why.begin()
        purse = Purse.of(books, self.policy)
        poor = too_little = np.zeros(len(out), bool) if purse is None else purse.cannot_start()
        while True:
            sharing = share_out(books, out | dear.out | poor, dear.stay)
            self.why.limited, self.why.kept = sharing.limited, sharing.kept
            bills = [bill_of(books, pool, sharing) for pool in range(len(self.nodes))]
            payments = [bill.payment for bill in bills]
            if dear.add(payments):
                if dear.tries == 1:
                    self.why.dear = payments
                poor = too_little
                continue
            if purse is not None and (beyond := purse.beyond(_starts(bills, sharing))):
                poor = poor.copy()
                poor[beyond] = True
                continue
            unplaced = {row for bill in bills for row in self._try(bill)}
            if not unplaced:
                break
            self.why.fragmented |= unplaced
            out[list(unplaced)] = True
            poor = too_little
        if purse is not None:
            self.why.claimed = {row: purse.claimants(row) for row in np.flatnonzero(poor).tolist()}
        entered = [self._enter(bill) for bill in bills]
        return any(entered)

    def _try(self, bill: Bill) -> list[int]:
        """Find a place for each start of a pool, the largest gangs first. Returns who has none."""
        bill.rooms.clear()
        if not bill.starts:
            return []
        nodes, unplaced = self.nodes[bill.pool].copy(), []
        for row in bill.payment.stops:
            nodes.leave(self.placements[row])
        gpus = bill.sharing.gpus
        movable: dict[int, Movable] | None = None
        jobs = self.books.jobs
        for row in sorted(bill.starts, key=lambda row: (-int(gpus[row]), jobs[row].parked is None)):
            leave = self._leave_under(row, bill.pool)
            placement = _where_parked(jobs[row], nodes, int(gpus[row]), leave)
            placement = placement or nodes.fit(int(gpus[row]), leave)
            room = Room(placement, (), 0.0) if placement is not None else None
            if room is None:
                movable = self._movable(bill, nodes) if movable is None else movable
                most_usd = self._most_usd(row, movable)
                room = make_room(nodes, int(gpus[row]), movable, self.policy.most_moves, most_usd, leave)
            if room is None:
                unplaced.append(row)
                if leave:
                    self.why.leave[row] = float(self.leaves_at[bill.pool].min())
                continue
            for moved, to in room.moves:
                nodes.leave(self.placements[moved])
                movable = {other: one for other, one in (movable or {}).items() if other != moved}
                nodes.take(to)
            nodes.take(room.placement)
            bill.rooms[row] = room
        return unplaced

    def _leave_under(self, row: int, pool: int) -> set[int]:
        """The nodes that leave before it has ended, if it cannot be stopped then."""
        if pool not in self.leaves_at or self.books.preemptible[row]:
            return set()
        ends_at = self.books.world.now + float(self.books.left_h[row]) * HOUR_S
        return set(np.flatnonzero(self.leaves_at[pool] < ends_at).tolist())

    def _movable(self, bill: Bill, nodes: Nodes) -> dict[int, Movable]:
        books = self.books
        return {
            row: Movable(placement.nodes[0], placement.gpus[0], float(books.price_usd[row]))
            for row, placement in self.placements.items()
            if placement.pool == nodes.pool
            and len(placement.nodes) == 1
            and books.pinned_until[row] <= books.world.now
            and row not in bill.payment.stops
        }

    def _most_usd(self, row: int, movable: dict[int, Movable]) -> float:
        """Without a move the job would wait for one of those who could move to end."""
        ends_h = min((float(self.books.left_h[other]) for other in movable), default=0.0)
        return float(self.books.delay[row]) * ends_h

    def _enter(self, bill: Bill) -> bool:
        """Write down what a pool's bill decides."""
        for row in bill.payment.stops:
            takers = tuple(self.books.jobs[start].key for start in bill.payment.takers(row))
            self._stop(row, bill.cause(self.books, row), bill.payment.gain_usd(row), takers)
        for row in bill.starts:
            room = bill.rooms[row]
            for moved, to in room.moves:
                self._move(row, moved, to)
            self._start(row, bill)
        return bool(bill.starts)

    def _stop(self, row: int, cause: StopCause, gain_usd: float, takers: tuple[str, ...]) -> None:
        books, job = self.books, self.books.jobs[row]
        pool = int(books.pool[row])
        self.stops.append(Stop(job.key, job.epoch, cause, float(books.price_usd[row]), gain_usd, takers))
        placement = self.placements.pop(row)
        inside = [at for at, node in enumerate(placement.nodes) if node < len(self.nodes[pool].free)]
        kept = Placement(
            placement.pool,
            tuple(placement.nodes[at] for at in inside),
            tuple(placement.gpus[at] for at in inside),
        )
        if kept.nodes:
            self._leave(row, pool, kept)
        self.gone.add(row)
        books.running[row] = False
        books.pinned_until[row] = -math.inf

    def _leave(self, row: int, pool: int, placement: Placement) -> None:
        self._lingers(self.books.jobs[row].key, pool, placement)
        self.nodes[pool].leave(placement)

    def _move(self, start: int, row: int, to: Placement) -> None:
        books, job = self.books, self.books.jobs[row]
        pool = int(books.pool[row])
        self._leave(row, pool, self.placements[row])
        gain_usd = float(books.delay[start] * books.left_h[row])
        after = (*self._after(pool, to, but=job.key), job.key)
        self.moves.append(
            Move(
                job.key,
                job.epoch + 1,
                to,
                float(books.price_usd[row]),
                gain_usd,
                books.jobs[start].key,
                after,
            )
        )
        self._sit(row, pool, to)

    def _start(self, row: int, bill: Bill) -> None:
        books, job, to = self.books, self.books.jobs[row], bill.rooms[row].placement
        cause = StartCause.QUOTA if bill.sharing.owed[row] else StartCause.WORTH
        after = self._after(bill.pool, to)
        self.starts.append(Start(job.key, job.epoch + 1, to, cause, float(books.worth[row]), after))
        books.settle(row, bill.pool, int(bill.sharing.gpus[row]))
        self._sit(row, bill.pool, to)

    def _sit(self, row: int, pool: int, to: Placement) -> None:
        self.books.running[row] = True
        self.books.pinned_until[row] = math.inf
        self.placements[row] = to
        self.nodes[pool].take(to)

    def _after(self, pool: int, to: Placement, but: str = "") -> tuple[str, ...]:
        found = {key for node in to.nodes for key in self.leaves.get((pool, node), ())}
        return tuple(sorted(found - {but}))


def _where_parked(job: Job, nodes: Nodes, gpus: int, avoid: set[int]) -> Placement | None:
    """The nodes that have in memory what it goes on from, where they are free."""
    there = job.parked
    if there is None or sum(there.gpus) != gpus or avoid.intersection(there.nodes):
        return None
    return there if nodes.has_room(there) else None


def _starts(bills: list[Bill], sharing: Sharing) -> list[tuple[int, int, int]]:
    """Row, pool and GPUs of each."""
    return [(row, bill.pool, int(sharing.gpus[row])) for bill in bills for row in bill.starts]
