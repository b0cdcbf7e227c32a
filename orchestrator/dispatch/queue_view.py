"""The queue as people and programs see it: who runs, who waits, why, and when each starts and ends."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.dispatch.books import Books
from orchestrator.dispatch.entries import Entry
from orchestrator.dispatch.facts import Tally
from orchestrator.dispatch.fleet_file import FleetFile
from orchestrator.dispatch.run_looks import RunLooks
from orchestrator.dispatch.seen import SeenNode
from orchestrator.dispatch.world import Sight, world_of
from orchestrator.fleet.after import after
from orchestrator.fleet.decide import decide
from orchestrator.fleet.decisions import Hold, Move, Stop
from orchestrator.fleet.forecast import Forecast, Span, forecast
from orchestrator.fleet.jobs import HAS_NODES, Job, JobSpec, JobState
from orchestrator.fleet.pools import NodeState, Pool

# The order in which they are listed.
_ORDER = (JobState.RUNNING, JobState.STARTING, JobState.STOPPING, JobState.QUEUED, JobState.HELD)
FUTURES = 16


@dataclass(frozen=True)
class When:
    """Eight times of ten it is between `low` and `high`, half the times before `at`."""

    low_unix_s: float  # a tenth of the times it is before this
    at_unix_s: float | None  # half the times it is before this; null where it never is, as things are
    high_unix_s: float | None  # a tenth of the times it is after this; null where it never is, as things are


@dataclass(frozen=True)
class WhyWaiting:
    """Why a job does not run now."""

    cause: str  # a word of `HoldCause`, or `no_nodes` where none of its pools has a node that is up
    behind: list[str]  # who has what it needs, the worthiest first and not all of them
    gpus_missing: int  # how many more GPUs it needs than it could have
    price_usd: float  # of the stop that would let it start; 0 where none would
    gain_usd: float  # what that stop would gain
    until_unix_s: float | None  # when that ends; null where it is not known


@dataclass(frozen=True)
class QueuedJob:
    """One job of the queue."""

    key: str  # its own, and its run's name
    state: str  # a word of `JobState`
    team: str  # that it counts for
    owner: str  # who pays
    job_class: str  # its class; empty where none was named
    usd_per_hour: float  # what an hour of delay costs
    worth: float | None  # dollars of delay that a GPU-hour avoids; null of one that runs
    gpus: int  # of its gang
    pool: str | None  # where it is; null where it has no nodes
    hosts: list[str]  # the nodes that it has
    submitted_unix_s: float  # when it was
    started_unix_s: float | None  # its newest start; null where it does not run
    step: int  # the highest that its run has reached
    saved_step: int  # of its newest checkpoint
    steps: int | None  # that there are to be; null where that is not known
    spent_usd: float  # by its run
    paid_usd: float  # for stops of others
    to_come_usd: float | None  # what it will still cost; null where nobody knows
    deadline_unix_s: float | None  # when it has to be done; null without a deadline
    starts: When | None  # when it will; null where it runs, or never will
    ends: When | None  # when it will; null where it never will
    why: WhyWaiting | None  # why it does not run; null where it does not wait
    stops_for: list[str]  # for whom it was stopped last
    stops: int  # how often it was stopped for others
    after: list[str]  # jobs that it waits for
    because: str  # why it is held, or how it ended


@dataclass(frozen=True)
class Displaced:
    """A job that would be stopped for another."""

    key: str  # its own
    price_usd: float  # of the stop and the start after it
    gain_usd: float  # dollars of delay that it avoids
    moves: bool  # whether it would go on elsewhere at once


@dataclass(frozen=True)
class Outlook:
    """What would come of a job that is about to be submitted."""

    key: str  # that it would have
    team: str  # that it would count for
    gpus: int  # of its gang in the first pool
    pools: list[str]  # that it may run in, the first is tried first
    usd: float | None  # what it is planned to cost; null where that is not known
    hours: float | None  # that it is planned to take; null where that is not known
    starts: When | None  # when it would; null where nothing lets it start
    ends: When | None  # when it would; null where nothing lets it end
    why: WhyWaiting | None  # why not now; null where it would start now
    displaces: list[Displaced]  # who would be stopped for it now


class QueueView:
    """The books with what is decided and forecast from them. ``nodes`` are those that the daemon saw last;
    None: nobody knows, and all nodes of all pools are taken to be there."""

    def __init__(
        self, books: Books, fleet: FleetFile, run_root: Path, now: float, nodes: Sequence[SeenNode] | None
    ) -> None:
        self._books, self._fleet, self._now = books, fleet, now
        looks = RunLooks(run_root)
        progress: dict[str, Tally] = {
            entry.key: looks.look(entry.job.run_name).tally
            for entry in books.live()
            if entry.job.state in (*HAS_NODES, JobState.STOPPING)
        }
        self._progress = progress
        seen = tuple(nodes) if nodes is not None else None
        self.world = world_of(books, fleet, Sight(seen, progress), now)
        if nodes is None:
            pools = tuple(dataclasses.replace(pool, not_up=_drained(pool)) for pool in self.world.pools)
            self.world = dataclasses.replace(self.world, pools=pools)

    def jobs(self) -> list[QueuedJob]:
        """Those that have not ended: who runs first, then who waits by worth."""
        decisions = decide(self.world, self._fleet.policy)
        found = forecast(after(self.world, decisions), self._fleet.policy, futures=FUTURES)
        holds = {one.job: one for one in decisions if isinstance(one, Hold)}
        told = [self._job(entry, holds.get(entry.key), found.get(entry.key)) for entry in self._books.live()]
        return sorted(
            told,
            key=lambda job: (_ORDER.index(JobState(job.state)), -(job.worth or 0.0), job.submitted_unix_s),
        )

    def job(self, key: str) -> QueuedJob | None:
        return next((job for job in self.jobs() if job.key == key), None)

    def outlook(self, spec: JobSpec) -> Outlook:
        """What would come of this one, if it were submitted now and nobody else after it."""
        job = Job(spec, JobState.QUEUED, self._now, run_name=spec.key)
        world = dataclasses.replace(self.world, jobs=(*self.world.jobs, job))
        decisions = decide(world, self._fleet.policy)
        found = forecast(after(world, decisions), self._fleet.policy, futures=FUTURES).get(spec.key)
        hold = next((one for one in decisions if isinstance(one, Hold) and one.job == spec.key), None)
        plan = spec.plans[0]
        return Outlook(
            spec.key, spec.team, plan.gpus, [each.pool for each in spec.plans], plan.usd, plan.hours,
            _when(found.start) if found else None,
            _when(found.end) if found else None,
            self._why(hold),
            [
                Displaced(one.job, one.price_usd, one.gain_usd, isinstance(one, Move))
                for one in decisions
                if (isinstance(one, Stop) and spec.key in one.for_jobs)
                or (isinstance(one, Move) and one.for_job == spec.key)
            ],
        )  # fmt: skip

    def _job(self, entry: Entry, hold: Hold | None, found: Forecast | None) -> QueuedJob:
        job, spec = entry.job, entry.job.spec
        tally = self._progress.get(entry.key, entry.tally)
        placement, slots = job.placement, self._books.nodes
        on = [slots.get((placement.pool, number)) for number in placement.nodes] if placement else []
        waits = job.state in (JobState.QUEUED, JobState.HELD)
        return QueuedJob(
            key=entry.key,
            state=job.state.value,
            team=spec.team,
            owner=spec.owner,
            job_class=spec.job_class,
            usd_per_hour=spec.usd_per_hour,
            worth=hold.worth if hold is not None else None,
            gpus=sum(placement.gpus) if placement else spec.plans[0].gpus,
            pool=placement.pool if placement else None,
            hosts=[slot.host for slot in on if slot is not None],
            submitted_unix_s=job.submitted_at,
            started_unix_s=job.started_at,
            step=tally.step,
            saved_step=tally.saved_step,
            steps=tally.steps,
            spent_usd=tally.usd,
            paid_usd=entry.paid_usd,
            to_come_usd=found.usd if found is not None and found.end is not None else None,
            deadline_unix_s=spec.deadline_at,
            starts=_when(found.start) if found and waits else None,
            ends=_when(found.end) if found else None,
            why=self._why(hold) if waits else None,
            stops_for=list(entry.for_jobs),
            stops=job.preemptions,
            after=list(spec.depends_on),
            because=job.held_because or entry.because,
        )

    def _why(self, hold: Hold | None) -> WhyWaiting | None:
        if hold is None:
            return None
        entry = self._books.jobs.get(hold.job)
        named = (
            {plan.pool for plan in entry.job.spec.plans}
            if entry
            else {pool.name for pool in self.world.pools}
        )
        up = sum(pool.nodes - len(pool.not_up) for pool in self.world.pools if pool.name in named)
        cause = hold.cause.value if up or hold.cause.value in ("held", "depends") else "no_nodes"
        return WhyWaiting(
            cause, list(hold.behind), hold.gpus_missing, hold.price_usd, hold.gain_usd, hold.until_at
        )


def _drained(pool: Pool) -> tuple[tuple[int, NodeState], ...]:
    return tuple((number, state) for number, state in pool.not_up if state is NodeState.DRAINING)


def _when(span: Span | None) -> When | None:
    return None if span is None else When(span.low_at, span.at, span.high_at)
