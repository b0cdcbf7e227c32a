"""A world run forward to its end: the shares and the bills of a decision, again and again, by count of GPUs.

Nodes are not looked at, so what waits for a whole node while others are half empty is not seen here; what is
seen is everything else that decides who runs: worth, quotas, loans, reservations, deadlines, what depends on
what, capacity that comes and goes. Somebody has to say what each job really takes: a forecast draws it, a
simulation knows it from its trace.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from orchestrator.fleet.after import settled
from orchestrator.fleet.bill import Bill, bill_of
from orchestrator.fleet.books import could_run, on_closed_nodes, unordered
from orchestrator.fleet.choose import TooDear, worthiest_first
from orchestrator.fleet.decisions import Hold
from orchestrator.fleet.facts import Facts, Stand, claims_of, facts_of, stand_of, valued
from orchestrator.fleet.jobs import Job
from orchestrator.fleet.left import Claims
from orchestrator.fleet.pools import capacity_at
from orchestrator.fleet.settings import Policy
from orchestrator.fleet.sharing import share_out
from orchestrator.fleet.trace import Floats, Ints
from orchestrator.fleet.world import World
from orchestrator.fleet.worth import HOUR_S

_SAME_S = 1e-6
_MOST_ROUNDS = 20
_LEAST_H = 1.0 / HOUR_S
# Of what those who run have left: so much of their GPUs' time may be nobody's at most.
_IDLE = 0.2
_LONG_S = 1e9


@dataclass(frozen=True)
class Outset:
    """A world as it is before it is run forward: those of its jobs that may ever run, and how they stand.
    Whoever leaves or starts at this moment has left and started. ``held`` are the others."""

    world: World
    facts: Facts
    stand: Stand
    held: tuple[Hold, ...]
    claims: Claims


def outset_of(world: World, policy: Policy) -> Outset:
    world = settled(world)
    pools = {pool.name: at for at, pool in enumerate(world.pools)}
    able, held = could_run(world, pools, ever=True)
    facts = facts_of(world, policy, able)
    return Outset(world, facts, stand_of(world, facts), tuple(held), claims_of(world, facts))


@dataclass
class Course:
    """How it went: a row for each job of the facts, infinite where it never comes to it."""

    jobs: Sequence[Job]
    started_at: Floats  # the first time
    ended_at: Floats
    ran_s: Floats  # from the outset on
    stops: Ints
    pool: Ints  # where it ran last
    gpus: Ints


class Forward:
    """``left_h`` is what each really has left, in hours of the first of its plans. ``coarse`` lets what
    happens within this share of the time that has passed be decided together: a forecast of next week need
    not be right to the second, and then takes hardly longer for ten thousand jobs than for a thousand."""

    def __init__(self, outset: Outset, policy: Policy, left_h: Floats, coarse: float = 0.0) -> None:
        world, facts, stand = outset.world, outset.facts, outset.stand
        count, running = len(facts.jobs), stand.running
        self.now = world.now
        self._outset, self._policy, self._coarse = outset, policy, coarse
        self._usd = np.array([pool.usd_per_gpu_hour for pool in world.pools], float)
        self._left_h = left_h.copy()
        self._predicted_h, self._seen_left_h = stand.predicted_h.copy(), stand.left_h.copy()
        self._ran_s, self._price_s = stand.ran_s.copy(), facts.stop_s + facts.start_s
        pinned = np.isinf(stand.pinned_from) & facts.preemptible  # until its first checkpoint, which is near
        self._pinned_from = np.where(running & pinned, world.now, stand.pinned_from)
        self._since, self._counts_from = np.full(count, world.now), np.full(count, world.now)
        self._end_at = np.where(running, world.now + left_h * HOUR_S, math.inf)
        self._pace = np.ones(count)  # hours where it runs, to an hour of its first plan
        self._waits_for = {
            row: missing
            for row, job in enumerate(facts.jobs)
            if not running[row] and (missing := set(job.spec.depends_on) - world.finished)
        }
        self._active = (facts.submitted_at <= world.now) | running
        self._active[list(self._waits_for)] = False
        self._books = unordered(world, facts, stand, capacity_at(world.pools, world.changes, world.now))
        self._closed = on_closed_nodes(self._books)
        for row, there in self._closed.items():
            self._pinned_from[row] = math.inf
            self._books.capacity[self._books.pool[row]] += there
        self._marks = _marks(world)
        first = np.array([job.started_at if job.started_at else world.now for job in facts.jobs], float)
        self.course = Course(
            facts.jobs, np.where(running, first, math.inf), np.full(count, math.inf), np.zeros(count),
            np.zeros(count, int), self._books.pool, self._books.gpus,
        )  # fmt: skip

    def run(self, others: Ints | None = None) -> Course:
        """Until all have ended, but for ``others``, whom nobody asks about."""
        wanted = np.ones(len(self._active), bool)
        if others is not None:
            wanted[others] = False
        while True:
            ask_at = self._decide()
            at = min(self._next_event(), ask_at)
            if math.isinf(at) or not np.isinf(self.course.ended_at[wanted]).any():
                return self.course
            self._go_on(max(at, self.now + self._together_s()))

    def _together_s(self) -> float:
        """For how long what happens is decided together. Who ends within it leaves GPUs to nobody until then,
        so it is short beside what those who run have left, weighed by their GPUs: else short jobs would hold
        theirs for as long as that takes, ever longer, and a long queue would be done in years."""
        books, most_s = self._books, self._coarse * (self.now - self._outset.world.now)
        runs = np.flatnonzero(books.running)
        if not most_s or not len(runs) or books.running[self._active].all():
            return most_s
        left_s = np.minimum(self._end_at[runs] - self.now, _LONG_S) * books.gpus[runs]
        return min(most_s, _IDLE * float(left_s.sum() / books.gpus[runs].sum()))

    def _next_event(self) -> float:
        submitted_at = self._outset.facts.submitted_at
        to_come = submitted_at > self.now + _SAME_S
        return min(
            float(self._end_at.min(initial=math.inf)),
            float(submitted_at[to_come].min(initial=math.inf)),
            self._marks[0] if self._marks else math.inf,
        )

    def _go_on(self, at: float) -> None:
        """To that time: who ends until then, who is submitted, and what comes or goes."""
        books, before = self._books, self.now
        self.now = at
        for row in np.flatnonzero(self._end_at <= at + _SAME_S).tolist():
            self.course.ended_at[row] = self._end_at[row]
            self.course.ran_s[row] += self._end_at[row] - self._since[row]
            self._end_at[row] = math.inf
            books.running[row] = self._active[row] = False
            books.capacity[books.pool[row]] -= self._closed.get(row, 0)
            self._release(books.jobs[row].key)
        submitted_at = self._outset.facts.submitted_at
        for row in np.flatnonzero(
            (submitted_at > before + _SAME_S) & (submitted_at <= at + _SAME_S)
        ).tolist():
            self._active[row] = row not in self._waits_for
        books.world = replace(self._outset.world, now=at)
        if self._marks and self._marks[0] <= at + _SAME_S:
            self._marks = [mark for mark in self._marks if mark > at + _SAME_S]
            self._change_capacity()

    def _release(self, key: str) -> None:
        for row, missing in list(self._waits_for.items()):
            missing.discard(key)
            if not missing:
                del self._waits_for[row]
                self._active[row] = self._outset.facts.submitted_at[row] <= self.now + _SAME_S

    def _change_capacity(self) -> None:
        """The least worthy leave where there are fewer GPUs than are in use."""
        books, world = self._books, self._outset.world
        books.capacity = capacity_at(world.pools, world.changes, self.now)
        for row, there in self._closed.items():
            if books.running[row]:
                books.capacity[books.pool[row]] += there
        for pool in range(len(world.pools)):
            here = np.flatnonzero(books.running & (books.pool == pool))
            here = here[np.argsort(books.worth[here], kind="stable")]
            over = int(books.gpus[here].sum()) - int(books.capacity[pool])
            for row in here.tolist():
                if over <= 0:
                    break
                over -= int(books.gpus[row])
                self._stop(row)

    def _decide(self) -> float:
        """Returns when to ask again though nothing happens."""
        books, active = self._books, np.flatnonzero(self._active)
        if books.running[active].all():
            return math.inf
        self._value(active)
        gone: set[int] = set()
        for _ in range(_MOST_ROUNDS):
            bills = self._bills(gone)
            for bill in bills:
                self._enter(bill, gone)
            if not any(bill.starts for bill in bills):
                break
        return self._ask_at(active)

    def _bills(self, gone: set[int]) -> list[Bill]:
        books = self._books
        out = np.zeros(len(self._active), bool)
        out[list(gone)] = True
        dear = TooDear(np.zeros(len(out), bool), books.running)
        while True:
            sharing = share_out(books, out | dear.out, dear.stay)
            bills = [bill_of(books, pool, sharing) for pool in range(len(books.world.pools))]
            if not dear.add([bill.payment for bill in bills]):
                return bills

    def _value(self, active: Ints) -> None:
        """Enter in the books what each is worth now, and order them by it."""
        books, facts = self._books, self._outset.facts
        running, gpus = books.running[active], books.gpus[active]
        ran_s = self._ran_s[active] + np.where(running, self.now - self._since[active], 0.0)
        predicted_h, left_h = self._predicted_h[active], self._seen_left_h[active]
        going = running & np.isfinite(predicted_h)
        left_h[going] = np.maximum((self._end_at[active][going] - self.now) / HOUR_S, _LEAST_H)
        unknown = np.isinf(predicted_h)
        if unknown.any():
            left_h[unknown] = self._outset.claims.left_h(ran_s[unknown], gpus[unknown])
        stand = Stand(
            self.now, gpus, books.pool[active], running, ran_s, predicted_h, left_h, self._price_s[active],
            self._pinned_from[active],
        )  # fmt: skip
        values = valued(facts, stand, self._policy, self._usd, active)
        books.worth[active], books.delay[active], books.left_h[active] = values.worth, values.delay, left_h
        books.price_usd[active], books.known[active] = values.price_usd, values.known
        books.pinned_until[active] = values.pinned_until
        order = worthiest_first(values.worth, facts.first[active], facts.submitted_at[active])
        books.order = active[order]

    def _enter(self, bill: Bill, gone: set[int]) -> None:
        """Who starts begins when those who leave for it have saved and left."""
        victims = bill.payment.stops
        leaves_s = max((float(self._outset.facts.stop_s[row]) for row in victims), default=0.0)
        for row in victims:
            self._stop(row)
            gone.add(row)
        for row in bill.starts:
            self._start(row, bill, leaves_s)

    def _stop(self, row: int) -> None:
        books, facts = self._books, self._outset.facts
        done_h = max(self.now - self._counts_from[row], 0.0) / HOUR_S / self._pace[row]
        self._left_h[row] = max(self._left_h[row] - done_h, 0.0)
        if math.isfinite(self._predicted_h[row]):
            self._seen_left_h[row] = max(self._left_h[row], _LEAST_H)
        ran_s = self.now - self._since[row]
        self._ran_s[row] += ran_s
        self.course.ran_s[row] += ran_s
        self.course.stops[row] += 1
        self._end_at[row], self._pinned_from[row] = math.inf, -math.inf
        books.running[row], books.pinned_until[row] = False, -math.inf
        books.settle(row, int(facts.pool[row]), int(facts.gpus[row]))
        if row in facts.choices:
            books.choices[row] = facts.choices[row]

    def _start(self, row: int, bill: Bill, leaves_s: float) -> None:
        books, facts = self._books, self._outset.facts
        books.settle(row, bill.pool, int(bill.sharing.gpus[row]))
        books.running[row], books.pinned_until[row] = True, math.inf
        self._pace[row] = facts.pace(row, bill.pool)
        self._since[row] = self.now
        self._counts_from[row] = self.now + leaves_s + facts.start_s[row]
        self._end_at[row] = self._counts_from[row] + self._left_h[row] * self._pace[row] * HOUR_S
        self._pinned_from[row] = self.now if facts.preemptible[row] else math.inf
        if math.isinf(self.course.started_at[row]):
            self.course.started_at[row] = self.now
        if math.isfinite(self._predicted_h[row]):  # its steps will say so
            self._predicted_h[row] = self._left_h[row] + self._ran_s[row] / HOUR_S

    def _ask_at(self, active: Ints) -> float:
        """When somebody may be stopped who may not be now, or a deadline comes near; the rest are events."""
        books, facts = self._books, self._outset.facts
        running = books.running[active]
        if running.all():
            return math.inf
        waiting, runs = active[~running], active[running]
        pinned_until = self._pinned_from[runs] + np.maximum(
            self._policy.min_run_s, self._policy.min_run_prices * self._price_s[runs]
        )
        hidden = (pinned_until > self.now + _SAME_S) & (books.worth[runs] < books.worth[waiting].max())
        found = [float(pinned_until[hidden].min(initial=math.inf))]
        due = waiting[np.isfinite(facts.deadline_at[waiting])]
        if len(due):
            left_s = (self._seen_left_h[due] * 1.5 + facts.start_h[due]) * HOUR_S
            near_at = facts.deadline_at[due] - left_s - self._policy.deadline_slack_s + 1.0
            found.append(float(near_at[near_at > self.now + 1.0].min(initial=math.inf)))
        unknown = runs[np.isinf(self._predicted_h[runs])]
        if len(unknown):
            ran_s = self._ran_s[unknown] + self.now - self._since[unknown]
            falls_s = self._outset.claims.falls_after_s(ran_s + _SAME_S, books.gpus[unknown])
            found.append(float(np.min(self.now + falls_s - ran_s)))
        return min(found)


def _marks(world: World) -> list[float]:
    """The times at which something changes that is no job's."""
    marks = {one.at for one in world.changes}
    marks |= {at for one in world.reservations for at in (one.from_at, one.until_at)}
    marks |= {at for pool in world.pools for at in (pool.from_at, pool.until_at) if at is not None}
    return sorted(at for at in marks if at > world.now)
