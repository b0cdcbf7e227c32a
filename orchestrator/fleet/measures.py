"""What a simulated run is judged by, in the words of the field."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from orchestrator.fleet.simulate import Run
from orchestrator.fleet.trace import Floats


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


def measures(run: Run) -> Measures:
    jct_s = run.ended_at - run.arrivals.submit_s
    work = float((run.work_s * run.arrivals.gpus).sum())
    return Measures(
        float(jct_s.mean()),
        percentile(jct_s, 0.5),
        percentile(jct_s, 0.9),
        percentile(jct_s, 0.99),
        float((jct_s - run.ran_s).mean()),
        float(run.ended_at.max()),
        run.preemptions,
        run.lost_gpu_s / work if work else 0.0,
    )
