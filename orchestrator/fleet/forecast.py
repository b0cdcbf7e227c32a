"""When each job starts and ends, with a range: the policy run forward, several times.

Each time every job takes as long as one of its kind might: its plan's hours times a log-normal error, what
its steps say times a small one, or what others have taken where nobody knows. Jobs that are still to be
submitted are drawn from those of late.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

from orchestrator.fleet.figures import plan_of
from orchestrator.fleet.forward import Forward, Outset, outset_of
from orchestrator.fleet.jobs import Job, JobState, PoolPlan
from orchestrator.fleet.left import PRIOR_S
from orchestrator.fleet.settings import Policy
from orchestrator.fleet.trace import Bools, Floats, Ints
from orchestrator.fleet.world import World
from orchestrator.fleet.worth import HOUR_S

FUTURES = 16
STEPS_ERROR = 0.05  # standard deviation of ln(actual / told) of what a job's own steps say is left
_LOW, _HIGH = 0.1, 0.9
_KEPT_KIND = 0.3  # how much a job may differ from the one that it is likened to, in ln
_MANY_JOBS = 300  # for which all futures are looked at
_LEAST_FUTURES = 5
_ENOUGH = 10  # jobs of late, to expect more of the kind
_MOST_COMING = 4000
_COMING = "\x00"  # what the keys of jobs to come begin with: no client's does


@dataclass(frozen=True)
class Span:
    """Eight of ten are between ``low_at`` and ``high_at``, half before ``at``. None: never, as things
    are."""

    low_at: float
    at: float | None
    high_at: float | None


@dataclass(frozen=True)
class Forecast:
    """Of one job. ``start`` is of its first start, also where that has been; both are None where nothing
    that is to come lets it run."""

    job: str
    start: Span | None
    end: Span | None
    usd: float | None = 0.0  # of the GPU time that is still to come, on average; None: nobody knows how much
    stops: float = 0.0  # how often it is stopped for others, on average


def forecast(
    world: World,
    policy: Policy,
    *,
    recent: Sequence[Job] = (),
    futures: int = FUTURES,
    seed: int = 0,
    coarse: float = 0.05,
) -> Mapping[str, Forecast]:
    """By the key of each job of the world that has not ended. ``recent`` are jobs that were submitted of
    late, ended or not: as many like them are expected to come. ``coarse``: see :class:`Forward`."""
    outset = outset_of(replace(world, jobs=(*world.jobs, *coming(world, recent))), policy)
    found = {held.job: Forecast(held.job, None, None) for held in outset.held if not _is_to_come(held.job)}
    jobs = outset.facts.jobs
    to_come = np.array([row for row, job in enumerate(jobs) if _is_to_come(job.key)], int)
    if len(to_come) == len(jobs):
        return found
    courses = []
    rng = np.random.default_rng(seed)
    for share in _shares(futures, len(jobs), rng):
        left_h = drawn_left_h(outset, share, rng)
        future = _drawn_times(outset, to_come, rng)
        courses.append(Forward(future, policy, left_h, coarse).run(to_come))
    starts = np.array([course.started_at for course in courses])
    ends = np.array([course.ended_at for course in courses])
    usd_per_gpu_hour = np.array([pool.usd_per_gpu_hour for pool in world.pools], float)
    usd = np.mean(
        [course.ran_s / HOUR_S * course.gpus * usd_per_gpu_hour[course.pool] for course in courses], axis=0
    )
    stops = np.mean([course.stops for course in courses], axis=0)
    start_spans, end_spans = _spans(starts), _spans(ends)
    known = np.isfinite(outset.facts.predicted_h) | ~np.isnan(outset.facts.steps_left_h)
    for row, job in enumerate(jobs):
        if _is_to_come(job.key):
            continue
        found[job.key] = Forecast(
            job.key, start_spans[row], end_spans[row], float(usd[row]) if known[row] else None,
            float(stops[row]),
        )  # fmt: skip
    return found


def futures_for(jobs: int) -> int:
    """Fewer for many jobs, of which each takes longer. With five the first and the last are still the tenths:
    of a job alone the range is as wide as with more, and of one that waits for others it only moves more."""
    return max(min(FUTURES, FUTURES * _MANY_JOBS // max(jobs, 1)), _LEAST_FUTURES)


def _is_to_come(key: str) -> bool:
    return key.startswith(_COMING)


def _spans(times: Floats) -> list[Span | None]:
    """Of each job over the seeds, whose times stand in rows. Between a time and never there is none."""
    ordered = np.sort(times, axis=0)

    def at(share: float) -> list[float | None]:
        place = min(max(share * len(ordered) - 0.5, 0.0), len(ordered) - 1.0)
        low, high = ordered[math.floor(place)], ordered[math.ceil(place)]
        ever, part = np.isfinite(high), place - math.floor(place)
        found = np.where(ever, low, 0.0) + part * (np.where(ever, high, 0.0) - np.where(ever, low, 0.0))
        return [one if is_ever else None for one, is_ever in zip(found.tolist(), ever.tolist(), strict=True)]

    rows = zip(at(_LOW), at(0.5), at(_HIGH), strict=True)
    return [None if low is None else Span(low, middle, high) for low, middle, high in rows]


def _shares(futures: int, jobs: int, rng: np.random.Generator) -> Floats:
    """For each future and job the share of futures in which the job takes less: of a job alone each of them
    comes once, so few futures tell its range as well as many drawn at random (Latin hypercube, McKay, Beckman
    and Conover 1979)."""
    return (np.argsort(rng.random((futures, jobs)), axis=0) + 0.5) / futures


def drawn_left_h(outset: Outset, share: Floats, rng: np.random.Generator) -> Floats:
    """What each has left in one of the futures that may be."""
    facts, stand = outset.facts, outset.stand
    count = len(facts.jobs)
    levels = {float(one): NormalDist().inv_cdf(float(one)) for one in np.unique(share)}
    normal = np.array([levels[one] for one in share.tolist()], float)
    left_h = facts.steps_left_h.copy()
    told = ~np.isnan(left_h)
    left_h[told] *= np.exp(STEPS_ERROR * normal[told])
    planned = ~told & np.isfinite(facts.predicted_h)
    ran_h = np.minimum(stand.ran_s / HOUR_S, 1e9)
    error = np.where(
        planned & (ran_h > 0), _beyond(facts.predicted_h, ran_h, facts.hours_error, share, planned), normal
    )
    taken_h = facts.predicted_h[planned] * np.exp(facts.hours_error[planned] * error[planned])
    left_h[planned] = taken_h - ran_h[planned]
    unknown = np.flatnonzero(~told & ~planned)
    if len(unknown):
        left_h[unknown] = _like_others(outset, unknown, ran_h, share, rng.standard_normal(count))
    return np.maximum(left_h, 1.0 / HOUR_S)


def _beyond(predicted_h: Floats, ran_h: Floats, sigma: Floats, share: Floats, rows: Bools) -> Floats:
    """Deviations of jobs that have run for a while already: only those futures are left that are longer."""
    found, normal = np.zeros(len(rows)), NormalDist()
    for row in np.flatnonzero(rows & (ran_h > 0)).tolist():
        if sigma[row] <= 0:
            continue
        least = normal.cdf(-math.log(ran_h[row] / predicted_h[row]) / sigma[row])  # the share that is longer
        tail = max(least * (1.0 - share[row]), 1e-12)
        found[row] = -normal.inv_cdf(min(tail, 1.0 - 1e-12))
    return found


def _like_others(outset: Outset, rows: Ints, ran_h: Floats, share: Floats, normal: Floats) -> Floats:
    """As long as one of those that have ended and took longer, or of any magnitude where none did."""
    taken_h = np.sort(np.concatenate([[one.hours for one in outset.world.record.ended], PRIOR_S / HOUR_S]))
    spread = np.exp(_KEPT_KIND * normal[rows])
    first = np.searchsorted(taken_h, ran_h[rows], side="right")
    longer = len(taken_h) - first
    place = np.minimum(first + (share[rows] * longer).astype(int), len(taken_h) - 1)
    past = np.where(longer > 0, taken_h[place] - ran_h[rows], ran_h[rows])
    found: Floats = np.maximum(past, 0.01 * ran_h[rows]) * spread
    return found


def coming(world: World, recent: Sequence[Job]) -> list[Job]:
    """Jobs like the recent ones, in the same order at the same distances, over and over until the world's
    own work could be done: whoever draws a future gives them other times."""
    first_at = min((job.submitted_at for job in recent), default=world.now)
    window_s = world.now - first_at
    if window_s <= 0 or len(recent) < _ENOUGH:
        return []
    many = min(max(2 * len(world.jobs), 4 * len(recent)), _MOST_COMING)
    gap_s = window_s / len(recent)
    found = []
    for number in range(many):
        like, at = recent[number % len(recent)], world.now + (number + 1) * gap_s
        due = None if like.spec.deadline_at is None else at + like.spec.deadline_at - like.submitted_at
        spec = replace(
            like.spec, key=f"{_COMING}{number}", plans=_on_average(like), deadline_at=due, depends_on=()
        )
        found.append(Job(spec, JobState.QUEUED, at, price=like.price))
    return found


def _on_average(like: Job) -> tuple[PoolPlan, ...]:
    """Its plans, with hours that are drawn around what it took, as its steps say. Where there are none its
    plan is wrong by an error already, and one is drawn on top of it: both make the mean of many greater than
    what they take (that of a log-normal error of sigma is exp(sigma² / 2)), which is taken off."""
    plan = plan_of(like)
    took_h = like.steps * like.step_s / HOUR_S if like.step and like.steps and like.step_s else None
    factor = took_h / plan.hours if took_h and plan is not None and plan.hours else None
    return tuple(
        each
        if each.hours is None
        else replace(
            each,
            hours=each.hours * (factor or 1.0) * math.exp(-(each.hours_error**2) / (2 if factor else 1)),
        )
        for each in like.spec.plans
    )


def _drawn_times(outset: Outset, rows: Ints, rng: np.random.Generator) -> Outset:
    """The same jobs to come, at times of a Poisson process, in any order."""
    if not len(rows):
        return outset
    submitted_at = outset.facts.submitted_at.copy()
    gap_s = (float(submitted_at[rows].max()) - outset.world.now) / len(rows)
    times = outset.world.now + np.cumsum(rng.exponential(gap_s, len(rows)))
    submitted_at[rng.permutation(rows)] = times
    return replace(outset, facts=replace(outset.facts, submitted_at=submitted_at))
