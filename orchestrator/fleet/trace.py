"""A trace: the jobs that somebody's cluster was once asked to run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
UNSAID_USD_PER_HOUR = 1.0  # where a trace says nothing of dollars


@dataclass(frozen=True)
class TraceJob:
    """One line. ``submit_s`` counts from the trace's own zero."""

    key: str  # what the trace calls it; where it has no names, its place
    submit_s: float
    duration_s: float  # on all of its GPUs, undisturbed
    gpus: int
    team: str = ""
    model: str = ""
    state: str = "unknown"
    usd_per_hour: float = UNSAID_USD_PER_HOUR  # what an hour of delay costs
    place: str = ""  # in its file, such as "line 5"

    def told(self) -> str:
        """What a message calls it."""
        if self.key == self.place:
            return self.place
        return f"job {self.key}" + (f" ({self.place})" if self.place else "")


@dataclass(frozen=True)
class Arrivals:
    """The same in columns, by the time of their submission."""

    submit_s: Floats
    duration_s: Floats
    gpus: Ints
    usd_per_hour: Floats
    job: Ints  # its place among the jobs that these are of

    @staticmethod
    def of(jobs: Sequence[TraceJob]) -> Arrivals:
        return Arrivals(
            np.array([job.submit_s for job in jobs], float),
            np.array([job.duration_s for job in jobs], float),
            np.array([job.gpus for job in jobs], int),
            np.array([job.usd_per_hour for job in jobs], float),
            np.arange(len(jobs)),
        )

    def in_order_of(self, submit_s: Floats) -> Arrivals:
        """The same jobs, submitted at other times."""
        order = np.argsort(submit_s, kind="stable")
        return Arrivals(
            submit_s[order],
            self.duration_s[order],
            self.gpus[order],
            self.usd_per_hour[order],
            self.job[order],
        )


def in_order(jobs: Sequence[TraceJob]) -> list[TraceJob]:
    """By submission; those of one moment stay as they are."""
    return sorted(jobs, key=lambda job: job.submit_s)
