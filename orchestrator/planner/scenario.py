"""``simulate scenario=NAME``: a scenario over its seeds, with what serving takes and what owning costs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from orchestrator.config import load, ranges
from orchestrator.config.catalog import option_files, read_all
from orchestrator.config.scenario_schema import ScenarioConfig, ScenarioServingConfig
from orchestrator.config.schema import Config, ModelConfig, PriceKind
from orchestrator.errors import ConfigError, near_miss
from orchestrator.fleet.scenario import EVEN_DAY, Scenario, Serving, Site
from orchestrator.fleet.scenario_more import (
    MoreAdvice,
    OwnedPrice,
    RunAgain,
    advise,
    run_again,
    run_seeds,
)
from orchestrator.fleet.scenario_report import (
    SiteWeek,
    Totals,
    WaitRow,
    all_weeks,
    company_rows,
    groups_of,
    site_weeks,
    totals,
    work_rows,
)
from orchestrator.plan.forecast.owning import break_even
from orchestrator.plan.forecast.price import can_be_owned, ownership
from orchestrator.planner.owning import overrides
from orchestrator.planner.scenario_building import build, check, places_of
from orchestrator.planner.serving import check_serving, serve_on


@dataclass(frozen=True)
class ServedLoad:
    """An inference load: what it takes at its busiest time, and a day of it owned and rented."""

    name: str  # of the load
    model: str  # of conf/model
    sites: str  # over all of that name it is spread
    requests_per_day: float  # on the mean day
    gpus: int  # at the busiest time, whole nodes at each site
    mean_gpus: float  # over the day; at night jobs have the others
    usd_per_day_owned: float  # day and night, all that the busiest time needs
    usd_per_day_rented: float  # likewise, at what those sites ask
    capital_usd: float  # of those GPUs, to own them
    owned_after_months: float | None  # when they have cost as much as their rent; null if never


@dataclass(frozen=True)
class ScenarioAnswer:
    """A scenario over its seeds. A range goes from the least to the greatest of them."""

    scenario: str  # its name
    source: str  # of the scenario
    warning: str  # that the source gives itself; empty without one
    begins: str  # date of the first week's first day
    weeks: int  # that are looked at
    seeds: int  # that the ranges come from
    gpus: int  # that are there at the beginning
    gpus_ordered: int  # that deliveries bring
    gpus_wanted: int  # by all companies together
    totals: Totals  # over all sites and weeks
    all_sites: tuple[SiteWeek, ...]  # by week
    groups: tuple[SiteWeek, ...]  # by group of equal sites and week, all weeks together first
    sites: tuple[SiteWeek, ...]  # by site and week
    companies: tuple[WaitRow, ...]  # in the order of the scenario
    work: tuple[WaitRow, ...]  # kinds of it, likewise
    serving: tuple[ServedLoad, ...]  # loads that are not jobs
    more: tuple[MoreAdvice, ...]  # what GPUs and power are worth, by group of equal sites
    again: RunAgain | None  # at scenario.more_at; null where none is named


def answer(composed: DictConfig, words: Sequence[str]) -> ScenarioAnswer:
    """Raises :class:`ConfigError` for a scenario that does not hold together."""
    base = load.load(composed)
    config = base.scenario
    if config is None:
        raise ConfigError("scenario=null: which one? name it, e.g. scenario=h100_2023")
    ranges.check(config, "scenario.")
    check(config)
    bare = build(str(overrides(words).get("scenario", "scenario")), config)
    owner = _owner(composed, base, config)
    served = [_served(base, owner, bare, name, load) for name, load in config.serving.items()]
    scenario = dataclasses.replace(bare, serving=tuple(serving for serving, _ in served))
    more_at = _more_at(config, scenario)
    runs = run_seeds(scenario, config.seeds)
    groups = groups_of(scenario)
    return ScenarioAnswer(
        scenario=scenario.name, source=config.source.strip(), warning=config.warning.strip(),
        begins=config.begins, weeks=config.weeks, seeds=config.seeds,
        gpus=sum(site.gpus for site in scenario.sites),
        gpus_ordered=sum(order.gpus for order in scenario.deliveries),
        gpus_wanted=sum(company.gpus for company in scenario.companies),
        totals=totals(runs),
        all_sites=tuple(site_weeks(runs, range(len(scenario.sites)), "", "")),
        groups=tuple(
            row for name, at in groups.items()
            for row in (all_weeks(runs, at, name), *site_weeks(runs, at, name, ""))
        ),
        sites=tuple(
            row for at, site in enumerate(scenario.sites)
            for row in site_weeks(runs, [at], site.group, site.name)
        ),
        companies=tuple(company_rows(runs)), work=tuple(work_rows(runs)),
        serving=tuple(load for _, load in served),
        more=tuple(
            advise(runs, name, at, _owned_price(owner, config, scenario.sites[at[0]]))
            for name, at in groups.items()
        ),
        again=None if more_at is None else run_again(runs, more_at),
    )  # fmt: skip


def _more_at(config: ScenarioConfig, scenario: Scenario) -> int | None:
    """A site by its name, or the first of a group."""
    if config.more_at is None:
        return None
    names = [site.name for site in scenario.sites]
    if config.more_at in names:
        return names.index(config.more_at)
    if places := places_of(scenario.sites, config.more_at):
        return places[0]
    known = [*config.sites, *names]
    raise ConfigError(
        f"scenario.more_at={config.more_at}: the scenario has no such site{near_miss(config.more_at, known)}"
        f" (it has: {', '.join(config.sites)})"
    )


def _owner(composed: DictConfig, base: Config, config: ScenarioConfig) -> Config:
    """The cluster whose figures of owning hold, with the scenario's capital."""
    name = config.owned_cluster
    read = read_all(composed, {}, nodes_needed=False)[0]
    if name not in read:
        raise ConfigError(
            f"scenario.owned_cluster={name}: no such cluster{near_miss(name, read)} (known:"
            f" {', '.join(read)})"
        )
    machines = read[name]
    price = dataclasses.replace(
        machines.cluster.price, kind=PriceKind.owned, capex_usd_per_gpu=config.capex_usd_per_gpu
    )
    if not can_be_owned(price, machines.gpu):
        raise ConfigError(
            f"scenario.owned_cluster={name}: it has no figures of owning; choose a cluster that has them,"
            " e.g. scenario.owned_cluster=dgx_h100"
        )
    cluster = dataclasses.replace(machines.cluster, price=price)
    return dataclasses.replace(base, cluster=cluster, gpu=machines.gpu, fabric=machines.fabric)


