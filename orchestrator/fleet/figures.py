"""The numbers of a job, packed once: a job that has not changed is not read again by the next decision.

A fleet has ten thousand jobs that wait, and between two decisions one of them has changed. Their rows are
kept with the jobs themselves, which are frozen, and put together for each decision.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from orchestrator.fleet.jobs import ENDED, HAS_NODES, Job, JobState, PoolPlan
from orchestrator.fleet.trace import Floats, Ints
from orchestrator.fleet.worth import HOUR_S

_COLUMNS = (
    "usd_per_hour", "first", "submitted_at", "deadline_at", "preemptible", "start_s", "stop_s", "price_s",
    "running", "started_at", "ran_s", "pinned_from", "gpus", "hours", "hours_error", "left_h", "plain",
    "pool", "team", "penalty_usd",
)  # fmt: skip
_ROW = np.dtype([(name, np.float64) for name in _COLUMNS])
_KEPT = "_row"
Rows = NDArray[np.void]


_numbers: dict[str, int] = {}


def _number_of(name: str) -> int:
    """One for each name there has been, so that names can stand in columns."""
    return _numbers.setdefault(name, len(_numbers))


def places_in(names: Sequence[str], numbers: Floats) -> Ints:
    """Of each of a column of names its place among these; -1 where it is not there."""
    own = [_number_of(name) for name in names]
    places = np.full(len(_numbers), -1)
    places[own] = np.arange(len(own))
    found: Ints = places[numbers.astype(int)]
    return found


def rows_of(jobs: Iterable[Job]) -> Rows:
    """A row for each job: of a job with several plans by the first of them."""
    return np.frombuffer(b"".join([job.__dict__.get(_KEPT) or _keep(job) for job in jobs]), _ROW)


def _keep(job: Job) -> bytes:
    """With the job, as ``functools.cached_property`` would: it goes when the job goes."""
    row = np.array([_row(job)], float).tobytes()
    job.__dict__[_KEPT] = row
    return row


def _row(job: Job) -> tuple[float, ...]:
    spec, price, has_nodes = job.spec, job.price, job.state in HAS_NODES
    plan = plan_of(job)
    stop_s, start_s = price.stop_s + price.write_s, price.start_s + price.load_s
    unsaved_s = max(job.step - job.saved_step, 0) * (job.step_s or 0.0)
    gpus = sum(job.placement.gpus) if has_nodes and job.placement is not None else plan.gpus if plan else 0
    return (
        spec.usd_per_hour, spec.rank, job.submitted_at,
        math.inf if spec.deadline_at is None else spec.deadline_at, spec.preemptible,
        start_s, stop_s, start_s + stop_s + unsaved_s, has_nodes,
        math.nan if job.started_at is None or not has_nodes else job.started_at,
        job.ran_s, _pinned_from(job), gpus,
        math.inf if plan is None or plan.hours is None else plan.hours,
        plan.hours_error if plan else 0.0,
        steps_left_h(job, plan), is_plain(job), _number_of(plan.pool if plan else ""),
        _number_of(spec.team), spec.penalty_usd,
    )  # fmt: skip


def plan_of(job: Job) -> PoolPlan | None:
    """The first of those that it has, or the one that it runs by. Whoever has GPUs has them, also where none
    of its plans is of that pool: then the first of them is taken to hold there."""
    if job.state not in HAS_NODES or job.placement is None:
        return next(iter(job.spec.plans), None)
    here, gpus = job.placement.pool, sum(job.placement.gpus)
    found = next((plan for plan in job.spec.plans if plan.pool == here), None)
    if found is None:
        first = next(iter(job.spec.plans), PoolPlan(here, gpus, None))
        found = replace(first, pool=here, gpus=gpus, usd=None)
    return found


def is_plain(job: Job) -> bool:
    """Whether nothing but its team, its pool and its size can keep it from running, and it has no choice."""
    return (
        job.state not in ENDED
        and job.state not in (JobState.STOPPING, JobState.HELD)
        and (job.state in HAS_NODES or (not job.spec.depends_on and len(job.spec.plans) == 1))
    )


def steps_left_h(job: Job, plan: PoolPlan | None) -> float:
    """By the steps that it has done, where they are counted; else not a number."""
    step_s = _step_s(job, plan)
    if job.steps is None or not job.step or step_s is None:
        return math.nan
    done = job.step if job.state in HAS_NODES else job.saved_step
    return max((job.steps - done) * step_s / HOUR_S, 1.0 / HOUR_S)


def _step_s(job: Job, plan: PoolPlan | None) -> float | None:
    """As measured; in another pool than that where it was by as much more or less as the plans differ."""
    if job.step_s is None or plan is None or job.step_s_in in ("", plan.pool):
        return job.step_s if job.step_s is not None or plan is None else plan.step_s
    there = next((each for each in job.spec.plans if each.pool == job.step_s_in), None)
    if there is not None and there.step_s and plan.step_s:
        return job.step_s * plan.step_s / there.step_s
    if there is not None and there.hours and plan.hours:
        return job.step_s * plan.hours / there.hours
    return plan.step_s if plan.step_s is not None else job.step_s


def _pinned_from(job: Job) -> float:
    """From when on its least time counts; infinite where it must not be stopped at all."""
    if job.state not in HAS_NODES:
        return -math.inf
    if job.state is JobState.STARTING or not job.spec.preemptible or not job.saved:
        return math.inf
    return job.started_at if job.started_at is not None else math.inf
