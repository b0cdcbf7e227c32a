"""The queue as people and programs see it: who runs, who waits, why, and when each starts and ends."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.dispatch.books import Books
from orchestrator.dispatch.entries import Entry
from orchestrator.dispatch.facts import Tally
from orchestrator.dispatch.fleet_file import FleetFile
from orchestrator.dispatch.pools_now import PoolNow, pool_now
from orchestrator.dispatch.raising import Raised, raised, worth_of
from orchestrator.dispatch.run_looks import RunLooks
from orchestrator.dispatch.seen import SeenNode
from orchestrator.dispatch.world import Sight, world_of
from orchestrator.fleet.after import foreseen
from orchestrator.fleet.books import best_first
from orchestrator.fleet.decide import decide
from orchestrator.fleet.decisions import Decision, Hold, HoldCause, Move, Start, Stop, StopCause
from orchestrator.fleet.forecast import Forecast, Span, forecast, futures_for
from orchestrator.fleet.jobs import HAS_NODES, Job, JobSpec, JobState, PoolPlan
from orchestrator.fleet.pools import NodeState, Pool, leaves_at
from orchestrator.fleet.world import World

# The order in which they are listed.
_ORDER = (JobState.RUNNING, JobState.STARTING, JobState.STOPPING, JobState.QUEUED, JobState.HELD)
# Causes that may be others with another worth.
_BY_WORTH = (HoldCause.AHEAD, HoldCause.PRICE, HoldCause.PINNED, HoldCause.FRAGMENTED)


@dataclass(frozen=True)
class When:
    """Eight times of ten it is between `low` and `high`, half the times before `at`."""

    low_unix_s: float  # a tenth of the times it is before this
    at_unix_s: float | None  # half the times it is before this; null where it never is, as things are
    high_unix_s: float | None  # a tenth of the times it is after this; null where it never is, as things are


@dataclass(frozen=True)
class WhyWaiting:
    """Why a job does not run now."""

    cause: str  # a word of `HoldCause`; `no_nodes`: none of its nodes is up; `depends_lost`: never
    behind: list[str]  # who has what it needs, the worthiest first and not all of them
    gpus_missing: int  # how many more GPUs it needs than it could have
    price_usd: float  # of the stop that would let it start; 0 where none would
    gain_usd: float  # what that stop would gain
    until_unix_s: float | None  # when that ends; null where it is not known
    # what each in `behind` is worth, and has to be beaten by; empty in lists of jobs
    behind_usd_per_gpu_hour: list[float] = field(default_factory=list)
    # the least cost of delay with which it would start now; null where none would do, and in lists of jobs
    starts_at_usd_per_hour: float | None = None
    # the least class in which it would; null where none would do, and in lists of jobs
    starts_in_class: str | None = None


@dataclass(frozen=True)
class QueuedJob:
    """One job of the queue."""

    key: str  # its own, and its run's name
    group: str  # of the jobs that were submitted together; empty of one alone
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
    to_come_usd: float | None  # what it will still cost; null where nobody knows for how long it runs
    deadline_unix_s: float | None  # when it has to be done; null without a deadline
    starts: When | None  # when it will; null where it runs, or never will
    ends: When | None  # when it will; null where it never will
    why: WhyWaiting | None  # why it does not run; null where it does not wait
    stops_for: list[str]  # for whom it was stopped last
    stops: int  # how often it was stopped for others
    after: list[str]  # jobs that it waits for
    ended_unix_s: float | None  # when it ended; null where it has not
    because: str  # why it is held, or how it ended
    # when the first of its nodes leaves, before it has ended half of the times; null where none does
    nodes_leave_unix_s: float | None = None


@dataclass(frozen=True)
class PoolPlanned:
    """What a job is planned to be in one pool that it may run in."""

    pool: str  # its name
    gpus: int  # of the gang
    hours: float | None  # that it takes there; null where that is not known
    usd: float | None  # what it costs there; null where that is not known
    meets_deadline: bool | None  # whether it would, started now; null without a deadline or hours


@dataclass(frozen=True)
class Displaced:
    """A job that would be stopped for another."""

    key: str  # its own
    price_usd: float  # of the stop and the start after it
    gain_usd: float  # dollars of delay that it avoids
    moves: bool  # whether it would go on elsewhere at once


@dataclass(frozen=True)
class Outlook:
    """What would come of a job that is about to be submitted, or is moved."""

    key: str  # that it would have
    team: str  # that it would count for
    job_class: str  # its class; empty where none was named
    usd_per_hour: float  # what an hour of delay costs
    plans: list[PoolPlanned]  # one for each pool that it may run in; the first is where it would start
    deadline_unix_s: float | None  # when it has to be done; null without a deadline
    budget_usd: float | None  # at which it saves and stops; null without a budget of its own
    starts: When | None  # when it would; null where nothing lets it start
    ends: When | None  # when it would; null where nothing lets it end
    why: WhyWaiting | None  # why not now; null where it would start now
    displaces: list[Displaced]  # who would be stopped for it now
    remarks: list[str] = dataclasses.field(default_factory=list)  # what its budgets are warned of


class QueueView:
    """The books with what is decided and forecast from them. ``nodes`` are those that the daemon saw last;
    None: nobody knows, and all nodes of all pools are taken to be there."""

    def __init__(
        self, books: Books, fleet: FleetFile, run_root: Path, now: float, nodes: Sequence[SeenNode] | None
    ) -> None:
        self._books, self._fleet, self.now = books, fleet, now
        looks = RunLooks(run_root)
        progress: dict[str, Tally] = {
            entry.key: _newest(looks.look(entry.job.run_name).tally, entry.tally)
            for entry in books.live()
            if entry.job.state in (*HAS_NODES, JobState.STOPPING)
        }
        self._progress = progress
        seen = tuple(nodes) if nodes is not None else None
        self._avoided = {node.node_id for node in seen or () if node.avoided}
        self.world = world_of(books, fleet, Sight(seen, progress), now)
        if nodes is None:
            pools = tuple(
                dataclasses.replace(pool, not_up=_drained(books, pool)) for pool in self.world.pools
            )
            self.world = dataclasses.replace(self.world, pools=pools)

    def jobs(self) -> list[QueuedJob]:
        """Those that have not ended: who runs first, then who waits by worth."""
        decisions = decide(self.world, self._fleet.policy)
        found = self._forecast(self.world, decisions)
        holds = {one.job: one for one in decisions if isinstance(one, Hold)}
        told = [self._job(entry, holds.get(entry.key), found.get(entry.key)) for entry in self._books.live()]
        return sorted(
            told,
            key=lambda job: (_ORDER.index(JobState(job.state)), -(job.worth or 0.0), job.submitted_unix_s),
        )

    def job(self, key: str) -> QueuedJob | None:
        """One, and what would have it start; None where it is not there."""
        job = next((job for job in self.jobs() if job.key == key), None)
        if job is None or job.why is None or job.state != JobState.QUEUED:
            return job
        policy, found = self._fleet.policy, Raised()
        if job.why.cause in _BY_WORTH:
            found = raised(self.world, self._fleet, key)
        why = dataclasses.replace(
            job.why,
            behind_usd_per_gpu_hour=worth_of(self.world, policy, job.why.behind),
            starts_at_usd_per_hour=found.usd_per_hour,
            starts_in_class=found.job_class,
        )
        return dataclasses.replace(job, why=why)

    def ended(self, entry: Entry) -> QueuedJob:
        """One that has ended, whose start and end are past."""
        return self._job(entry, None, None)

    def pools(self) -> list[PoolNow]:
        """What there is to run on."""
        return [pool_now(self.world, pool, self._bad(pool)) for pool in self.world.pools]

    def outlook(self, spec: JobSpec) -> Outlook:
        """What would come of this one, if it were submitted now and nobody else after it."""
        return self.outlooks([spec])[0]

    def outlooks(self, specs: Sequence[JobSpec]) -> list[Outlook]:
        """The same of several that are submitted together. One whose key is there is that job, changed."""
        there = {job.key: job for job in self.world.jobs}
        changed = {
            spec.key: dataclasses.replace(there[spec.key], spec=spec) for spec in specs if spec.key in there
        }
        new = [
            Job(spec, JobState.QUEUED, self.now, run_name=spec.key) for spec in specs if spec.key not in there
        ]
        jobs = (*(changed.get(job.key, job) for job in self.world.jobs), *new)
        world = dataclasses.replace(self.world, jobs=jobs)
        decisions = decide(world, self._fleet.policy)
        found = self._forecast(world, decisions)
        holds = {one.job: one for one in decisions if isinstance(one, Hold)}
        return [
            self._outlook(spec, decisions, holds.get(spec.key), found.get(spec.key), specs) for spec in specs
        ]

    def _forecast(self, world: World, decisions: Sequence[Decision]) -> Mapping[str, Forecast]:
        futures = futures_for(len(world.jobs))
        return forecast(foreseen(world, decisions), self._fleet.policy, futures=futures)

    def _outlook(
        self,
        spec: JobSpec,
        decisions: Sequence[Decision],
        hold: Hold | None,
        found: Forecast | None,
        together: Sequence[JobSpec],
    ) -> Outlook:
        here = [
            one.placement.pool for one in decisions if isinstance(one, Start | Move) and one.job == spec.key
        ]
        plans = sorted(
            best_first(spec, spec.plans, self.world), key=lambda plan: bool(here) and plan.pool not in here
        )
        return Outlook(
            spec.key,
            spec.team,
            spec.job_class,
            spec.usd_per_hour,
            [self._planned(spec, plan) for plan in plans],
            spec.deadline_at,
            spec.budget_usd,
            _when(found.start) if found else None,
            _when(found.end) if found else None,
            self._why(hold, spec, [each.key for each in together]),
            [
                Displaced(one.job, one.price_usd, one.gain_usd, isinstance(one, Move))
                for one in decisions
                if (isinstance(one, Stop) and spec.key in one.for_jobs)
                or (isinstance(one, Move) and one.for_job == spec.key)
            ],
        )

    def _planned(self, spec: JobSpec, plan: PoolPlan) -> PoolPlanned:
        meets = None
        if spec.deadline_at is not None and plan.hours is not None:
            meets = self.now + plan.hours * 3600.0 <= spec.deadline_at
        return PoolPlanned(plan.pool, plan.gpus, plan.hours, plan.usd, meets)

    def _job(self, entry: Entry, hold: Hold | None, found: Forecast | None) -> QueuedJob:
        job, spec = entry.job, entry.job.spec
        tally = self._progress.get(entry.key, entry.tally)
        placement, slots = job.placement, self._books.nodes
        on = [slots.get((placement.pool, number)) for number in placement.nodes] if placement else []
        waits = job.state in (JobState.QUEUED, JobState.HELD)
        return QueuedJob(
            key=entry.key,
            group=spec.group,
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
            why=self._why(hold, spec) if waits else None,
            stops_for=list(entry.for_jobs),
            stops=job.preemptions,
            after=list(spec.depends_on),
            ended_unix_s=entry.ended_at,
            because=job.held_because or self._leaves_because(entry) or entry.because,
            nodes_leave_unix_s=self._leaves_at(job, found),
        )

    def _leaves_at(self, job: Job, found: Forecast | None) -> float | None:
        there = job.placement if job.state in HAS_NODES else None
        pool = next((one for one in self.world.pools if there is not None and one.name == there.pool), None)
        if there is None or pool is None or max(there.nodes, default=pool.nodes) >= pool.nodes:
            return None
        at = float(leaves_at(pool, self.world.changes)[list(there.nodes)].min())
        end_at = found.end.at if found is not None and found.end is not None else None
        return at if at < (math.inf if end_at is None else end_at) else None

    def _leaves_because(self, entry: Entry) -> str:
        """Of one that is stopped for nobody else."""
        for_money = entry.job.state is JobState.STOPPING and entry.cause == StopCause.BUDGET
        return "the budget of its team's month" if for_money and entry.wanted is None else ""

    def _why(self, hold: Hold | None, spec: JobSpec, together: Sequence[str] = ()) -> WhyWaiting | None:
        """``together`` are keys of jobs that are submitted with it."""
        if hold is None:
            return None
        named = {plan.pool for plan in spec.plans}
        up = sum(pool.nodes - len(pool.not_up) for pool in self.world.pools if pool.name in named)
        cause, behind = hold.cause.value, list(hold.behind)
        if hold.cause is HoldCause.DEPENDS:
            there = {*self._books.jobs, *self._books.finished, *together}
            lost = [key for key in hold.behind if key not in there]
            cause, behind = ("depends_lost", lost) if lost else (cause, behind)
        elif not up and hold.cause is not HoldCause.HELD:
            cause = "no_nodes"
        return WhyWaiting(cause, behind, hold.gpus_missing, hold.price_usd, hold.gain_usd, hold.until_at)

    def _bad(self, pool: Pool) -> list[int]:
        """Numbers of the nodes that a check or a run has found bad."""
        return [
            number
            for (name, number), slot in self._books.nodes.items()
            if name == pool.name and number < pool.nodes and slot.node_id in self._avoided
        ]


def _newest(looked: Tally, counted: Tally) -> Tally:
    """What a run's journal says, unless that cannot be seen from here."""
    return counted if looked.gpu_s < counted.gpu_s else looked


def _drained(books: Books, pool: Pool) -> tuple[tuple[int, NodeState], ...]:
    return tuple(
        (number, NodeState.DRAINING)
        for (name, number), slot in sorted(books.nodes.items())
        if name == pool.name and number < pool.nodes and slot.host in books.drained
    )


def _when(span: Span | None) -> When | None:
    return None if span is None else When(span.low_at, span.at, span.high_at)
