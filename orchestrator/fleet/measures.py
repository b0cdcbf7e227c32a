"""What a simulated run is judged by, in the words of the field."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from orchestrator.fleet.simulate import Idle, Run
from orchestrator.fleet.trace import Floats
from orchestrator.fleet.worth import HOUR_S


def percentile(values: Floats, share: float) -> float:
    """The value that stands at this share of all, sorted: what Muri's authors call their p99."""
    return float(np.sort(values)[min(int(share * len(values)), len(values) - 1)])


@dataclass(frozen=True)
class Measures:
    """JCT is job completion time, from submission to end."""

    avg_jct_s: float
    p50_jct_s: float
    p90_jct_s: float
    p99_jct_s: float
    avg_wait_s: float
    makespan_s: float
    preemptions: int
    gpu_time_lost: float  # to starts after a stop, as a share of the work
    allocation: float  # GPU time in use, as a share of all that there was until the last end
    idle_gpu_h: dict[str, float]  # while somebody waited, by why
    delay_usd: float  # of what jobs waited, at their cost of delay


def measures(run: Run) -> Measures:
    jct_s = run.ended_at - run.arrivals.submit_s
    waited_s = jct_s - run.ran_s
    all_gpu_s = run.gpus * float(run.ended_at.max())
    work = float((run.work_s * run.arrivals.gpus).sum())
    return Measures(
        float(jct_s.mean()),
        percentile(jct_s, 0.5),
        percentile(jct_s, 0.9),
        percentile(jct_s, 0.99),
        float(waited_s.mean()),
        float(run.ended_at.max()),
        run.preemptions,
        run.lost_gpu_s / work if work else 0.0,
        (work + run.lost_gpu_s) / all_gpu_s if all_gpu_s else 0.0,
        {why.value: run.idle_gpu_s[why] / HOUR_S for why in Idle if why is not Idle.NOBODY},
        float((waited_s / HOUR_S * run.arrivals.usd_per_hour).sum()),
    )
