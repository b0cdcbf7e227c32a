"""What one decision takes in a large fleet: python -m benchmarks.fleet_live [--queued 10000] [--nodes 54000]

Jobs wait beside a full fleet, with gangs of 8 to 4,096 GPUs. Asked is for the decision after one of
those that run has ended; with ``--teams`` teams have quotas as well. Jobs that have not changed are handed
in as they were: what is read of a job once stays with it.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import time

import numpy as np

from orchestrator.dispatch.collecting import collect_seldom
from orchestrator.fleet.after import after, settled
from orchestrator.fleet.decide import decide
from orchestrator.fleet.jobs import Job, JobSpec, JobState, Placement, PoolPlan
from orchestrator.fleet.pools import Pool
from orchestrator.fleet.settings import Policy
from orchestrator.fleet.teams import Team
from orchestrator.fleet.world import World

_SIZES, _ODDS = (8, 64, 256, 1024, 4096), (0.4, 0.3, 0.2, 0.08, 0.02)
_TEAMS = ("red", "green", "blue", "grey")
_NOW = 1_000_000.0


def large_world(queued: int, nodes: int, teams: bool) -> World:
    """Who runs has been running for long, and saved."""
    rng = np.random.default_rng(0)
    jobs: list[Job] = []
    free = nodes
    while free:
        gpus = min(int(rng.choice(_SIZES, p=_ODDS)), free * 8)
        at = nodes - free
        count = gpus // 8
        free -= count
        where = Placement("pool", tuple(range(at, at + count)), (8,) * count)
        job = _job(rng, f"r{len(jobs):06d}", gpus)
        jobs.append(
            dataclasses.replace(
                job,
                state=JobState.RUNNING,
                placement=where,
                started_at=_NOW - 80_000.0,
                saved=True,
                epoch=1,
                steps=1000,
                step=500,
                saved_step=490,
                step_s=36.0,
            )
        )
    jobs += [_job(rng, f"q{row:06d}", int(rng.choice(_SIZES, p=_ODDS))) for row in range(queued)]
    quotas = tuple(Team(name, quota=(("pool", nodes),)) for name in _TEAMS) if teams else ()
    return World(_NOW, tuple(jobs), (Pool("pool", nodes, 8),), quotas)


def _job(rng: np.random.Generator, key: str, gpus: int) -> Job:
    plans = (PoolPlan("pool", gpus, float(np.exp(rng.normal(2.0, 1.0)))),)
    spec = JobSpec(key, str(rng.choice(_TEAMS)), plans, usd_per_hour=float(np.exp(rng.normal(0.0, 1.0))))
    return Job(spec, JobState.QUEUED, _NOW - float(rng.uniform(0.0, 90_000.0)))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--queued", type=int, default=10_000)
    parser.add_argument("--nodes", type=int, default=54_000)
    parser.add_argument("--teams", action="store_true")
    parser.add_argument("--times", type=int, default=15)
    asked = parser.parse_args()
    collect_seldom()
    world = settled_world(large_world(asked.queued, asked.nodes, asked.teams))
    took_s = []
    for time_at in range(asked.times):
        ended = world.jobs[time_at]
        now = dataclasses.replace(world, jobs=tuple(job for job in world.jobs if job is not ended))
        before = time.process_time()
        found = decide(now, Policy())
        took_s.append(time.process_time() - before)
    running = sum(1 for job in world.jobs if job.state is JobState.RUNNING)
    print(
        f"{asked.queued:,} queued, {running:,} running on {asked.nodes:,} nodes: {len(found):,} decisions in"
        f" {min(took_s) * 1e3:.0f} to {max(took_s) * 1e3:.0f} ms of one core, half of them in"
        f" {statistics.median(took_s) * 1e3:.0f} or less"
    )
    return 0


def settled_world(world: World) -> World:
    """As it is once nobody takes anything from anybody."""
    for _ in range(3):
        world = settled(after(world, decide(world, Policy())))
        world = dataclasses.replace(
            world,
            jobs=tuple(
                dataclasses.replace(job, saved=True, started_at=_NOW - 80_000.0)
                if job.state is JobState.RUNNING
                else job
                for job in world.jobs
            ),
        )
    return world


if __name__ == "__main__":
    sys.exit(main())
