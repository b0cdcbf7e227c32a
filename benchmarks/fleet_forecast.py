"""What a forecast of a long queue takes, with all futures and with as many as the queue looks at.

    python -m benchmarks.fleet_forecast --jobs 300,3000

The jobs wait on 32 nodes of eight GPUs; their gangs are of 1 to 16, and their hours log-normal (the median is
e, sigma 1). Beside the CPU time stand the middle of the jobs' ends and how wide their ranges for eight of ten
are, in hours: medians of all jobs.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time

import numpy as np

from orchestrator.fleet.after import foreseen
from orchestrator.fleet.decide import decide
from orchestrator.fleet.forecast import FUTURES, forecast, futures_for
from orchestrator.fleet.jobs import Job, JobSpec, JobState, PoolPlan
from orchestrator.fleet.pools import Pool
from orchestrator.fleet.settings import Policy
from orchestrator.fleet.world import World
from orchestrator.fleet.worth import HOUR_S

_NOW, _POOL = 1_000_000.0, Pool("gpus", 32, 8)


def _world(jobs: int, seed: int) -> World:
    rng = np.random.default_rng(seed)
    gpus = rng.choice([1, 2, 4, 8, 16], jobs).tolist()
    hours = np.exp(rng.normal(1.0, 1.0, jobs)).tolist()
    plans = [PoolPlan(_POOL.name, *each) for each in zip(gpus, hours, strict=True)]
    waiting = (Job(JobSpec(f"j{at}", "", (plan,)), JobState.QUEUED, _NOW) for at, plan in enumerate(plans))
    return World(_NOW, tuple(waiting), (_POOL,))


def _measure(world: World, futures: int) -> tuple[float, float, float]:
    policy = Policy()
    start = foreseen(world, decide(world, policy))
    began_s = time.process_time()
    found = forecast(start, policy, futures=futures)
    cpu_s = time.process_time() - began_s
    ends = [one.end for one in found.values() if one.end is not None]
    middle = statistics.median((end.at or math.inf) - _NOW for end in ends)
    width = statistics.median((end.high_at or math.inf) - end.low_at for end in ends)
    return cpu_s, middle / HOUR_S, width / HOUR_S


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", default="300,1000,3000")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    print(f"{'jobs':>7} {'futures':>8} {'CPU, s':>8} {'ends, h':>9} {'range, h':>9}")
    for jobs in map(int, asked.jobs.split(",")):
        for futures in sorted({FUTURES, futures_for(jobs)}, reverse=True):
            cpu_s, middle_h, width_h = _measure(_world(jobs, asked.seed), futures)
            print(f"{jobs:>7,} {futures:>8} {cpu_s:>8.2f} {middle_h:>9.2f} {width_h:>9.2f}", flush=True)


if __name__ == "__main__":
    main()
