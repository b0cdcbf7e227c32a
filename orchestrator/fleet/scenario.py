"""A scenario: who asks for GPUs and where they stand, over weeks, with what is not sure about it.

Nothing here is read from a file or looked up; whoever builds one has checked it. Hours of a day are UTC.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from orchestrator.fleet.settings import Policy

HOURS_OF_DAY = 24
WEEK_S = 7 * 86400.0
EVEN_DAY = (1.0,) * HOURS_OF_DAY


@dataclass(frozen=True)
class Site:
    """One building. A gang is within it. ``quota`` is each company's share of its GPUs, by the company's
    number; what a company does not use of it is lent, to those outside too where the site is open."""

    name: str
    group: str
    gpus: int  # at the beginning
    usd_per_gpu_hour: float
    kw_per_gpu: float  # at work, with its share of the node
    idle_kw_per_gpu: float
    pue: float
    cap_kw: tuple[float, ...] | None  # by hour of the day; None: no cap
    usd_per_kwh: float
    kg_co2_per_kwh: float
    largest_gang: int
    quota: tuple[tuple[int, float], ...]
    is_open: bool


@dataclass(frozen=True)
class Work:
    """One kind of jobs. Gangs are powers of two times a node, as likely each; hours are log-normal."""

    name: str
    share: float  # of a company's GPU-hours
    least_gpus: int
    most_gpus: int
    median_hours: float
    hours_sigma: float
    usd_per_gpu_hour: float  # what an hour of delay costs, for each GPU of the gang
    is_preemptible: bool = True
    burst: int = 1  # so many come at once
    by_hour: tuple[float, ...] = EVEN_DAY  # how many come, relative to each other
    weekend: float = 1.0  # as many on a day of a weekend as on another
    deadline_factor: float | None = None  # so many times its own duration after submission


@dataclass(frozen=True)
class Company:
    """It asks for ``gpus`` × ``load`` GPUs' worth of work on average."""

    name: str
    gpus: int
    load: float
    shares: tuple[float, ...]  # of each kind of work, which add up to 1


@dataclass(frozen=True)
class Delivery:
    """GPUs for the sites of a group, evenly, unless they slip; what has slipped may slip again."""

    name: str
    sites: tuple[int, ...]
    gpus: int
    week: float
    odds_of_slipping: float
    slips_weeks: float


@dataclass(frozen=True)
class Serving:
    """GPUs that answer requests. They come before all jobs and are never stopped, but for a cap of power."""

    name: str
    sites: tuple[int, ...]  # each has an equal part
    gpus_by_hour: tuple[int, ...]  # of one site


@dataclass(frozen=True)
class Scenario:
    """``gpu_hours_per_failure`` may be infinite. A failure takes ``failure_s`` of all GPUs of the gang:
    what was not saved, and the start after it; a stop takes ``restart_s``."""

    name: str
    weeks: int  # that are looked at
    warmup_weeks: int  # before them, for queues to fill
    sites: tuple[Site, ...]
    companies: tuple[Company, ...]
    work: tuple[Work, ...]
    deliveries: tuple[Delivery, ...] = ()
    serving: tuple[Serving, ...] = ()
    gpu_hours_per_failure: float = 50_700.0
    failure_s: float = 1800.0
    restart_s: float = 180.0
    sigma: float = 0.5  # of what is predicted at submission
    told_sigma: float = 0.05  # of what the steps say
    start_hour: int = 0  # of the day
    start_weekday: int = 0  # 0 is Monday
    policy: Policy = field(default_factory=Policy)

    @property
    def begins_s(self) -> float:
        """When the weeks begin that are looked at; the clock is 0 when the warm-up does."""
        return self.warmup_weeks * WEEK_S

    @property
    def ends_s(self) -> float:
        return (self.warmup_weeks + self.weeks) * WEEK_S
