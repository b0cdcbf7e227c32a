"""The books of the queue, folded from its facts: the same facts give the same books, whoever folds them."""

from __future__ import annotations

import math
import time
from collections import deque
from dataclasses import dataclass, field, replace

from orchestrator.dispatch.entries import Entry, Leader, MonthOf, NamedReservation, NodeSlot, Used
from orchestrator.dispatch.facts import (
    Began,
    CancelAsked,
    Changed,
    Ended,
    Fact,
    HeldBack,
    LeaderTook,
    Left,
    LetGo,
    Lost,
    MoveMeant,
    NodeBound,
    NodeDrained,
    NodesLeft,
    Reserved,
    StartMeant,
    StopMeant,
    Submitted,
    Tallied,
    Tally,
    Unreserved,
)
from orchestrator.dispatch.stop_prices import parked, price_of
from orchestrator.fleet.decisions import FOR_OTHERS
from orchestrator.fleet.jobs import HAS_NODES, Job, JobState
from orchestrator.fleet.teams import USAGE_HALF_LIFE_S

KEPT_ENDED = 500  # whose times say how long others take
_WAITS = frozenset({JobState.QUEUED, JobState.HELD})


@dataclass
class Books:
    """``jobs`` are those that have not ended, and those that ended with the facts folded last: the store
    moves these to ``ended``, the newest last, and to ``finished``, by key, where they did what they were
    for."""

    seq: int = 0
    jobs: dict[str, Entry] = field(default_factory=dict)
    ended: deque[Entry] = field(default_factory=lambda: deque(maxlen=KEPT_ENDED))
    finished: set[str] = field(default_factory=set)
    nodes: dict[tuple[str, int], NodeSlot] = field(default_factory=dict)
    drained: set[str] = field(default_factory=set)
    reservations: dict[str, NamedReservation] = field(default_factory=dict)
    leader: Leader = field(default_factory=Leader)
    used: dict[str, Used] = field(default_factory=dict)
    months: dict[tuple[str, str], MonthOf] = field(default_factory=dict)
    _over: set[str] = field(default_factory=set)  # who has ended and is among the live ones still

    def fold(self, at: float, by: str, fact: Fact) -> set[str]:
        """Take one fact into account; returns the keys of the jobs that are changed by it."""
        match fact:
            case Submitted():
                self._over.discard(fact.spec.key)
                return self._put(_submitted(at, by, fact))
            case Changed():
                entry = self.jobs[fact.spec.key]
                first = entry.submitted or entry.job.spec
                return self._put(replace(entry, job=replace(entry.job, spec=fact.spec), submitted=first))
            case HeldBack() | LetGo() | CancelAsked():
                return self._asked(at, fact)
            case StartMeant() | MoveMeant() | StopMeant():
                return self._meant(at, fact)
            case Began() | Lost() | Left() | Ended() | Tallied():
                return self._happened(at, fact)
            case NodesLeft():
                entry = self.jobs[fact.job]
                left = replace(entry, job=replace(parked(entry.job, at), placement=None))
                return self._put(left) | self._out_of_the_way(fact.job)
            case NodeBound():
                return self._bound(fact)
            case _:
                self._around(at, fact)
                return set()

    def tidy(self) -> None:
        """Those who have ended leave the live ones."""
        for key in [key for key in self.jobs if key in self._over] if self._over else ():
            entry = self.jobs.pop(key)
            if entry.job.state is JobState.FINISHED:
                self.finished.add(key)
                self.ended.append(entry)
        self._over.clear()

    def live(self) -> list[Entry]:
        return [entry for entry in self.jobs.values() if not entry.is_over]

    def _put(self, *entries: Entry) -> set[str]:
        self.jobs |= {entry.key: entry for entry in entries}
        self._over |= {entry.key for entry in entries if entry.is_over}
        return {entry.key for entry in entries}

    def _around(self, at: float, fact: Fact) -> None:
        match fact:
            case LeaderTook():
                self.leader = Leader(fact.epoch, fact.host, fact.pid)
            case NodeDrained():
                (self.drained.discard if fact.off else self.drained.add)(fact.host)
            case Reserved():
                kept = {name: one for name, one in self.reservations.items() if one.reservation.until_at > at}
                self.reservations = kept | {fact.name: NamedReservation(fact.name, fact.reservation)}
            case Unreserved():
                self.reservations.pop(fact.name, None)

    def _bound(self, fact: NodeBound) -> set[str]:
        """Another node has that number, and is in one place only: what the one before had in memory is not
        there."""
        changed = {at for at, slot in self.nodes.items() if slot.node_id == fact.node_id}
        for at in changed:
            del self.nodes[at]
        self.nodes[fact.pool, fact.number] = NodeSlot(fact.pool, fact.number, fact.node_id, fact.host)
        changed.add((fact.pool, fact.number))
        lost = [
            entry
            for entry in self.jobs.values()
            if (there := entry.job.parked) is not None
            and any((there.pool, number) in changed for number in there.nodes)
        ]
        return self._put(*(replace(entry, job=replace(entry.job, parked=None)) for entry in lost))

    def _asked(self, at: float, fact: HeldBack | LetGo | CancelAsked) -> set[str]:
        """What a person wants of a job: who has nodes has to leave them first."""
        entry = self.jobs[fact.job]
        job = entry.job
        if isinstance(fact, LetGo):
            kept = None if entry.wanted is JobState.HELD else entry.wanted
            state = JobState.QUEUED if job.state is JobState.HELD else job.state
            job = replace(job, state=state, held_because="")
            return self._put(replace(entry, job=job, wanted=kept, losses=0, again_at=None))
        wanted: JobState = JobState.CANCELLED if isinstance(fact, CancelAsked) else JobState.HELD
        if entry.wanted is JobState.CANCELLED:
            wanted = JobState.CANCELLED
        if isinstance(fact, HeldBack):
            job = replace(job, held_because=fact.why)
        if job.state in _WAITS:
            ended_at = at if wanted is JobState.CANCELLED else None
            return self._put(replace(entry, job=replace(job, state=wanted), ended_at=ended_at))
        return self._put(_leaving(replace(entry, job=job, wanted=wanted), at))

    def _meant(self, at: float, fact: StartMeant | MoveMeant | StopMeant) -> set[str]:
        entry = self.jobs[fact.job]
        job = entry.job
        if isinstance(fact, StopMeant):
            changed = self._pay(at, fact.for_jobs, fact.price_usd)
            entry = replace(self.jobs[fact.job], cause=fact.cause.value, for_jobs=fact.for_jobs)
            return changed | self._put(_leaving(entry, at))
        changed = set()
        moved = isinstance(fact, MoveMeant)
        if isinstance(fact, MoveMeant):
            changed = self._pay(at, (fact.for_job,), fact.price_usd)
            entry = replace(self.jobs[fact.job], for_jobs=(fact.for_job,))
        job = replace(
            job,
            state=JobState.STARTING,
            epoch=fact.epoch,
            placement=fact.placement,
            leaving=job.placement if moved else None,
            waits_for=fact.waits_for,
            step=job.saved_step,
        )
        cause = fact.cause.value if isinstance(fact, StartMeant) else entry.cause
        entry = replace(_ran(entry, at), meant_at=at, driver_since=at, again_at=None, cause=cause)
        job = replace(job, ran_s=entry.job.ran_s, started_at=None)
        return changed | self._put(replace(entry, job=job, pool=fact.placement.pool))

    def _happened(self, at: float, fact: Began | Lost | Left | Ended | Tallied) -> set[str]:
        entry = self.jobs[fact.job]
        if isinstance(fact, Began):
            job = replace(
                entry.job, state=JobState.RUNNING, started_at=at, waits_for=(), leaving=None, parked=None
            )
            return self._put(replace(entry, job=job))
        losses = entry.losses if fact.tally.step <= entry.tally.step else 0
        entry = self._counted(at, entry, fact.tally)
        if isinstance(fact, Tallied):
            return self._put(entry)
        left = parked(entry.job, at) if isinstance(fact, Left) else entry.job
        if not left.saved:
            left = replace(left, parked=None)
        entry = _ran(entry, at)
        job = replace(left, ran_s=entry.job.ran_s, started_at=None, step=entry.job.saved_step)
        if isinstance(fact, Lost):
            job = replace(job, state=JobState.STARTING, epoch=fact.epoch, waits_for=(), leaving=None)
            return self._put(replace(entry, job=job, losses=losses + 1, meant_at=at, driver_since=at))
        entry = replace(entry, because=fact.because)
        if isinstance(fact, Ended):
            job = replace(job, state=fact.state, placement=None, leaving=None, waits_for=())
            return self._put(replace(entry, job=job, ended_at=at, wanted=None)) | self._out_of_the_way(
                fact.job
            )
        if job.state is JobState.STARTING and job.leaving is not None:  # it was moved, and has left
            job = replace(job, leaving=None, saved_step=job.step, preemptions=job.preemptions + 1)
            return self._put(replace(entry, job=job)) | self._out_of_the_way(fact.job)
        for_others = job.state is JobState.STOPPING and entry.cause in FOR_OTHERS
        stopped = for_others and entry.wanted is None
        state = entry.wanted or JobState.QUEUED
        job = replace(
            job, state=state, placement=None, leaving=None, waits_for=(),
            preemptions=job.preemptions + stopped,
        )  # fmt: skip
        ended_at = at if state is JobState.CANCELLED else None
        entry = replace(
            entry, job=job, wanted=None, again_at=fact.again_at, ended_at=ended_at,
            losses=losses + (fact.again_at is not None),
        )  # fmt: skip
        return self._put(entry) | self._out_of_the_way(fact.job)

    def _out_of_the_way(self, key: str) -> set[str]:
        """Who waited for a job to leave does not any more."""
        changed: set[str] = set()
        for other in list(self.jobs.values()):
            if key in other.job.waits_for:
                waits_for = tuple(each for each in other.job.waits_for if each != key)
                changed |= self._put(replace(other, job=replace(other.job, waits_for=waits_for)))
        return changed

    def _counted(self, at: float, entry: Entry, tally: Tally) -> Entry:
        """What a run has come to since it was last counted is its team's."""
        team = entry.job.spec.team
        gpu_s = max(tally.gpu_s - entry.tally.gpu_s, 0.0)
        usd = max(tally.usd - entry.tally.usd, 0.0)
        before = self.used.get(team, Used(team, 0.0, at))
        kept = math.pow(0.5, max(at - before.at, 0.0) / USAGE_HALF_LIFE_S)
        self.used[team] = Used(team, before.gpu_s * kept + gpu_s, at)
        self._month(team, at, gpu_s=gpu_s, usd=usd)
        step_s_in = entry.pool if tally.step_s is not None else entry.job.step_s_in
        return replace(entry, job=replace(_so_far(entry.job, tally), step_s_in=step_s_in), tally=tally)

    def _pay(self, at: float, for_jobs: tuple[str, ...], price_usd: float) -> set[str]:
        """The price of a stop is paid by those whom it lets start, by equal parts."""
        payers = [self.jobs[key] for key in for_jobs if key in self.jobs]
        for payer in payers:
            share_usd = price_usd / len(payers)
            self._month(payer.job.spec.team, at, stops_usd=share_usd)
            self._put(replace(payer, paid_usd=payer.paid_usd + share_usd))
        return {payer.key for payer in payers}

    def _month(
        self, team: str, at: float, gpu_s: float = 0.0, usd: float = 0.0, stops_usd: float = 0.0
    ) -> None:
        month = month_of(at)
        was = self.months.get((team, month), MonthOf(team, month))
        self.months[team, month] = MonthOf(
            team, month, was.gpu_s + gpu_s, was.usd + usd, was.stops_usd + stops_usd
        )


