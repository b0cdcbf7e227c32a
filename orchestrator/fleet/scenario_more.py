"""Whether more GPUs or more power are worth their price at a site, and the same draws run again with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from orchestrator.fleet.scenario import Scenario
from orchestrator.fleet.scenario_draw import draw_deliveries, draw_jobs, with_more_gpus, with_more_power
from orchestrator.fleet.scenario_report import HOURS_OF_WEEK, Band, delay_by_week
from orchestrator.fleet.scenario_run import ScenarioRun, run_scenario

MORE_GPUS = 1000
MORE_KW = 1000.0


class Advice(StrEnum):
    BUY = "buy"  # it saves more than owning costs, and somebody still waits at the end
    RENT = "rent"  # it saves more than the rent, but owning is dearer or the need ends
    WAIT = "wait"  # it saves less than it costs


@dataclass(frozen=True)
class OwnedPrice:
    """An owned GPU at a site."""

    usd_per_gpu_hour: float
    after_months: float | None


@dataclass(frozen=True)
class MoreAdvice:
    """A thousand GPUs or a megawatt more at a site of a group: what that saves over all weeks, and its
    price."""

    group: str  # of equal sites
    gpu_hour_usd: Band  # cost of delay that a GPU-hour more saves
    owned_usd_per_gpu_hour: float  # written off over its life, with its power at this site
    rent_usd_per_gpu_hour: float  # what the site asks
    owned_after_months: float | None  # when owning has cost as much as the rent; null if never
    lasts: Band  # share of the hours of the last week in which somebody waits who could run there
    gpus: Advice  # on a thousand of them
    gpus_sure: bool  # whether each seed by itself says the same
    mwh_usd: Band  # cost of delay that a megawatt-hour more saves; 0 where power keeps no GPU from work
    grid_usd_per_mwh: float  # what it costs
    power: Advice  # buy or wait
    power_sure: bool  # whether each seed by itself says the same


@dataclass(frozen=True)
class RunAgain:
    """The same draws with a thousand GPUs more at one site from the first week on, and with a megawatt more
    there. Gangs make this noisy: it takes many seeds."""

    site: str  # where they are added
    gpus: int  # how many more
    gpu_hour_usd: Band  # cost of delay that one of their hours has saved
    mw: float  # how much more
    mwh_usd: Band | None  # likewise of power; null where the site has no cap


def run_seeds(scenario: Scenario, seeds: int) -> list[ScenarioRun]:
    return [
        run_scenario(scenario, draw_jobs(scenario, seed), draw_deliveries(scenario, seed))
        for seed in range(seeds)
    ]


def advise(runs: Sequence[ScenarioRun], group: str, places: Sequence[int], owned: OwnedPrice) -> MoreAdvice:
    scenario = runs[0].scenario
    site, skip, at = scenario.sites[places[0]], scenario.warmup_weeks, list(places)
    gpu_hours = [float(run.tally.gpu_hour_usd[skip:, at].mean()) for run in runs]
    mwhs = [float(run.tally.mwh_usd[skip:, at].mean()) for run in runs]
    lasts = [float(run.tally.lasts[at].mean()) for run in runs]
    prices = owned.usd_per_gpu_hour, site.usd_per_gpu_hour
    each = [advice_on_gpus(one, last, *prices) for one, last in zip(gpu_hours, lasts, strict=True)]
    gpus = advice_on_gpus(float(np.mean(gpu_hours)), float(np.mean(lasts)), *prices)
    grid_usd = site.usd_per_kwh * 1000.0
    pays = [one > grid_usd for one in mwhs]
    power = float(np.mean(mwhs)) > grid_usd
    return MoreAdvice(
        group, _over(gpu_hours), *prices, owned.after_months, _over(lasts), gpus,
        all(one is gpus for one in each), _over(mwhs), grid_usd, Advice.BUY if power else Advice.WAIT,
        all(one == power for one in pays),
    )  # fmt: skip


def advice_on_gpus(saves_usd: float, lasts: float, owned_usd: float, rent_usd: float) -> Advice:
    """By GPU-hour. Who buys does so for years, so somebody has to wait for most of the last week still."""
    if saves_usd > owned_usd and owned_usd <= rent_usd and lasts > 0.5:
        return Advice.BUY
    return Advice.RENT if saves_usd > rent_usd else Advice.WAIT


def run_again(runs: Sequence[ScenarioRun], site: int) -> RunAgain:
    scenario = runs[0].scenario
    hours = HOURS_OF_WEEK * scenario.weeks
    gpus = _saved_usd(runs, with_more_gpus(scenario, site, MORE_GPUS))
    mwh = None
    if scenario.sites[site].cap_kw is not None:
        saved = _saved_usd(runs, with_more_power(scenario, site, MORE_KW))
        mwh = _over([one / (MORE_KW / 1000.0 * hours) for one in saved])
    return RunAgain(
        scenario.sites[site].name, MORE_GPUS, _over([one / (MORE_GPUS * hours) for one in gpus]),
        MORE_KW / 1000.0, mwh,
    )  # fmt: skip


def _saved_usd(runs: Sequence[ScenarioRun], other: Scenario) -> list[float]:
    """Of delay, for each seed."""
    saved = []
    for seed, run in enumerate(runs):
        again = run_scenario(other, run.jobs, draw_deliveries(other, seed))
        saved.append(float(delay_by_week(run).sum() - delay_by_week(again).sum()))
    return saved


def _over(values: Sequence[float]) -> Band:
    found = Band.of(values)
    assert found is not None
    return found