def _at_site(owner: Config, config: ScenarioConfig, site: Site) -> Config:
    """The same in that building, with its electricity."""
    price = dataclasses.replace(
        owner.cluster.price, pue=site.pue, electricity_usd_per_kwh=site.usd_per_kwh,
        power_w_per_gpu=config.kw_per_gpu * 1000.0,
    )  # fmt: skip
    return dataclasses.replace(owner, cluster=dataclasses.replace(owner.cluster, price=price))


def _owned_price(owner: Config, config: ScenarioConfig, site: Site) -> OwnedPrice:
    there = _at_site(owner, config, site)
    owned = ownership(there.cluster.price, there.gpu)
    return OwnedPrice(owned.usd_per_gpu_hour, break_even(owned, site.usd_per_gpu_hour).months)


def _served(
    base: Config, owner: Config, scenario: Scenario, name: str, asked: ScenarioServingConfig
) -> tuple[Serving, ServedLoad]:
    """As `plan serve=MODEL` answers it, on the owner's machines at the first of those sites. Each site has an
    equal part of the load, and machines for the busiest time of that."""
    assert base.scenario is not None
    places = places_of(scenario.sites, asked.sites)
    site = scenario.sites[places[0]]
    serve = dataclasses.replace(
        base.serve,
        asked=True, requests_per_day=asked.requests_per_day / len(places), tokens_in=asked.tokens_in,
        tokens_out=asked.tokens_out, peak_to_mean=asked.peak_to_mean, precision=asked.precision,
    )  # fmt: skip
    there = dataclasses.replace(_at_site(owner, base.scenario, site), serve=serve)
    try:
        check_serving(serve)
        option = serve_on(_model(f"scenario.serving.{name}.model", asked.model), there)
    except ConfigError as refused:
        raise ConfigError(f"scenario.serving.{name}: {refused}") from None
    each, node = option.result.gpus, there.cluster.gpus_per_node
    by_hour = tuple(asked.by_hour) or EVEN_DAY
    at_hours = tuple(math.ceil(each / node * part / max(by_hour)) * node for part in by_hour)
    gpus = each * len(places)
    owned = dataclasses.replace(ownership(there.cluster.price, there.gpu), occupancy=1.0)
    return Serving(name, places, at_hours), ServedLoad(
        name, asked.model, asked.sites, asked.requests_per_day, gpus,
        sum(at_hours) / len(at_hours) * len(places),
        usd_per_day_owned=option.result.usd_per_day * len(places),
        usd_per_day_rented=gpus * 24.0 * site.usd_per_gpu_hour,
        capital_usd=gpus * owned.capex_usd,
        owned_after_months=break_even(owned, site.usd_per_gpu_hour).months,
    )  # fmt: skip


def _model(key: str, name: str) -> ModelConfig:
    """Of ``conf/model``."""
    files = option_files("model")
    if name not in files:
        raise ConfigError(f"{key}={name}: no such model{near_miss(name, files)} (known: {', '.join(files)})")
    try:
        merged = OmegaConf.merge(OmegaConf.structured(ModelConfig), OmegaConf.load(files[name]))
        return cast(ModelConfig, OmegaConf.to_object(merged))
    except (OmegaConfBaseException, OSError, YAMLError) as error:
        raise ConfigError(f"{key}={name}: {files[name].name}: {str(error).splitlines()[0]}") from None
