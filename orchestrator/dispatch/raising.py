"""What would have to be changed of a job that waits, so that it starts: a class, or what an hour of delay
costs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from orchestrator.dispatch.fleet_file import FleetFile
from orchestrator.fleet.books import books_of
from orchestrator.fleet.decide import decide
from orchestrator.fleet.decisions import Start
from orchestrator.fleet.jobs import JobSpec
from orchestrator.fleet.settings import Policy
from orchestrator.fleet.world import World

# Beyond a price so much higher nobody looks.
_MOST_TIMES = 1e6
# Each halves the span in which the least price lies: after so many it is known to half a percent.
_HALVINGS = 12


@dataclass(frozen=True)
class Raised:
    """``usd_per_hour`` is the least with which the job would start now, ``job_class`` the least class with
    which it would; None where none does."""

    usd_per_hour: float | None = None
    job_class: str | None = None


def raised(world: World, fleet: FleetFile, key: str) -> Raised:
    """Asks what would be decided now if it were worth more; nothing is changed."""
    spec = next(job.spec for job in world.jobs if job.key == key)

    def starts(changed: JobSpec) -> bool:
        jobs = tuple(replace(job, spec=changed) if job.key == key else job for job in world.jobs)
        decisions = decide(replace(world, jobs=jobs), fleet.policy)
        return any(isinstance(one, Start) and one.job == key for one in decisions)

    named = next((changed.job_class for changed in _classes(spec, fleet) if starts(changed)), None)
    low, high = spec.usd_per_hour, spec.usd_per_hour * _MOST_TIMES
    if not starts(replace(spec, usd_per_hour=high)):
        return Raised(None, named)
    for _ in range(_HALVINGS):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if starts(replace(spec, usd_per_hour=middle)) else (middle, high)
    return Raised(_rounded_up(high), named)


def worth_of(world: World, policy: Policy, keys: list[str]) -> list[float]:
    """Dollars of delay that a GPU-hour of each avoids; of one that runs what has to be beaten. Of one that is
    not weighed it is 0."""
    books = books_of(world, policy)
    found = {job.key: float(books.worth[row]) for row, job in enumerate(books.jobs)}
    return [found.get(key, 0.0) for key in keys]


def _classes(spec: JobSpec, fleet: FleetFile) -> Iterator[JobSpec]:
    """The job in each class that is worth more than its own, the least first."""
    for each in sorted(fleet.classes, key=lambda one: (one.rank, one.usd_per_hour)):
        if (each.rank, each.usd_per_hour) > (spec.rank, spec.usd_per_hour):
            yield replace(spec, job_class=each.name, usd_per_hour=each.usd_per_hour, rank=each.rank)


def _rounded_up(usd: float) -> float:
    """To two digits, as one would type it."""
    step = 10.0 ** (math.floor(math.log10(usd)) - 1)
    return float(f"{math.ceil(usd / step - 1e-9) * step:.6g}")
