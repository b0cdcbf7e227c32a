"""What a scenario leaves to chance, drawn from a seed: the jobs, and when what was ordered comes.

Each part has a stream of its own, so that a change of one site or one order leaves all jobs as they were: two
runs of one seed differ by what was changed and by nothing else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from orchestrator.fleet.scenario import HOURS_OF_DAY, WEEK_S, Company, Delivery, Scenario, Work
from orchestrator.fleet.trace import Bools, Floats, Ints

_NODE_GPUS = 8


@dataclass(frozen=True)
class DrawnJobs:
    """A row for each job, by submission."""

    submit_s: Floats
    work_s: Floats  # with the failures that are to come
    failures: Ints
    gpus: Ints
    kind: Ints
    company: Ints
    usd_per_hour: Floats
    deadline_s: Floats  # infinite without one
    is_preemptible: Bools
    predicted_s: Floats  # at submission
    told_s: Floats  # by its steps, once it runs

    def __len__(self) -> int:
        return len(self.gpus)

    def at(self, rows: Ints | Bools) -> DrawnJobs:
        return DrawnJobs(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class Arrival:
    """GPUs that come to a site."""

    at_s: float
    site: int
    gpus: int


def draw_jobs(scenario: Scenario, seed: int) -> DrawnJobs:
    """All that are submitted before the end, the warm-up's among them."""
    parts = []
    for company_at, company in enumerate(scenario.companies):
        for kind_at, work in enumerate(scenario.work):
            share = company.shares[kind_at]
            if share > 0.0:
                rng = np.random.default_rng((seed, 1, company_at, kind_at))
                parts.append(_of_kind(scenario, rng, company_at, company, kind_at, work, share))
    columns = [
        np.concatenate([getattr(part, name) for part in parts]) for name in DrawnJobs.__dataclass_fields__
    ]
    drawn = DrawnJobs(*columns)
    return drawn.at(np.argsort(drawn.submit_s, kind="stable"))


def _of_kind(
    scenario: Scenario, rng: np.random.Generator, at: int, company: Company, kind: int, work: Work,
    share: float,
) -> DrawnJobs:  # fmt: skip
    sizes = gangs(work)
    mean_h = work.median_hours * math.exp(work.hours_sigma**2 / 2)
    wanted_gpu_h = company.gpus * company.load * share * scenario.ends_s / 3600.0
    bursts = rng.poisson(wanted_gpu_h / (float(np.mean(sizes)) * mean_h * work.burst))
    count = bursts * work.burst
    gpus = np.repeat(rng.choice(sizes, bursts), work.burst)
    duration_s = work.median_hours * np.exp(work.hours_sigma * rng.standard_normal(count)) * 3600.0
    submit_s = np.repeat(_moments(scenario, rng, work, bursts), work.burst)
    failures = rng.poisson(gpus * duration_s / 3600.0 / scenario.gpu_hours_per_failure)
    work_s = duration_s + failures * scenario.failure_s
    deadline_s = np.full(count, math.inf)
    if work.deadline_factor is not None:
        deadline_s = submit_s + work.deadline_factor * work_s
    errors = rng.standard_normal((2, count))
    return DrawnJobs(
        submit_s, work_s, failures, gpus, np.full(count, kind), np.full(count, at),
        work.usd_per_gpu_hour * gpus, deadline_s, np.full(count, work.is_preemptible),
        work_s * np.exp(scenario.sigma * errors[0]), work_s * np.exp(scenario.told_sigma * errors[1]),
    )  # fmt: skip


def gangs(work: Work) -> Ints:
    """From the least to the most by doubling."""
    sizes = [work.least_gpus]
    while sizes[-1] * 2 <= work.most_gpus:
        sizes.append(sizes[-1] * 2)
    return np.array(sizes, int)


def _moments(scenario: Scenario, rng: np.random.Generator, work: Work, count: int) -> Floats:
    """By the hours of a day and the days of a week that the work comes in."""
    hours = np.arange(int(scenario.ends_s / 3600.0))
    of_day = np.array(work.by_hour)[(hours + scenario.start_hour) % HOURS_OF_DAY]
    weekday = ((hours + scenario.start_hour) // HOURS_OF_DAY + scenario.start_weekday) % 7
    weights = of_day * np.where(weekday >= 5, work.weekend, 1.0)
    sums = np.cumsum(weights)
    places = np.searchsorted(sums, rng.random(count) * sums[-1], side="right")
    moments: Floats = (places + rng.random(count)) * 3600.0
    return moments


def draw_deliveries(scenario: Scenario, seed: int) -> list[Arrival]:
    """In the order in which they come; those that slip past the end do not come."""
    found = []
    for at, delivery in enumerate(scenario.deliveries):
        rng = np.random.default_rng((seed, 2, at))
        if delivery.odds_of_slipping >= 1.0:
            continue
        slips = int(rng.geometric(1.0 - delivery.odds_of_slipping)) - 1
        at_s = scenario.begins_s + (delivery.week + slips * delivery.slips_weeks) * WEEK_S
        if at_s < scenario.ends_s:
            found += _to_sites(delivery, at_s)
    return sorted(found, key=lambda one: (one.at_s, one.site))


def _to_sites(delivery: Delivery, at_s: float) -> list[Arrival]:
    """Whole nodes, the first sites with one more."""
    nodes, more = divmod(delivery.gpus // _NODE_GPUS, len(delivery.sites))
    return [
        Arrival(at_s, site, (nodes + (place < more)) * _NODE_GPUS)
        for place, site in enumerate(delivery.sites)
    ]


def with_more_gpus(scenario: Scenario, site: int, gpus: int) -> Scenario:
    """The same with so many more at a site from the first week that is looked at."""
    more = Delivery("more", (site,), gpus, 0.0, 0.0, 1.0)
    return replace(scenario, deliveries=(*scenario.deliveries, more))


def with_more_power(scenario: Scenario, site: int, kw: float) -> Scenario:
    """The same with so much more of power at a site."""
    sites = list(scenario.sites)
    cap_kw = sites[site].cap_kw
    if cap_kw is not None:
        sites[site] = replace(sites[site], cap_kw=tuple(cap + kw for cap in cap_kw))
    return replace(scenario, sites=tuple(sites))
