"""A trace played on a fleet as its file has it: pools, quotas, what an hour of delay costs, and policy.

What decides is what decides a queue and its forecasts (:class:`~orchestrator.fleet.forward.Forward`): GPUs
are counted, and nodes are not looked at. Budgets of the month are left out.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import numpy as np

from orchestrator.errors import ConfigError, near_miss
from orchestrator.fleet.contest import Setting, drawn
from orchestrator.fleet.forward import Course, Forward, outset_of
from orchestrator.fleet.jobs import Job, JobSpec, JobState, PoolPlan, StopPrice
from orchestrator.fleet.measures import percentile
from orchestrator.fleet.pools import CapacityChange, Pool, capacity_at, most_gpus
from orchestrator.fleet.settings import Policy
from orchestrator.fleet.teams import Team
from orchestrator.fleet.trace import UNSAID_USD_PER_HOUR, Bools, TraceJob
from orchestrator.fleet.world import World
from orchestrator.fleet.worth import HOUR_S


@dataclass(frozen=True)
class Fleet:
    """What a fleet's file says, as far as it decides who runs. The trace's own zero is ``now``; its jobs are
    of the class that is the default, unless it says what an hour of delay costs."""

    path: str
    now: float
    pools: tuple[Pool, ...]
    teams: tuple[Team, ...] = ()
    changes: tuple[CapacityChange, ...] = ()
    usd_per_hour: float = UNSAID_USD_PER_HOUR
    rank: int = 0
    policy: Policy = field(default_factory=Policy)


@dataclass(frozen=True)
class PlayedJobs:
    """How some jobs did: the mean of the seeds. JCT is job completion time, from submission to end."""

    jobs: float  # that ended; of those that ``unfinished`` counts nothing else is in here
    # that never ran to their end: their team may not have so many GPUs, or those go and do not come back
    unfinished: float
    gpu_hours: float  # that they held
    avg_jct_s: float | None  # from submission to end, on average; null where none has ended
    p50_jct_s: float | None  # the median; null likewise
    p99_jct_s: float | None  # 99 of a hundred take no longer; null likewise
    avg_wait_s: float | None  # not running, also after a stop; null likewise
    stops: float  # how often one was stopped for another
    delay_usd: float  # of the time that they waited, at their cost of delay
    usd: float  # for their GPU-hours, at the price of the pool where each ran last


@dataclass(frozen=True)
class PlayedFleet:
    """A trace on a fleet."""

    trace: str  # its file
    fleet: str  # the file of pools, teams and policy
    jobs: int  # of the trace
    gpus: int  # that the fleet has at the trace's zero
    seeds: int  # how many predictions were drawn
    makespan_s: float  # from the trace's zero to the last end
    in_use: dict[str, float]  # by pool: GPU time in use, as a share of all that there is until the last end
    all: PlayedJobs  # all jobs together
    teams: dict[str, PlayedJobs]  # by team; empty for a trace that names none


def play_on(jobs: Sequence[TraceJob], trace: str, setting: Setting, fleet: Fleet) -> PlayedFleet:
    """Raises :class:`ConfigError` for a trace that has other teams than the fleet, or a gang that is larger
    than each of its pools. Of the setting the GPUs and the policy are not looked at."""
    _refuse_other_teams(jobs, fleet)
    _refuse_too_large(jobs, fleet)
    names = sorted({job.team for job in jobs})
    of_team = np.array([names.index(job.team) for job in jobs], int)
    rows: list[list[PlayedJobs]] = []
    in_use: list[dict[str, float]] = []
    ends: list[float] = []
    for seed in setting.seeds:
        world, takes_h = _world(jobs, setting, fleet, seed)
        outset = outset_of(world, fleet.policy)
        left_h = np.array([takes_h[job.key] for job in outset.facts.jobs], float)
        course = Forward(outset, fleet.policy, left_h).run()
        last_at = float(np.max(course.ended_at[np.isfinite(course.ended_at)], initial=fleet.now))
        place = np.array([int(job.key) for job in course.jobs], int)
        groups = [(np.ones(len(place), bool), len(jobs))]
        groups += [(of_team[place] == at, int((of_team == at).sum())) for at in range(len(names))]
        rows.append([_played(course, world, these, count) for these, count in groups])
        in_use.append(_in_use(course, world, last_at))
        ends.append(last_at - fleet.now)
    means = [_mean([row[at] for row in rows]) for at in range(len(names) + 1)]
    return PlayedFleet(
        trace, fleet.path, len(jobs), int(capacity_at(fleet.pools, fleet.changes, fleet.now).sum()),
        len(setting.seeds), float(np.mean(ends)),
        {pool.name: float(np.mean([one[pool.name] for one in in_use])) for pool in fleet.pools},
        means[0], dict(zip(names, means[1:], strict=True)) if names != [""] else {},
    )  # fmt: skip


def _refuse_other_teams(jobs: Sequence[TraceJob], fleet: Fleet) -> None:
    names = [team.name for team in fleet.teams]
    other = next((job for job in jobs if names and job.team and job.team not in names), None)
    if other is not None:
        raise ConfigError(
            f"--fleet={fleet.path}: {other.told()} of the trace is of team '{other.team}', and there are"
            f" {', '.join(names)}{near_miss(other.team, names)}; add it to teams, or leave that section out"
        )


def _refuse_too_large(jobs: Sequence[TraceJob], fleet: Fleet) -> None:
    most = most_gpus(fleet.pools, fleet.changes)
    largest = max(jobs, key=lambda job: job.gpus)
    if largest.gpus > max(most.values()):
        has = ", ".join(f"{name} {gpus}" for name, gpus in most.items())
        raise ConfigError(
            f"--fleet={fleet.path}: {largest.told()} of the trace takes {largest.gpus} GPUs, more than any"
            f" pool has ({has}); give one more nodes"
        )


def _world(
    jobs: Sequence[TraceJob], setting: Setting, fleet: Fleet, seed: int
) -> tuple[World, dict[str, float]]:
    """The jobs as they are to be submitted, each by its place in the trace; and the hours that each really
    takes."""
    arrivals, work_s, told = drawn(jobs, setting, seed)
    says_usd = any(job.usd_per_hour != UNSAID_USD_PER_HOUR for job in jobs)
    most, found = most_gpus(fleet.pools, fleet.changes), []
    predicted_h = arrivals.duration_s * np.exp(setting.sigma * told[0]) / HOUR_S
    for row, at in enumerate(arrivals.job.tolist()):
        job = jobs[at]
        plans = tuple(
            PoolPlan(pool.name, job.gpus, float(predicted_h[row]), setting.sigma)
            for pool in sorted(fleet.pools, key=lambda pool: pool.usd_per_gpu_hour)
            if job.gpus <= most[pool.name]
        )
        spec = JobSpec(
            str(at), job.team, plans,
            usd_per_hour=job.usd_per_hour if says_usd else fleet.usd_per_hour, rank=fleet.rank,
        )  # fmt: skip
        submitted_at = fleet.now + float(arrivals.submit_s[row])
        price = StopPrice(stop_s=0.0, start_s=setting.restart_s)
        found.append(Job(spec, JobState.QUEUED, submitted_at, price=price))
    world = World(fleet.now, tuple(found), fleet.pools, fleet.teams, changes=fleet.changes)
    return world, {str(at): float(work_s[row]) / HOUR_S for row, at in enumerate(arrivals.job.tolist())}


def _played(course: Course, world: World, these: Bools, of: int) -> PlayedJobs:
    """Of ``these`` rows; so many jobs there are."""
    ended = these & np.isfinite(course.ended_at)
    submitted_at = np.array([job.submitted_at for job in course.jobs], float)
    usd_per_hour = np.array([job.spec.usd_per_hour for job in course.jobs], float)
    price = np.array([pool.usd_per_gpu_hour for pool in world.pools], float)[course.pool]
    jct_s = (course.ended_at - submitted_at)[ended]
    waited_s = np.maximum(jct_s - course.ran_s[ended], 0.0)
    gpu_h = course.ran_s[ended] * course.gpus[ended] / HOUR_S
    count = int(ended.sum())
    return PlayedJobs(
        count, of - count, float(gpu_h.sum()),
        float(jct_s.mean()) if count else None,
        percentile(jct_s, 0.5) if count else None,
        percentile(jct_s, 0.99) if count else None,
        float(waited_s.mean()) if count else None,
        float(course.stops[these].sum()), float((waited_s / HOUR_S * usd_per_hour[ended]).sum()),
        float((gpu_h * price[ended]).sum()),
    )  # fmt: skip


def _in_use(course: Course, world: World, last_at: float) -> dict[str, float]:
    """Of the GPU time that each pool has until the last end."""
    times = {one.at for one in world.changes}
    times |= {at for pool in world.pools for at in (pool.from_at, pool.until_at) if at is not None}
    marks = [world.now, *sorted(at for at in times if world.now < at < last_at), last_at]
    there = np.zeros(len(world.pools))
    for begins_at, ends_at in itertools.pairwise(marks):
        there += capacity_at(world.pools, world.changes, begins_at) * (ends_at - begins_at)
    found = {}
    for place, pool in enumerate(world.pools):
        here = course.pool == place
        used = float((course.ran_s[here] * course.gpus[here]).sum())
        found[pool.name] = used / float(there[place]) if there[place] else 0.0
    return found


def _mean(rows: Sequence[PlayedJobs]) -> PlayedJobs:
    """Of the seeds in which there is a figure."""
    found = {}
    for name in (each.name for each in fields(PlayedJobs)):
        known = [value for row in rows if (value := getattr(row, name)) is not None]
        found[name] = float(np.mean(known)) if known else None
    return PlayedJobs(**found)  # type: ignore[arg-type]
