"""From the configuration of a scenario to the fleet's, checked key by key."""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterable, Mapping, Sequence

from orchestrator.config import ranges
from orchestrator.config.scenario_schema import ScenarioConfig, ScenarioSiteConfig
from orchestrator.errors import ConfigError, near_miss
from orchestrator.fleet.scenario import (
    EVEN_DAY,
    HOURS_OF_DAY,
    Company,
    Delivery,
    Scenario,
    Serving,
    Site,
    Work,
)
from orchestrator.fleet.scenario_draw import gangs

_NODE_GPUS = 8
_LITTLE = 1e-6


def check(config: ScenarioConfig) -> None:
    """Raises :class:`ConfigError` for the first key that does not go with the others."""
    for name in ("sites", "companies", "work", "deliveries", "serving"):
        for entry, section in getattr(config, name).items():
            ranges.check(section, f"scenario.{name}.{entry}.")
    for name in ("sites", "companies", "work"):
        if not getattr(config, name):
            raise ConfigError(f"scenario.{name}={{}}: a scenario has one at least; see conf/scenario")
    _date(config.begins)
    for key, days in _days(config):
        if days and (len(days) != HOURS_OF_DAY or not any(days)):
            raise ConfigError(
                f"{key}: it has {len(days)} numbers; give {HOURS_OF_DAY}, one for each hour of the day"
                " and not all of them 0, or []"
            )
    for site, one in config.sites.items():
        for company in one.quota:
            _known(f"scenario.sites.{site}.quota", company, config.companies, "companies")
        if (total := math.fsum(one.quota.values())) > 1.0 + _LITTLE:
            raise ConfigError(
                f"scenario.sites.{site}.quota: its shares add up to {total:g}; they may be 1 together"
            )
        _whole_nodes(f"scenario.sites.{site}.gpus", one.gpus)
    for name, delivery in config.deliveries.items():
        _known(f"scenario.deliveries.{name}.site", delivery.site, config.sites, "sites")
        _whole_nodes(f"scenario.deliveries.{name}.gpus", delivery.gpus)
    for name, load in config.serving.items():
        _known(f"scenario.serving.{name}.sites", load.sites, config.sites, "sites")
    for name, work in config.work.items():
        _whole_nodes(f"scenario.work.{name}.least_gpus", work.least_gpus)
        if math.isinf(work.median_hours):
            raise ConfigError(f"scenario.work.{name}.median_hours=inf: give the hours of a job, e.g. 336")
        if work.most_gpus < work.least_gpus:
            raise ConfigError(
                f"scenario.work.{name}.most_gpus={work.most_gpus}: it is below least_gpus={work.least_gpus}"
            )
    for company in config.companies:
        shares_of(config, company)


def _date(text: str) -> datetime.date:
    try:
        return datetime.date.fromisoformat(text)
    except ValueError:
        raise ConfigError(
            f"scenario.begins={text}: it is no date; write e.g. scenario.begins=2023-08-07"
        ) from None


def begins(config: ScenarioConfig) -> datetime.date:
    return _date(config.begins)


def _days(config: ScenarioConfig) -> Iterable[tuple[str, Sequence[float]]]:
    for name, site in config.sites.items():
        yield f"scenario.sites.{name}.cap_by_hour", site.cap_by_hour
    for name, work in config.work.items():
        yield f"scenario.work.{name}.by_hour", work.by_hour
    for name, load in config.serving.items():
        yield f"scenario.serving.{name}.by_hour", load.by_hour


def _known(key: str, name: str, of: Mapping[str, object], what: str) -> None:
    if name not in of:
        raise ConfigError(
            f"{key}={name}: the scenario has no such one among its {what}{near_miss(name, of)} (it has:"
            f" {', '.join(of)})"
        )


def _whole_nodes(key: str, gpus: int) -> None:
    if gpus % _NODE_GPUS:
        raise ConfigError(f"{key}={gpus}: give whole nodes of {_NODE_GPUS}, e.g. {gpus - gpus % _NODE_GPUS}")


