"""What no policy can be better than."""

from __future__ import annotations

import heapq

from orchestrator.fleet.trace import Arrivals


def bound_jct_s(arrivals: Arrivals, gpus: int) -> float:
    """A lower bound of the average time from submission to end, gangs ignored and work divisible.

    The mean busy time of a job is half its duration before its end or more, and the sum of weighted mean busy
    times of a machine that always works on the job with the highest weight per work is the least there is
    (Goemans, Queyranne, Schulz, Skutella and Wang 2002): the machine has all GPUs, a job's work is its
    GPU-seconds, and its weight 1. A job is worked on for its duration at least, so half of that is added.
    """
    count = len(arrivals.gpus)
    service = arrivals.duration_s * arrivals.gpus / gpus
    waiting: list[tuple[float, int]] = []
    left = service.copy()
    now = total = 0.0
    next_row = 0
    while next_row < count or waiting:
        if not waiting:
            now = max(now, float(arrivals.submit_s[next_row]))
        while next_row < count and arrivals.submit_s[next_row] <= now:
            heapq.heappush(waiting, (float(service[next_row]), next_row))
            next_row += 1
        size, row = waiting[0]
        arrives = float(arrivals.submit_s[next_row]) - now if next_row < count else float("inf")
        part = min(float(left[row]), arrives)
        if size > 0:
            total += part / size * (now + part / 2)
        else:
            total += now
        now += part
        left[row] -= part
        if left[row] <= 1e-9 * size:
            heapq.heappop(waiting)
    return (total + float((arrivals.duration_s / 2).sum() - arrivals.submit_s.sum())) / count
