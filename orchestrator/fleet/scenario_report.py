"""What a scenario comes to: by site and week, by company and kind of work, each with its range over seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.fleet.measures import percentile
from orchestrator.fleet.scenario import Scenario
from orchestrator.fleet.scenario_run import ScenarioRun
from orchestrator.fleet.trace import Bools, Floats, Ints
from orchestrator.fleet.worth import HOUR_S

HOURS_OF_WEEK = 168.0


@dataclass(frozen=True)
class Band:
    """A figure over the seeds."""

    low: float  # the least
    mid: float  # the mean
    high: float  # the greatest

    @staticmethod
    def of(values: Iterable[float]) -> Band | None:
        """None where no seed has one."""
        found = [value for value in values if not math.isnan(value)]
        return Band(min(found), sum(found) / len(found), max(found)) if found else None


@dataclass(frozen=True)
class SiteWeek:
    """A site, all sites of a group, or all there are, in one week."""

    week: int  # 1 is the first that is looked at; 0 is all of them together
    group: str  # of sites; empty of all sites together
    site: str  # empty of a whole group
    gpus: Band  # installed, on average
    busy: Band  # share of those at work, serving included
    ended: Band  # jobs
    wait_p50_h: Band | None  # hours that those had waited in all, also after stops; null where none ended
    wait_p90_h: Band | None  # nine of ten had waited no longer; null likewise
    deadlines: Band  # that fell into the week, of jobs that ran there last
    deadlines_met: Band | None  # share of those; null where none fell
    delay_usd: Band  # cost of the hours that jobs waited
    # GPUs of the largest job that could have started when the week began, at the best of the sites
    largest_gang: Band
    displaced_jobs: Band  # that would have had to stop for it
    displaced_gpus: Band  # of those
    displaced_usd: Band  # what those stops would have cost
    mw: Band  # of the whole building, on average
    peak_mw: Band  # at the worst moment
    cap_mw: float | None  # the least of the day; null where a site has none
    most_cap_mw: float | None  # and the most; null likewise
    held_back: Band  # share of the GPUs that power keeps from work
    unserved_gpu_hours: Band  # of serving, for want of power or GPUs
    energy_usd: Band  # at the price of the grid
    co2_t: Band  # tonnes, at the grid's average
    gpu_hour_usd: Band  # cost of delay that a GPU-hour more would save until the end
    mwh_usd: Band  # and a megawatt-hour more; 0 where power keeps no GPU from work


@dataclass(frozen=True)
class WaitRow:
    """A company, or a kind of work, over all weeks that are looked at."""

    name: str  # of it
    wanted_gpus: float  # its work spread over all weeks, in the mean of the seeds
    got: Band  # share of that which was done
    jobs: Band  # submitted
    not_started: Band  # of those, at the end
    wait_p50_h: Band | None  # hours in all, also after stops and of who still waits; null without jobs
    wait_p90_h: Band | None  # nine of ten waited no longer; null without jobs
    deadlines_met: Band | None  # share; null without deadlines
    delay_usd: Band  # cost of the hours that its jobs waited, those of the warm-up included


@dataclass(frozen=True)
class Totals:
    """Over all weeks that are looked at."""

    delay_usd: Band  # cost of the hours that jobs waited
    stops: Band  # jobs that were stopped, the warm-up included
    stops_for_power: Band  # of those, because of a cap or of serving
    stops_of_unstoppable: Band  # of those, jobs that were not to be stopped
    failures: Band  # of jobs that were submitted, the warm-up included
    energy_usd: Band  # at the price of the grid
    co2_t: Band  # tonnes, at the grid's average


def band(runs: Sequence[ScenarioRun], of: Callable[[ScenarioRun], float]) -> Band:
    found = Band.of(of(run) for run in runs)
    assert found is not None
    return found


def site_weeks(runs: Sequence[ScenarioRun], chosen: Sequence[int], group: str, site: str) -> list[SiteWeek]:
    """Of these sites together, week by week."""
    return [
        _row(runs, np.array(chosen), [week], group, site) for week in range(1, runs[0].scenario.weeks + 1)
    ]


def all_weeks(runs: Sequence[ScenarioRun], chosen: Sequence[int], group: str) -> SiteWeek:
    """The same over all weeks at once."""
    return _row(runs, np.array(chosen), range(1, runs[0].scenario.weeks + 1), group, "")


def _row(runs: Sequence[ScenarioRun], at: Ints, weeks: Sequence[int], group: str, site: str) -> SiteWeek:
    rows = np.array(weeks) - 1 + runs[0].scenario.warmup_weeks
    part = _Part(rows, at)
    sites = runs[0].scenario.sites
    hours, caps = HOURS_OF_WEEK * len(rows), runs[0].power.cap_kw[:, at].sum(axis=1) / 1000.0
    waits = [_waits_h(run, part) for run in runs]
    met = [_deadlines(run, part) for run in runs]
    total, share, best = part.total, part.share, part.best
    kwh = [one.usd_per_kwh for one in sites], [one.kg_co2_per_kwh / 1000.0 for one in sites]
    usd_per_kwh, t_per_kwh = (np.array(each)[at] for each in kwh)
    return SiteWeek(
        weeks[0] if len(weeks) == 1 else 0, group, site,
        gpus=band(runs, total("installed_gpu_h", 1.0 / hours)),
        busy=band(runs, share("busy_gpu_h", "serving_gpu_h")),
        ended=_band_of(float(len(found)) for found in waits),
        wait_p50_h=Band.of(_percentile(found, 0.5) for found in waits),
        wait_p90_h=Band.of(_percentile(found, 0.9) for found in waits),
        deadlines=_band_of(float(len(found)) for found in met),
        deadlines_met=Band.of(_mean(found) for found in met),
        delay_usd=band(runs, part.delay_usd if group else part.delay_of_all_usd),
        largest_gang=band(runs, best("largest_gpus")),
        displaced_jobs=band(runs, best("displaced_jobs")),
        displaced_gpus=band(runs, best("displaced_gpus")),
        displaced_usd=band(runs, best("displaced_usd")),
        mw=band(runs, total("kwh", 1.0 / hours / 1000.0)),
        peak_mw=band(runs, part.peak_mw),
        cap_mw=None if np.isinf(caps).any() else float(caps.min()),
        most_cap_mw=None if np.isinf(caps).any() else float(caps.max()),
        held_back=band(runs, share("held_back_gpu_h")),
        unserved_gpu_hours=band(runs, total("unserved_gpu_h")),
        energy_usd=band(runs, total("kwh", usd_per_kwh)),
        co2_t=band(runs, total("kwh", t_per_kwh)),
        gpu_hour_usd=band(runs, total("gpu_hour_usd", 1.0 / len(rows) / len(at))),
        mwh_usd=band(runs, total("mwh_usd", 1.0 / len(rows) / len(at))),
    )  # fmt: skip


@dataclass(frozen=True)
class _Part:
    """Weeks and sites of what was counted."""

    rows: Ints
    at: Ints

    def of(self, counted: Floats) -> Floats:
        found: Floats = counted[np.ix_(self.rows, self.at)]
        return found

    def total(self, name: str, by: Floats | float = 1.0) -> Callable[[ScenarioRun], float]:
        return lambda run: float((self.of(getattr(run.tally, name)) * by).sum())

    def share(self, *names: str) -> Callable[[ScenarioRun], float]:
        """Of the GPU-hours that are installed."""
        hours = self.total("installed_gpu_h")
        return lambda run: sum(self.total(name)(run) for name in names) / max(hours(run), 1e-9)

    def best(self, name: str) -> Callable[[ScenarioRun], float]:
        """Where and when the largest gang fits."""
        return lambda run: float(
            self.of(getattr(run.tally, name)).flat[int(np.argmax(self.of(run.tally.largest_gpus)))]
        )

    def peak_mw(self, run: ScenarioRun) -> float:
        return float(self.of(run.tally.peak_kw).sum(axis=1).max() / 1000.0)

    def delay_usd(self, run: ScenarioRun) -> float:
        return float(self.of(run.tally.delay_usd).sum())

    def delay_of_all_usd(self, run: ScenarioRun) -> float:
        """Also of those who have not started anywhere."""
        return float(run.tally.delay_usd[self.rows].sum())


def _band_of(values: Iterable[float]) -> Band:
    found = Band.of(values)
    assert found is not None
    return found


def _percentile(values: Floats, share: float) -> float:
    return percentile(values, share) if len(values) else math.nan


def _mean(values: Floats | Bools) -> float:
    return float(values.mean()) if len(values) else math.nan


def _within(times_s: Floats, rows: Ints) -> Bools:
    """Not a number is in no week."""
    weeks = np.floor(times_s / (HOURS_OF_WEEK * HOUR_S))
    found: Bools = (weeks >= rows[0]) & (weeks <= rows[-1])
    return found


def _there(run: ScenarioRun, part: _Part, times_s: Floats) -> Ints:
    """Jobs whose time is in those weeks and that ran last at one of those sites."""
    rows = np.flatnonzero(_within(times_s, part.rows))
    found: Ints = rows[np.isin(run.last_site[rows], part.at)]
    return found


def _waits_h(run: ScenarioRun, part: _Part) -> Floats:
    these = _there(run, part, run.ended_at)
    waits: Floats = run.waited_s[these] / HOUR_S
    return waits


def _deadlines(run: ScenarioRun, part: _Part) -> Bools:
    return _is_met(run)[_there(run, part, run.jobs.deadline_s)]


def _waited_s(run: ScenarioRun) -> Floats:
    """Of each job in all, up to the end of the run."""
    waited_s: Floats = run.waited_s.copy()
    waited_s[run.queue] += run.now - run.queued_at[run.queue]
    return waited_s


def _is_met(run: ScenarioRun) -> Bools:
    met: Bools = run.ended_at <= run.jobs.deadline_s  # not a number is not met
    return met


def wait_row(runs: Sequence[ScenarioRun], name: str, chosen: Callable[[ScenarioRun], Bools]) -> WaitRow:
    """Of the jobs that are chosen and submitted in the weeks that are looked at."""
    scenario = runs[0].scenario

    def asked(run: ScenarioRun) -> Bools:
        return chosen(run) & (run.jobs.submit_s >= scenario.begins_s)

    def waits_h(run: ScenarioRun) -> Floats:
        rows = asked(run)
        return _waited_s(run)[rows] / HOUR_S

    def due(run: ScenarioRun) -> Bools:
        return asked(run) & (run.jobs.deadline_s <= run.now)

    def gpu_s(run: ScenarioRun) -> float:
        rows = asked(run)
        return float((run.jobs.gpus * run.jobs.work_s)[rows].sum())

    def done_gpu_s(run: ScenarioRun) -> float:
        rows = np.flatnonzero(asked(run))
        return float((run.jobs.gpus[rows] * np.minimum(run.done_now(rows), run.jobs.work_s[rows])).sum())

    def delay(run: ScenarioRun) -> float:
        rows = chosen(run)
        return float((run.jobs.usd_per_hour * _waited_s(run))[rows].sum() / HOUR_S)

    waits = [waits_h(run) for run in runs]
    window_s = scenario.ends_s - scenario.begins_s
    return WaitRow(
        name,
        wanted_gpus=sum(gpu_s(run) for run in runs) / len(runs) / window_s,
        got=band(runs, lambda run: done_gpu_s(run) / max(gpu_s(run), 1e-9)),
        jobs=band(runs, lambda run: float(asked(run).sum())),
        not_started=band(runs, lambda run: float((asked(run) & np.isnan(run.first_start)).sum())),
        wait_p50_h=Band.of(_percentile(found, 0.5) for found in waits),
        wait_p90_h=Band.of(_percentile(found, 0.9) for found in waits),
        deadlines_met=Band.of(_mean(_is_met(run)[due(run)]) for run in runs),
        delay_usd=band(runs, delay),
    )


def company_rows(runs: Sequence[ScenarioRun]) -> list[WaitRow]:
    return [
        wait_row(runs, company.name, lambda run, at=at: run.jobs.company == at)  # type: ignore[misc]
        for at, company in enumerate(runs[0].scenario.companies)
    ]


def work_rows(runs: Sequence[ScenarioRun]) -> list[WaitRow]:
    return [
        wait_row(runs, work.name, lambda run, at=at: run.jobs.kind == at)  # type: ignore[misc]
        for at, work in enumerate(runs[0].scenario.work)
    ]


def delay_by_week(run: ScenarioRun) -> Floats:
    """Of the weeks that are looked at, wherever it fell."""
    found: Floats = run.tally.delay_usd[run.scenario.warmup_weeks :].sum(axis=1)
    return found


def totals(runs: Sequence[ScenarioRun]) -> Totals:
    scenario = runs[0].scenario
    usd = np.array([site.usd_per_kwh for site in scenario.sites])
    tonnes = np.array([site.kg_co2_per_kwh for site in scenario.sites]) / 1000.0

    def energy(by: Floats) -> Band:
        return band(runs, lambda run: float((run.tally.kwh[scenario.warmup_weeks :] * by).sum()))

    return Totals(
        delay_usd=band(runs, lambda run: float(delay_by_week(run).sum())),
        stops=band(runs, lambda run: float(run.stops)),
        stops_for_power=band(runs, lambda run: float(run.capped_stops)),
        stops_of_unstoppable=band(runs, lambda run: float(run.forced_stops)),
        failures=band(runs, lambda run: float(run.jobs.failures.sum())),
        energy_usd=energy(usd),
        co2_t=energy(tonnes),
    )


def groups_of(scenario: Scenario) -> dict[str, list[int]]:
    """Sites by their group, in their order."""
    found: dict[str, list[int]] = {}
    for at, site in enumerate(scenario.sites):
        found.setdefault(site.group, []).append(at)
    return found
