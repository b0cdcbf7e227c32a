"""Worlds for decisions: built by hand in one line each, or at random by hypothesis."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from orchestrator.fleet.jobs import Job, JobSpec, JobState, Placement, PoolPlan
from orchestrator.fleet.pools import CapacityChange, NodeState, Pool, Reservation
from orchestrator.fleet.teams import Team
from orchestrator.fleet.world import World

NOW = 1_000_000.0
POOL = Pool("h100", nodes=4, gpus_per_node=8)


def queued(
    key: str, gpus: int, hours: float | None = 1.0, *, team: str = "nlp", ago_s: float = 0.0, **spec: object
) -> Job:
    """A job that waits for GPUs of the one pool."""
    plans = (PoolPlan("h100", gpus, hours),)
    return Job(JobSpec(key, team, plans, **spec), JobState.QUEUED, NOW - ago_s)  # type: ignore[arg-type]


def running(
    key: str,
    *nodes: tuple[int, int],
    hours: float = 10.0,
    since_s: float = 3600.0,
    saved: bool = True,
    **more: object,
) -> Job:
    """A job that runs on these nodes with so many GPUs of each."""
    gpus = sum(count for _, count in nodes)
    job = queued(key, gpus, hours, ago_s=since_s, **more)
    placement = Placement("h100", tuple(node for node, _ in nodes), tuple(count for _, count in nodes))
    return replace(
        job, state=JobState.RUNNING, placement=placement, started_at=NOW - since_s, saved=saved, epoch=1
    )


def world(*jobs: Job, pool: Pool = POOL, **more: object) -> World:
    return World(NOW, tuple(jobs), (pool,), **more)  # type: ignore[arg-type]


def used(of: World) -> dict[tuple[str, int], int]:
    """GPUs in the books of each node: of those who run or are about to."""
    found: dict[tuple[str, int], int] = {}
    for job in of.jobs:
        if job.placement is not None and job.state in (JobState.RUNNING, JobState.STARTING):
            for node, count in zip(job.placement.nodes, job.placement.gpus, strict=True):
                at = (job.placement.pool, node)
                found[at] = found.get(at, 0) + count
    return found


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Two pools, a few teams with quotas or without, and jobs of which some run where there was room."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    pools = tuple(
        Pool(
            name,
            int(rng.integers(1, 6)),
            8,
            float(rng.uniform(1, 4)),
            not_up=((0, NodeState.DRAINING),) if rng.random() < 0.2 else (),
        )
        for name in ("h100", "a100")[: draw(st.integers(1, 2))]
    )
    teams = tuple(
        Team(name, quota=((pools[0].name, int(rng.integers(0, pools[0].gpus // 3 + 1))),) if rng.random() < 0.6 else (),
             borrow_limit=int(rng.integers(0, 24)) if rng.random() < 0.3 else None)
        for name in ("nlp", "cv", "ops")[: draw(st.integers(0, 3))]
    )  # fmt: skip
    free = {pool.name: np.full(pool.nodes, 8) for pool in pools}
    jobs = [_job(rng, f"j{number}", pools, free) for number in range(draw(st.integers(0, 18)))]
    reservations = ()
    if rng.random() < 0.2:
        reservations = (Reservation(pools[0].name, 1, NOW - 1, NOW + 1e4, team="nlp"),)
    jobs = [_perhaps_parked(rng, job, pools) for job in jobs]
    changes: tuple[CapacityChange, ...] = ()
    if rng.random() < 0.3:
        changes = (CapacityChange(pools[0].name, int(rng.integers(-pools[0].nodes, 3)), NOW + 7200.0),)
    return World(NOW, tuple(jobs), pools, teams, reservations, changes)


def _perhaps_parked(rng: np.random.Generator, job: Job, pools: tuple[Pool, ...]) -> Job:
    """One that waits may have left its snapshot on whatever nodes, which others may have by now."""
    plan, count = job.spec.plans[0], -(-job.spec.plans[0].gpus // 8)
    pool = next(pool for pool in pools if pool.name == plan.pool)
    if job.state is not JobState.QUEUED or pool.nodes < count or rng.random() < 0.6:
        return job
    nodes = tuple(int(node) for node in rng.permutation(pool.nodes)[:count])
    gpus = (8,) * (plan.gpus // 8) + ((plan.gpus % 8,) if plan.gpus % 8 else ())
    return replace(job, parked=Placement(plan.pool, nodes, gpus))


def _job(rng: np.random.Generator, key: str, pools: tuple[Pool, ...], free: dict[str, np.ndarray]) -> Job:
    gpus = int(rng.choice([1, 2, 3, 4, 8, 12, 16, 24]))
    hours = float(np.exp(rng.normal(0, 2))) if rng.random() < 0.8 else None
    plans = tuple(PoolPlan(pool.name, gpus, hours) for pool in pools if len(pools) == 1 or rng.random() < 0.7)
    plans = plans or (PoolPlan(pools[0].name, gpus, hours),)
    spec = JobSpec(
        key, str(rng.choice(["nlp", "cv", "ops", "new"])), plans,
        usd_per_hour=float(np.exp(rng.normal(0, 1))), rank=int(rng.random() < 0.1),
        preemptible=bool(rng.random() < 0.85), deadline_at=NOW + 3600 * float(rng.uniform(0, 9)) if rng.random() < 0.3 else None,
    )  # fmt: skip
    job = Job(spec, JobState.QUEUED, NOW - float(rng.uniform(0, 1e5)))
    if rng.random() < 0.45:
        return job
    pool = plans[0].pool
    whole, rest = divmod(gpus, 8)
    nodes = [int(node) for node in np.flatnonzero(free[pool] == 8)[:whole]]
    last = (
        [int(node) for node in np.flatnonzero(free[pool] >= rest) if int(node) not in nodes][:1]
        if rest
        else []
    )
    if len(nodes) < whole or (rest and not last):
        return job
    counts = [8] * whole + ([rest] if rest else [])
    free[pool][nodes + last] -= np.array(counts)
    placement = Placement(pool, tuple(nodes + last), tuple(counts))
    state = JobState.RUNNING if rng.random() < 0.85 else JobState.STOPPING
    step = int(rng.integers(0, 500))
    return replace(
        job, state=state, placement=placement, started_at=NOW - float(rng.uniform(0, 2e4)), epoch=1,
        saved=bool(rng.random() < 0.85), step=step, saved_step=int(step * rng.random()), steps=1000,
        step_s=float(rng.uniform(0.1, 10)),
    )  # fmt: skip
