"""The world in columns: what a decision looks at of every job that runs or could."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from operator import attrgetter

import numpy as np

from orchestrator.fleet.decisions import Hold, HoldCause
from orchestrator.fleet.jobs import ENDED, HAS_NODES, Job, JobState, PoolPlan
from orchestrator.fleet.left import Claims, left_of_prediction
from orchestrator.fleet.pools import NodeState
from orchestrator.fleet.settings import Policy
from orchestrator.fleet.trace import Bools, Floats, Ints
from orchestrator.fleet.world import World
from orchestrator.fleet.worth import HOUR_S, delay_usd_per_hour, min_run_s, price_usd, worth

_RECORD_WEIGHT = 2.0  # of "as predicted", in jobs that have ended


@dataclass
class Books:
    """``options`` has, for each row, the pools where it may run and its GPUs there, the best first; of a job
    that has nodes only its own. ``gpus`` are those of the first."""

    world: World
    jobs: list[Job]
    options: list[tuple[tuple[int, int], ...]]
    gpus: Ints
    worth: Floats
    delay: Floats
    left_h: Floats
    price_usd: Floats
    known: Bools
    pinned_until: Floats  # infinite: until it ends
    running: Bools
    preemptible: Bools
    first: Ints
    submitted_at: Floats
    team: Ints
    capacity: Ints  # by pool: GPUs of nodes on which something may start, and those in use on others
    not_up: list[Bools]  # by pool and node
    held: list[Hold]
    order: Ints  # the worthiest first; of equals who came first, then by key
    pool: Ints  # of the first option


def books_of(world: World, policy: Policy) -> Books:
    pools = {pool.name: at for at, pool in enumerate(world.pools)}
    held: list[Hold] = []
    jobs, plans = [], []
    for job in sorted(world.jobs, key=attrgetter("spec.key")):
        if job.state in ENDED or job.state is JobState.STOPPING:
            continue
        if job.state not in HAS_NODES:
            why = _why_held(job, world)
            if why is not None:
                held.append(why)
                continue
        found = _plans_of(job, world, pools)
        if not found:
            held.append(Hold(job.key, HoldCause.TOO_LARGE))
            continue
        jobs.append(job)
        plans.append(found)
    not_up = [np.zeros(pool.nodes, bool) for pool in world.pools]
    for at, pool in enumerate(world.pools):
        out = [node for node, state in pool.not_up if state is not NodeState.UP and node < pool.nodes]
        not_up[at][out] = True
    return _columns(world, policy, jobs, plans, pools, not_up, held)


def _why_held(job: Job, world: World) -> Hold | None:
    if job.state is JobState.HELD:
        return Hold(job.key, HoldCause.HELD)
    waits_for = tuple(key for key in job.spec.depends_on if key not in world.finished)
    if waits_for:
        return Hold(job.key, HoldCause.DEPENDS, behind=waits_for)
    for team in world.teams:
        if team.name == job.spec.team and team.spent_usd >= (team.usd_per_month or math.inf):
            return Hold(job.key, HoldCause.BUDGET)
    return None


def _plans_of(job: Job, world: World, pools: dict[str, int]) -> list[PoolPlan]:
    """The best first: those that meet the deadline, then by dollars."""
    plans = [plan for plan in job.spec.plans if plan.pool in pools]
    if job.state in HAS_NODES:
        here = job.placement.pool if job.placement is not None else ""
        return [plan for plan in plans if plan.pool == here]
    fit = [plan for plan in plans if _could_fit(plan, world, pools)]
    if len(fit) < 2:
        return fit

    def rank(plan: PoolPlan) -> tuple[bool, float]:
        hours = plan.hours if plan.hours is not None else math.inf
        late = job.spec.deadline_at is not None and world.now + hours * HOUR_S > job.spec.deadline_at
        price = world.pools[pools[plan.pool]].usd_per_gpu_hour
        return late, plan.usd if plan.usd is not None else plan.gpus * hours * price

    return sorted(fit, key=rank)


def _could_fit(plan: PoolPlan, world: World, pools: dict[str, int]) -> bool:
    pool = world.pools[pools[plan.pool]]
    return plan.gpus <= pool.gpus and pool.is_open(world.now)


def _columns(
    world: World,
    policy: Policy,
    jobs: list[Job],
    plans: list[list[PoolPlan]],
    pools: dict[str, int],
    not_up: list[Bools],
    held: list[Hold],
) -> Books:
    now = world.now
    options = [
        ((pools[job.placement.pool], sum(job.placement.gpus)),)
        if job.placement is not None and job.state in HAS_NODES
        else tuple((pools[plan.pool], plan.gpus) for plan in found)
        for job, found in zip(jobs, plans, strict=True)
    ]
    gpus = np.array([option[0][1] for option in options], int)
    running = np.array([job.state in HAS_NODES for job in jobs], bool)
    ran_s = np.array([_ran_s(job, now) for job in jobs], float)
    submitted_at = np.array([job.submitted_at for job in jobs], float)
    predicted_h, left_h = _hours(world, jobs, plans, gpus, ran_s)
    start_h = np.array([(job.price.start_s + job.price.load_s) / HOUR_S for job in jobs], float)
    deadline_at = np.array(
        [math.inf if job.spec.deadline_at is None else job.spec.deadline_at for job in jobs], float
    )
    slack_h = (deadline_at - now) / HOUR_S - left_h - np.where(running, 0.0, start_h)
    usd_per_hour = np.array([job.spec.usd_per_hour for job in jobs], float)
    team, fair = _teams(world, policy, jobs)
    delay = fair * delay_usd_per_hour(
        usd_per_hour, np.maximum(now - submitted_at - ran_s, 0.0), predicted_h, slack_h, left_h, policy
    )
    price_s = np.array([_price_s(job) for job in jobs], float)
    per_hour = np.array([pool.usd_per_gpu_hour for pool in world.pools], float)
    of_pool = np.array([option[0][0] for option in options], int)
    pinned_until = np.array([_pinned_until(job) for job in jobs], float) + np.where(
        running, min_run_s(price_s, policy), 0.0
    )
    capacity = np.array(
        [
            (pool.nodes - int(out.sum())) * pool.gpus_per_node
            for pool, out in zip(world.pools, not_up, strict=True)
        ],
        int,
    )
    value = worth(delay, gpus, left_h, start_h, running, np.isfinite(predicted_h), policy)
    first = np.array([job.spec.rank for job in jobs], int)
    books = Books(
        world, jobs, options, gpus, value,
        delay, left_h, price_usd(gpus, price_s, per_hour[of_pool]), np.isfinite(predicted_h),
        pinned_until, running, np.array([job.spec.preemptible for job in jobs], bool),
        first, submitted_at, team, capacity, not_up, held,
        np.lexsort((submitted_at, -value, -first)), of_pool,
    )  # fmt: skip
    _count_on_leaving_nodes(books)
    return books


def _count_on_leaving_nodes(books: Books) -> None:
    """Who runs on a node where nothing may start stays until it ends: its GPUs there go to nobody."""
    if not any(out.any() for out in books.not_up):
        return
    for row in np.flatnonzero(books.running).tolist():
        placement = books.jobs[row].placement
        assert placement is not None, "what has nodes has a placement"
        pool = books.options[row][0][0]
        out = books.not_up[pool]
        if not out.any():
            continue
        there = sum(
            count
            for node, count in zip(placement.nodes, placement.gpus, strict=True)
            if node < len(out) and out[node]
        )
        if there:
            books.capacity[pool] += there
            books.pinned_until[row] = math.inf


def _ran_s(job: Job, now: float) -> float:
    runs = job.state in HAS_NODES and job.started_at is not None
    return job.ran_s + (now - (job.started_at or now) if runs else 0.0)


def _price_s(job: Job) -> float:
    price = job.price
    unsaved = max(job.step - job.saved_step, 0) * (job.step_s or 0.0)
    return price.stop_s + price.write_s + price.start_s + price.load_s + unsaved


def _pinned_until(job: Job) -> float:
    """From when on its least time counts; infinite where it must not be stopped at all."""
    if job.state not in HAS_NODES:
        return -math.inf
    if job.state is JobState.STARTING or not job.spec.preemptible or not job.saved:
        return math.inf
    return job.started_at if job.started_at is not None else math.inf


def _hours(
    world: World, jobs: list[Job], plans: list[list[PoolPlan]], gpus: Ints, ran_s: Floats
) -> tuple[Floats, Floats]:
    """What each was predicted to take, and has left: by its steps, its plan, or what others have taken."""
    factors = _record_factors(world)
    predicted_h, left_h = np.full(len(jobs), math.inf), np.full(len(jobs), math.nan)
    errors = np.zeros(len(jobs))
    for row, (job, found) in enumerate(zip(jobs, plans, strict=True)):
        plan = found[0]
        step_s = job.step_s if job.step_s is not None else plan.step_s
        if plan.hours is not None:
            predicted_h[row] = plan.hours * factors.get((job.spec.team, job.spec.script), 1.0)
        if job.steps is not None and step_s is not None and job.step:
            done = job.step if job.state in HAS_NODES else job.saved_step
            left_h[row] = max((job.steps - done) * step_s / HOUR_S, 1.0 / HOUR_S)
        errors[row] = plan.hours_error
    by_plan = np.isnan(left_h) & np.isfinite(predicted_h)
    for error in np.unique(errors[by_plan]):
        these = by_plan & (errors == error)
        left_h[these] = left_of_prediction(predicted_h[these], ran_s[these] / HOUR_S, float(error))
    unknown = np.isnan(left_h)
    if unknown.any():
        ended = world.record.ended
        claims = Claims(
            np.array([one.hours * HOUR_S for one in ended], float), np.array([one.gpus for one in ended], int)
        )
        left_h[unknown] = claims.left_h(ran_s[unknown], gpus[unknown])
    return predicted_h, left_h


def _record_factors(world: World) -> dict[tuple[str, str], float]:
    """Actual over predicted, by team and script: their geometric mean, drawn to 1 where there are few."""
    logs: dict[tuple[str, str], list[float]] = defaultdict(list)
    for one in world.record.ended:
        if one.predicted_hours and one.hours > 0:
            logs[one.team, one.script].append(math.log(one.hours / one.predicted_hours))
    return {key: math.exp(sum(found) / (len(found) + _RECORD_WEIGHT)) for key, found in logs.items()}


def _teams(world: World, policy: Policy, jobs: list[Job]) -> tuple[Ints, Floats]:
    """Each job's team by its place in the world's list, -1 for one that is not there, and what its use of
    late does to its worth."""
    at = {team.name: place for place, team in enumerate(world.teams)}
    team = np.array([at.get(job.spec.team, -1) for job in jobs], int)
    if policy.fair <= 0 or not world.teams:
        return team, np.ones(len(jobs))
    usage = np.array([one.usage(world.now) for one in world.teams], float)
    weight = np.array([one.weight for one in world.teams], float)
    share = usage / usage.sum() if usage.sum() > 0 else weight / weight.sum()
    factors = np.append(2.0 ** (-policy.fair * (share / (weight / weight.sum()) - 1.0)), 1.0)
    return team, factors[team]