def shares_of(config: ScenarioConfig, company: str) -> tuple[float, ...]:
    """Of each kind of work, in their order."""
    given = config.companies[company].work
    for name in given:
        _known(f"scenario.companies.{company}.work", name, config.work, "work")
    found = tuple((given.get(name, 0.0) if given else kind.share) for name, kind in config.work.items())
    if abs((total := math.fsum(found)) - 1.0) > 1e-3:
        key = f"scenario.companies.{company}.work" if given else "scenario.work.*.share"
        raise ConfigError(f"{key}: the shares add up to {total:g}; they have to be 1 together")
    return found


def build(name: str, config: ScenarioConfig, serving: Sequence[Serving] = ()) -> Scenario:
    """Of a configuration that is checked."""
    companies = {company: at for at, company in enumerate(config.companies)}
    sites = tuple(
        _site(f"{group}-{place + 1}" if one.count > 1 else group, group, one, config, companies)
        for group, one in config.sites.items()
        for place in range(one.count)
    )
    work = tuple(
        Work(
            kind, one.share, one.least_gpus, one.most_gpus, one.median_hours, one.hours_sigma,
            one.usd_per_gpu_hour, one.preemptible, one.burst, tuple(one.by_hour) or EVEN_DAY, one.weekend,
            one.deadline_factor,
        )
        for kind, one in config.work.items()
    )  # fmt: skip
    scenario = Scenario(
        name, config.weeks, config.warmup_weeks, sites,
        tuple(
            Company(company, one.gpus, one.load, shares_of(config, company))
            for company, one in config.companies.items()
        ),
        work,
        tuple(
            Delivery(
                order, places_of(sites, one.site), one.gpus, one.week, one.odds_of_slipping, one.slips_weeks
            )
            for order, one in config.deliveries.items()
        ),
        tuple(serving), config.gpu_hours_per_failure, config.failure_s, config.restart_s, config.hours_error,
        start_weekday=begins(config).weekday(),
    )  # fmt: skip
    _refuse_too_large(scenario)
    return scenario


def places_of(sites: Sequence[Site], group: str) -> tuple[int, ...]:
    return tuple(at for at, site in enumerate(sites) if site.group == group)


def _site(
    name: str, group: str, one: ScenarioSiteConfig, config: ScenarioConfig, companies: Mapping[str, int]
) -> Site:
    coming = sum(order.gpus for order in config.deliveries.values() if order.site == group)
    cap_kw = None
    if one.cap_mw is not None:
        cap_kw = tuple(one.cap_mw * 1000.0 * share for share in one.cap_by_hour or EVEN_DAY)
    return Site(
        name, group, one.gpus, one.usd_per_gpu_hour, config.kw_per_gpu,
        min(config.idle_kw_per_gpu, config.kw_per_gpu), one.pue, cap_kw, one.usd_per_kwh, one.kg_co2_per_kwh,
        one.largest_gang or one.gpus + math.ceil(coming / one.count),
        tuple((companies[company], share) for company, share in one.quota.items()), one.open,
    )  # fmt: skip


def _refuse_too_large(scenario: Scenario) -> None:
    """A gang that no site of its company could ever hold."""
    for at, company in enumerate(scenario.companies):
        sites = [site for site in scenario.sites if site.is_open or any(c == at for c, _ in site.quota)]
        largest = max((site.largest_gang for site in sites), default=0)
        for work, share in zip(scenario.work, company.shares, strict=True):
            if share and (most := int(gangs(work)[-1])) > largest:
                raise ConfigError(
                    f"scenario.work.{work.name}.most_gpus={work.most_gpus}: the largest site that"
                    f" {company.name} may use holds a gang of {largest}, and {most} are never split over"
                    f" sites; set it to {largest} or less"
                )
