"""The world in columns: what a decision looks at of every job that runs or could."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter

import numpy as np

from orchestrator.fleet.choose import worthiest_first
from orchestrator.fleet.decisions import Hold, HoldCause
from orchestrator.fleet.facts import Able, Choices, Facts, Stand, facts_of, stand_of, valued
from orchestrator.fleet.figures import Rows, places_in, plan_of, rows_of
from orchestrator.fleet.jobs import ENDED, HAS_NODES, Job, JobSpec, JobState, PoolPlan
from orchestrator.fleet.pools import capacity_at, fits_from, most_gpus, where_nothing_starts
from orchestrator.fleet.settings import Policy
from orchestrator.fleet.teams import next_month_at
from orchestrator.fleet.trace import Bools, Floats, Ints
from orchestrator.fleet.world import World
from orchestrator.fleet.worth import HOUR_S

Spent = dict[str, float | None]  # teams with nothing left this month, and until when; None: for good


@dataclass
class Books:
    """``choices`` has the pools where a row may run, and its GPUs there, where there are several; ``pool``
    and ``gpus`` are those of the first. Of a job that has nodes there are only its own."""

    world: World
    jobs: list[Job]
    choices: dict[int, Choices]
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
    pool: Ints

    def options(self, row: int) -> Choices:
        """Where it may run, the best first."""
        return self.choices.get(row) or ((int(self.pool[row]), int(self.gpus[row])),)

    def settle(self, row: int, pool: int, gpus: int) -> None:
        """It has GPUs there, and no choice."""
        self.choices.pop(row, None)
        self.pool[row], self.gpus[row] = pool, gpus


def books_of(world: World, policy: Policy) -> Books:
    pools = {pool.name: at for at, pool in enumerate(world.pools)}
    able, held = could_run(world, pools)
    facts = facts_of(world, policy, able)
    stand = stand_of(world, facts)
    books = unordered(world, facts, stand, capacity_at(world.pools, (), world.now))
    values = valued(facts, stand, policy, np.array([pool.usd_per_gpu_hour for pool in world.pools], float))
    books.worth, books.delay, books.price_usd = values.worth, values.delay, values.price_usd
    books.known, books.pinned_until, books.held = values.known, values.pinned_until, held
    books.order = worthiest_first(values.worth, facts.first, facts.submitted_at)
    for row, there in on_closed_nodes(books).items():
        books.capacity[books.pool[row]] += there
        books.pinned_until[row] = math.inf
    return books


def unordered(world: World, facts: Facts, stand: Stand, capacity: Ints) -> Books:
    """Without what follows from what each is worth."""
    count = len(facts.jobs)
    return Books(
        world, facts.jobs, dict(facts.choices), stand.gpus.copy(), np.zeros(count), np.zeros(count),
        stand.left_h.copy(), np.zeros(count), np.isfinite(stand.predicted_h),
        np.full(count, -math.inf), stand.running.copy(), facts.preemptible, facts.first,
        facts.submitted_at, facts.team, capacity,
        [where_nothing_starts(pool) for pool in world.pools], [], np.empty(0, int), stand.pool.copy(),
    )  # fmt: skip


def could_run(world: World, pools: dict[str, int], ever: bool = False) -> tuple[Able, list[Hold]]:
    """Those who have GPUs or could, and the others with why not. ``ever``: also those who wait for another
    job, or for a pool that is to open or to grow."""
    held: list[Hold] = []
    most = most_gpus(world.pools, world.changes if ever else ())
    spent = {
        team.name: next_month_at(world.now) if team.usd_per_month else None
        for team in world.teams
        if team.is_spent
    }
    jobs = sorted(world.jobs, key=attrgetter("spec.key"))
    rows = rows_of(jobs)
    plans: dict[int, Sequence[PoolPlan]] = {}
    stays = np.ones(len(jobs), bool)
    for row in _not_plain(world, rows, most, spent, ever).tolist():
        job = jobs[row]
        if job.state in ENDED or job.state is JobState.STOPPING:
            stays[row] = False
            continue
        why = None if job.state in HAS_NODES else _why_held(job, world, spent, ever)
        if why is None:
            plans[row] = _plans_of(job, world, pools, most, ever)
            why = None if plans[row] else Hold(job.key, HoldCause.TOO_LARGE, until_at=_fits_from(job, world))
        if why is not None:
            held.append(why)
            stays[row] = False
    if not stays.all():
        place = np.cumsum(stays) - 1
        plans = {int(place[row]): found for row, found in plans.items() if stays[row]}
        jobs = [job for job, there in zip(jobs, stays.tolist(), strict=True) if there]
        rows = rows[stays]
    return Able(jobs, rows, plans), held


def _not_plain(world: World, rows: Rows, most: dict[str, int], spent: Spent, ever: bool) -> Ints:
    """Of whom something has to be looked at. Of thousands that wait it is few."""
    room = np.array(
        [most[pool.name] if ever or pool.is_open(world.now) else 0 for pool in world.pools] + [0], int
    )
    look = (rows["plain"] == 0) | (
        rows["gpus"] > room[places_in([pool.name for pool in world.pools], rows["pool"])]
    )
    if spent:
        look |= places_in(sorted(spent), rows["team"]) >= 0
    return np.flatnonzero(look)


def _why_held(job: Job, world: World, spent: Spent, ever: bool) -> Hold | None:
    if job.state is JobState.HELD:
        return Hold(job.key, HoldCause.HELD)
    if job.spec.depends_on and not ever:
        waits_for = tuple(key for key in job.spec.depends_on if key not in world.finished)
        if waits_for:
            return Hold(job.key, HoldCause.DEPENDS, behind=waits_for)
    if job.spec.team in spent:
        return Hold(job.key, HoldCause.BUDGET, until_at=spent[job.spec.team])
    return None


def _fits_from(job: Job, world: World) -> float | None:
    """When the first of its pools will be open and large enough."""
    pools = {pool.name: pool for pool in world.pools}
    times = [
        fits_from(plan.gpus, pools[plan.pool], world.changes, world.now)
        for plan in job.spec.plans
        if plan.pool in pools
    ]
    return min((at for at in times if at is not None), default=None)


def _plans_of(
    job: Job, world: World, pools: dict[str, int], most: dict[str, int], ever: bool
) -> list[PoolPlan]:
    """The best first: those that meet the deadline, then by dollars."""
    if job.state in HAS_NODES:
        here = plan_of(job)
        return [here] if here is not None and here.pool in pools else []
    fit = [plan for plan in job.spec.plans if plan.gpus <= most.get(plan.pool, 0)]
    if not ever:
        fit = [plan for plan in fit if world.pools[pools[plan.pool]].is_open(world.now)]
    return best_first(job.spec, fit, world) if len(fit) > 1 else fit


def best_first(spec: JobSpec, plans: Sequence[PoolPlan], world: World) -> list[PoolPlan]:
    """In the order in which they are tried: those that meet the deadline, then by dollars."""
    prices = {pool.name: pool.usd_per_gpu_hour for pool in world.pools}

    def rank(plan: PoolPlan) -> tuple[bool, float]:
        hours = plan.hours if plan.hours is not None else math.inf
        late = spec.deadline_at is not None and world.now + hours * HOUR_S > spec.deadline_at
        dollars = plan.gpus * hours * prices.get(plan.pool, math.inf)
        return late, plan.usd if plan.usd is not None else dollars

    return sorted(plans, key=rank)


def on_closed_nodes(books: Books) -> dict[int, int]:
    """Who runs on a node where nothing may start stays until it ends: its GPUs there, which go to nobody."""
    found: dict[int, int] = {}
    if not any(out.any() for out in books.not_up):
        return found
    for row in np.flatnonzero(books.running).tolist():
        placement = books.jobs[row].placement
        assert placement is not None, "what has nodes has a placement"
        out = books.not_up[books.pool[row]]
        if not out.any():
            continue
        there = sum(
            count
            for node, count in zip(placement.nodes, placement.gpus, strict=True)
            if node < len(out) and out[node]
        )
        if there:
            found[row] = there
    return found
