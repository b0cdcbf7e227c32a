"""What a stop and the start after it take of a job: as its own journal has it, else as its plan says; and
less where the nodes still have in memory what it goes on from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from orchestrator.dispatch.facts import Tally
from orchestrator.fleet.jobs import Job, JobSpec, PoolPlan, StopPrice
from orchestrator.fleet.pools import Pool

# A load is measured in seconds on a machine with other work: what saves less is not worth other nodes.
_LEAST_SAVING_S = 1.0


def price_of(spec: JobSpec, pool: str | None, tally: Tally, before: StopPrice) -> StopPrice:
    """Of a job in that pool; None: in the first of its pools. ``before`` is what was known so far."""
    price, plan = tally.price or before, _plan_in(spec, pool)
    load_s = next((one for one in (tally.load_s, plan.load_s) if one is not None), price.load_s)
    from_memory = (tally.memory_load_s, plan.memory_load_s)
    memory_load_s = next((one for one in from_memory if one is not None), load_s)
    return replace(price, load_s=load_s, memory_load_s=memory_load_s)


def parked(job: Job, at: float) -> Job:
    """A job that leaves its nodes at that time, with what they keep of it."""
    if job.placement is None or job.started_at is None:
        return job
    keep_s = _plan_in(job.spec, job.placement.pool).park_s
    return replace(job, parked=job.placement if keep_s > 0.0 else None, parked_until=at + keep_s)


def as_parked(job: Job, pools: Mapping[str, Pool], now: float) -> Job:
    """A job that waits, with the price of a start on the nodes that have it in memory, while all of them do
    and that saves something; else without these nodes."""
    there, until_at, price = job.parked, job.parked_until, job.price
    if there is None:
        return job
    pool = pools.get(there.pool)
    saves_s = price.load_s - price.memory_load_s
    if pool is None or until_at is None or until_at <= now or saves_s < _LEAST_SAVING_S:
        return replace(job, parked=None)
    out = {number for number, _ in pool.not_up}
    if not pool.is_open(now) or max(there.nodes) >= pool.nodes or out.intersection(there.nodes):
        return replace(job, parked=None)
    return replace(job, price=replace(price, load_s=price.memory_load_s))


def _plan_in(spec: JobSpec, pool: str | None) -> PoolPlan:
    return next((plan for plan in spec.plans if plan.pool == pool), spec.plans[0])