def month_of(at: float) -> str:
    """As 2026-11, of UTC."""
    return time.strftime("%Y-%m", time.gmtime(at))


def _submitted(at: float, by: str, fact: Submitted) -> Entry:
    job = Job(fact.spec, JobState.QUEUED, at, fact.epoch, fact.run_name, ran_s=fact.ran_s)
    entry = Entry(_so_far(job, fact.tally), fact.cwd, by, tally=fact.tally, typed=fact.typed)
    return replace(entry, ran_in=fact.ran_in)


def _so_far(job: Job, tally: Tally) -> Job:
    """With what its run has come to."""
    return replace(
        job,
        step=max(tally.step, tally.saved_step),
        saved_step=tally.saved_step,
        saved=tally.saved,
        steps=tally.steps if tally.steps is not None else job.steps,
        step_s=tally.step_s if tally.step_s is not None else job.step_s,
        price=price_of(job.spec, job.placement.pool if job.placement else None, tally, job.price),
        spent_usd=tally.usd,
    )


def _ran(entry: Entry, at: float) -> Entry:
    """With the attempt that ends then."""
    job = entry.job
    if job.started_at is None:
        return entry
    ran_s, ran_in = max(at - job.started_at, 0.0), dict(entry.ran_in)
    ran_in[entry.pool] = ran_in.get(entry.pool, 0.0) + ran_s
    return replace(
        entry, job=replace(job, ran_s=job.ran_s + ran_s, started_at=None), ran_in=tuple(ran_in.items())
    )


def _leaving(entry: Entry, at: float) -> Entry:
    """It is to leave its nodes: of a move that has not come to anything those where it still is."""
    job = entry.job
    if job.state not in HAS_NODES:
        return entry
    where = job.leaving or job.placement
    job = replace(job, state=JobState.STOPPING, waits_for=(), placement=where, leaving=None)
    return replace(entry, job=job, meant_at=at)
