"""Traces of jobs, drawn from distributions that are stated here: nobody's cluster, and the same each time."""

from __future__ import annotations

import numpy as np

from orchestrator.fleet.trace import TraceJob

SIZES, ODDS = (1, 2, 4, 8, 16, 32), (0.45, 0.05, 0.2, 0.22, 0.06, 0.02)


def drawn(count: int, *, seed: int, gpus: int = 64, load: float = 1.5) -> list[TraceJob]:
    """Durations log-normal (median 20 minutes, sigma 2, a week at most), gangs as of ``ODDS``, and submissions of
    a Poisson process that asks for ``load`` times what the GPUs can do."""
    rng = np.random.default_rng(seed)
    duration_s = np.minimum(np.exp(rng.normal(np.log(1200.0), 2.0, count)), 7 * 86400.0) + 1.0
    size = rng.choice(SIZES, count, p=ODDS)
    span_s = float((duration_s * size).sum()) / gpus / load
    submit_s = np.sort(rng.uniform(0.0, span_s, count))
    return [
        TraceJob(f"j{row}", float(submit_s[row]), float(duration_s[row]), int(size[row]))
        for row in range(count)
    ]
