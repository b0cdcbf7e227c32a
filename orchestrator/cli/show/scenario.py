"""A scenario's answer as a person reads it."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.text import Text

from orchestrator.cli.show.tables import Column, Row, fitting, left_out, table_of
from orchestrator.fleet.scenario_more import Advice, MoreAdvice, RunAgain
from orchestrator.fleet.scenario_report import Band, SiteWeek, WaitRow
from orchestrator.planner.scenario import ScenarioAnswer, ServedLoad
from orchestrator.text import figure, months_in_words, plural, usd

_NONE = "-"


def show_scenario(found: ScenarioAnswer, console: Console) -> None:
    _say(console, _what_it_is(found))
    _say(console, f"Source: {found.source}.", dim=True)
    if found.warning:
        _say(console, found.warning, dim=True)
    _table(console, "By week, all sites", _week_columns(found.begins), found.all_sites)
    together = [row for row in found.groups if row.week == 0]
    _table(console, "By site, all weeks", _site_columns(), together)
    _table(console, "A thousand GPUs or a megawatt more", _more_columns(), found.more)
    _table(console, "By company", _wait_columns("company"), found.companies)
    _table(console, "By work", _wait_columns("work"), found.work)
    console.print()
    for load in found.serving:
        _say(console, _serving(load))
    if found.again is not None:
        _say(console, _again(found.again))
    _say(console, _notes(found), dim=True)


def _say(console: Console, text: str, dim: bool = False) -> None:
    console.print(Text(text, style="dim" if dim else ""))


def _what_it_is(found: ScenarioAnswer) -> str:
    return (
        f"{found.scenario}: {plural(found.weeks, 'week')} from {found.begins}, {plural(found.seeds, 'draw')}."
        f" {found.gpus:,} GPUs, and {found.gpus_ordered:,} ordered;"
        f" {plural(len(found.companies), 'company').replace('companys', 'companies')} want"
        f" {found.gpus_wanted:,}."
    )


def _table(console: Console, title: str, columns: Sequence[Column[Row]], rows: Sequence[Row]) -> None:
    shown = fitting(columns, rows, console.width)
    console.print()
    console.print(Text(title, style="bold"))
    console.print(table_of(shown, rows))
    if missing := left_out(columns, shown):
        _say(console, missing, dim=True)


def _range(band: Band | None, show: Callable[[float], str]) -> str:
    """One figure where the seeds agree on what is shown."""
    if band is None:
        return _NONE
    low, high = show(band.low), show(band.high)
    return low if low == high else f"{low}–{high}"


def _hours(value: float) -> str:
    return f"{value:.0f} h" if value >= 10 else f"{value:.1f} h"


def _percent(value: float) -> str:
    return f"{value:.0%}"


def _whole(value: float) -> str:
    return f"{value:,.0f}"


def _millions(value: float) -> str:
    return f"${value / 1e6:,.1f}M"


def _week_columns(begins: str) -> list[Column[SiteWeek]]:
    first = datetime.date.fromisoformat(begins)

    def day(row: SiteWeek) -> str:
        return (first + datetime.timedelta(weeks=row.week - 1)).isoformat()

    return [Column[SiteWeek]("week of", day, 0, text=True), *_common()]


def _site_columns() -> list[Column[SiteWeek]]:
    return [Column[SiteWeek]("sites", lambda row: row.group, 0, text=True), *_common()]


def _common() -> list[Column[SiteWeek]]:
    return [
        Column("GPUs", lambda row: _whole(row.gpus.mid), 1),
        Column("busy", lambda row: _range(row.busy, _percent), 4),
        Column("wait p50", lambda row: _range(row.wait_p50_h, _hours), 6),
        Column("p90", lambda row: _range(row.wait_p90_h, _hours), 2),
        Column("in time", lambda row: _range(row.deadlines_met, _percent), 3),
        Column("largest job", lambda row: _range(row.largest_gang, _whole), 5),
        Column("displaces", lambda row: _range(row.displaced_jobs, _whole), 8),
        Column("peak MW", lambda row: _whole(row.peak_mw.high), 7),
        Column("cap", _cap, 7),
        Column("held back", lambda row: _range(row.held_back, _percent), 9),
        Column("delay", lambda row: _range(row.delay_usd, _millions), 1),
        Column("GPU-hour", lambda row: _dollars(row.gpu_hour_usd), 10),
        Column("CO2", lambda row: f"{row.co2_t.mid:,.0f} t", 11),
    ]  # fmt: skip


def _cap(row: SiteWeek) -> str:
    if row.cap_mw is None or row.most_cap_mw is None:
        return _NONE
    return _range(Band(row.cap_mw, row.cap_mw, row.most_cap_mw), _whole)


def _wait_columns(title: str) -> list[Column[WaitRow]]:
    return [
        Column[WaitRow](title, lambda row: row.name, 0, text=True),
        Column[WaitRow]("wants GPUs", lambda row: _whole(row.wanted_gpus), 2),
        Column[WaitRow]("done", lambda row: _range(row.got, _percent), 3),
        Column[WaitRow]("jobs", lambda row: _range(row.jobs, _whole), 7),
        Column[WaitRow]("wait p50", lambda row: _range(row.wait_p50_h, _hours), 4),
        Column[WaitRow]("p90", lambda row: _range(row.wait_p90_h, _hours), 1),
        Column[WaitRow]("in time", lambda row: _range(row.deadlines_met, _percent), 5),
        Column[WaitRow]("delay", lambda row: _range(row.delay_usd, _millions), 1),
        Column[WaitRow]("never began", lambda row: _range(row.not_started, _whole), 6),
    ]


def _serving(load: ServedLoad) -> str:
    return (
        f"Serving {load.name} ({load.model}, {figure(load.requests_per_day)} requests a day, at {load.sites})"
        f" takes {load.gpus:,} GPUs at its busiest, {load.mean_gpus:,.0f} on average:"
        f" {usd(load.usd_per_day_owned)} a day owned ({usd(load.capital_usd)} to buy),"
        f" {usd(load.usd_per_day_rented)} rented; owned pays after {_after(load.owned_after_months)}."
    )


def _after(months: float | None) -> str:
    return "never" if months is None else months_in_words(months)


def _dollars(band: Band) -> str:
    return _range(band, lambda value: f"-${-value:,.2f}" if value < 0 else f"${value:,.2f}")


def _more_columns() -> list[Column[MoreAdvice]]:
    return [
        Column("sites", lambda row: row.group, 0, text=True),
        Column("GPU-hour saves", lambda row: _dollars(row.gpu_hour_usd), 0),
        Column("owned", lambda row: f"${row.owned_usd_per_gpu_hour:.2f}", 1),
        Column("rented", lambda row: f"${row.rent_usd_per_gpu_hour:.2f}", 2),
        Column("so", lambda row: _advice(row.gpus, row.gpus_sure), 0, text=True),
        Column("pays after", lambda row: _after(row.owned_after_months), 5),
        Column("MWh saves", lambda row: _dollars(row.mwh_usd), 3),
        Column("grid", lambda row: f"${row.grid_usd_per_mwh:.2f}", 4),
        Column("so", lambda row: _advice(row.power, row.power_sure), 3, text=True),
    ]


def _advice(advice: Advice, is_sure: bool) -> str:
    return advice.value if is_sure else f"{advice.value}?"


def _again(again: RunAgain) -> str:
    power = "" if again.mwh_usd is None else f", with {again.mw:g} MW more {_dollars(again.mwh_usd)} a MWh"
    return (
        f"Run again with {again.gpus:,} GPUs more at {again.site}: a GPU-hour of theirs has saved"
        f" {_dollars(again.gpu_hour_usd)} of delay{power}. That is noisy: scenario.seeds=… takes more draws."
    )


def _notes(found: ScenarioAnswer) -> str:
    total = found.totals
    return (
        f"Ranges are the least and the greatest of {plural(found.seeds, 'draw')}; 'in time' is of deadlines;"
        " 'wait' that of jobs which ended, also after stops; 'largest job' what could start when the week"
        " begins and 'displaces' how many would stop for it; 'delay' dollars of waiting, 'GPU-hour' what one"
        " more would save of it until the end. 'buy?' is what the mean says and not each draw."
        f" {_range(total.stops, _whole)} stops, {_range(total.stops_for_power, _whole)} of them for power or"
        f" serving; {_range(total.failures, _whole)} failures; electricity {_millions(total.energy_usd.mid)}."
        " --json and --csv have every site and week."
    )
