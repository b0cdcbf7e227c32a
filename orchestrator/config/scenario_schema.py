"""The part of the schema that describes a scenario: who asks for GPUs, and where they stand, over weeks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from orchestrator.config.choices import MISSING
from orchestrator.config.ranges import (
    Factor,
    FactorOr0,
    HoursAbove0,
    Pue,
    Range,
    Seconds,
    Share,
    ShareOr0,
    Usd,
)
from orchestrator.config.serving import PeakToMean, PerDay, Tokens

Gpus = Annotated[int, Range(0, 1e7, 1024)]
GpusAbove0 = Annotated[int, Range(0, 1e7, 1024, above=True)]
Sites = Annotated[int, Range(1, 1000, 1)]
Weeks = Annotated[int, Range(1, 52, 8)]
WarmupWeeks = Annotated[int, Range(0, 52, 3)]
InWeek = Annotated[float, Range(0, 520, 1)]
Draws = Annotated[int, Range(1, 100, 3)]
Burst = Annotated[int, Range(1, 1000, 8)]
Kw = Annotated[float, Range(0, 1000, 1.275, above=True)]
KwOr0 = Annotated[float, Range(0, 1000, 0.35)]
Megawatts = Annotated[float, Range(0, 1e5, 10, above=True)]
KgPerKwh = Annotated[float, Range(0, 5, 0.35)]
Sigma = Annotated[float, Range(0, 3, 0.5)]
Hourly = Annotated[float, Range(0, 1e6, 1)]


@dataclass
class ScenarioSiteConfig:
    """Equal sites: buildings of one owner in one region, each with ``gpus``. A gang is within one."""

    gpus: Gpus = MISSING  # of each of them, at the beginning
    count: Sites = 1  # how many there are
    usd_per_gpu_hour: Usd = MISSING  # rent
    pue: Pue = MISSING  # power usage effectiveness of the building
    cap_mw: Megawatts | None = None  # of each building, with all that is in it; null is no cap
    cap_by_hour: list[Hourly] = field(default_factory=list)  # shares of it, 24 of the hours UTC; [] is 1
    usd_per_kwh: Usd = MISSING  # of the grid
    kg_co2_per_kwh: KgPerKwh = MISSING  # of the grid, on average
    # GPUs of a gang that its network can hold; null is all that the site gets
    largest_gang: GpusAbove0 | None = None
    quota: dict[str, Share] = field(default_factory=dict)  # share of its GPUs by company; the rest is lent
    open: bool = True  # whether companies without a quota here may borrow what is idle
    source: str = MISSING  # where the figures come from


@dataclass
class ScenarioCompanyConfig:
    """Who asks for GPUs. ``work`` says how its GPU-hours divide among the kinds; {} is as the kinds say."""

    gpus: GpusAbove0 = MISSING  # that it wants
    load: Factor = 1.0  # of those that its work would keep busy
    work: dict[str, ShareOr0] = field(default_factory=dict)
    source: str = MISSING  # where the figures come from


@dataclass
class ScenarioWorkConfig:
    """One kind of jobs. Gangs double from ``least_gpus`` to ``most_gpus``, as likely each; hours are
    log-normal."""

    share: ShareOr0 = MISSING  # of a company's GPU-hours
    least_gpus: GpusAbove0 = MISSING
    most_gpus: GpusAbove0 = MISSING
    median_hours: HoursAbove0 = MISSING  # on all of its GPUs, undisturbed
    hours_sigma: Sigma = 0.5  # standard deviation of their natural logarithm
    usd_per_gpu_hour: Usd = MISSING  # what an hour of delay costs, for each GPU of the gang
    preemptible: bool = True
    burst: Burst = 1  # so many come at once
    by_hour: list[Hourly] = field(default_factory=list)  # how many come, of 24 hours UTC; [] is evenly
    weekend: FactorOr0 = 1.0  # as many on a day of a weekend as on another
    deadline_factor: Factor | None = None  # so many times its hours after submission; null is no deadline
    source: str = MISSING  # where the figures come from


@dataclass
class ScenarioDeliveryConfig:
    """GPUs that come to all sites of a name, evenly. What has slipped may slip again."""

    site: str = MISSING
    gpus: GpusAbove0 = MISSING  # of all those sites together
    week: InWeek = MISSING  # 0 is the beginning of the first that is looked at
    odds_of_slipping: ShareOr0 = 0.0
    slips_weeks: Factor = 1.0  # by how much, each time
    source: str = MISSING  # where the figures come from


@dataclass
class ScenarioServingConfig:
    """An inference load. Its GPUs come before all jobs; how many it takes, `plan serve=MODEL` says."""

    model: str = MISSING  # of conf/model
    sites: str = MISSING  # it is spread over all of that name
    requests_per_day: PerDay = MISSING
    tokens_in: Tokens = MISSING  # of a prompt, mean
    tokens_out: Tokens = MISSING  # of an answer, mean
    peak_to_mean: PeakToMean = 2.0  # rate of the busiest time over the mean
    by_hour: list[Hourly] = field(default_factory=list)  # the load of 24 hours UTC; [] is always the most
    precision: str = "bf16"  # of the weights
    source: str = MISSING  # where the figures come from


@dataclass
class ScenarioConfig:
    """Who asks for GPUs and where they stand, over weeks; ``simulate scenario=NAME`` runs it. Hours are
    UTC."""

    source: str = MISSING
    warning: str = ""  # of the source itself, printed with every answer
    begins: str = "2023-08-07"  # date of the first week's first day
    weeks: Weeks = 8  # that are looked at
    warmup_weeks: WarmupWeeks = 3  # before them, for queues to fill
    seeds: Draws = 3  # so many draws, from which the ranges come
    # site at which all is run again with a thousand GPUs more, and with a megawatt more; null is nowhere
    more_at: str | None = None
    owned_cluster: str = "dgx_h100"  # of conf/cluster: what owning takes, and what serves
    capex_usd_per_gpu: Usd = 30_000.0  # of an owned GPU, with its share of the node
    kw_per_gpu: Kw = 1.275  # at work, with its share of the node: 10.2 kW for 8, NVIDIA DGX H100 datasheet
    idle_kw_per_gpu: KwOr0 = 0.35  # likewise, idle; assumed
    gpu_hours_per_failure: HoursAbove0 = 50_700.0  # Llama 3, arXiv 2407.21783
    failure_s: Seconds = 1800.0  # that a failure takes of all GPUs of its job: not saved, and the start again
    restart_s: Seconds = 180.0  # that a stop and the start after it take
    hours_error: Sigma = 0.5  # of what is known of a job's hours when it is submitted, log-normal
    sites: dict[str, ScenarioSiteConfig] = field(default_factory=dict)
    companies: dict[str, ScenarioCompanyConfig] = field(default_factory=dict)
    work: dict[str, ScenarioWorkConfig] = field(default_factory=dict)
    deliveries: dict[str, ScenarioDeliveryConfig] = field(default_factory=dict)
    serving: dict[str, ScenarioServingConfig] = field(default_factory=dict)
