"""``simulate --trace FILE --fleet FILE``: a trace on a fleet's pools, quotas and policy."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

from orchestrator.cli.show.tables import Column, fitting, left_out, table_of
from orchestrator.cli.simulate import text_of
from orchestrator.dispatch.fleet_file import FleetFile, fleet_file_at
from orchestrator.fleet.contest import Setting
from orchestrator.fleet.played import Fleet, PlayedFleet, PlayedJobs, play_on
from orchestrator.fleet.trace_formats import read_trace
from orchestrator.text import clean, duration, percent, plural, usd


def simulate_fleet(trace: str, path: str, setting: Setting, as_json: bool, console: Console) -> None:
    """Raises :class:`~orchestrator.errors.ConfigError` for files that cannot be read or do not fit."""
    file = fleet_file_at(Path(path))
    jobs = read_trace(text_of(trace), trace)
    found = play_on(jobs, trace, setting, _fleet_of(file, path, time.time()))
    if as_json:
        console.file.write(json.dumps(dataclasses.asdict(found), indent=2) + "\n")
        return
    _show(found, console)
    capped = [team.name for team in file.teams if team.usd_per_month is not None]
    if capped:
        _say(console, f"usd_per_month of {', '.join(map(clean, capped))} is not played: nobody stops for it.")


def _fleet_of(file: FleetFile, path: str, now: float) -> Fleet:
    job_class = file.job_class(None)
    return Fleet(
        path, now, tuple(each.pool_at(now) for each in file.pools), file.teams,
        tuple(one for each in file.pools for one in each.changes_after(now)), job_class.usd_per_hour,
        job_class.rank, file.policy,
    )  # fmt: skip


Row = tuple[str, PlayedJobs]


def _show(found: PlayedFleet, console: Console) -> None:
    rows = [(clean(team) or "no team", each) for team, each in found.teams.items()]
    rows += [("all", found.all)]
    columns = [
        Column[Row]("team", lambda row: row[0], 0, text=True),
        Column[Row]("jobs", lambda row: f"{row[1].jobs:,.0f}", 2),
        Column[Row]("GPU-hours", lambda row: f"{row[1].gpu_hours:,.0f}", 4),
        Column[Row]("average", lambda row: _time(row[1].avg_jct_s), 0),
        Column[Row]("median", lambda row: _time(row[1].p50_jct_s), 5),
        Column[Row]("p99", lambda row: _time(row[1].p99_jct_s), 3),
        Column[Row]("waiting", lambda row: _time(row[1].avg_wait_s), 1),
        Column[Row]("stops", lambda row: f"{row[1].stops:,.0f}", 6),
        Column[Row]("delay", lambda row: usd(row[1].delay_usd), 7),
        Column[Row]("cost", lambda row: usd(row[1].usd), 8),
    ]
    shown = fitting(columns, rows, console.width)
    console.print(table_of(shown, rows))
    used = ", ".join(f"{percent(share)} of {clean(pool)}" for pool, share in found.in_use.items())
    told = (
        f"\n{plural(found.jobs, 'job')} on the {plural(found.gpus, 'GPU')} of {clean(found.fleet)}, from"
        f" submission to end; all done in {duration(found.makespan_s)}, with {used} in use."
    )
    _say(console, " ".join(filter(None, (told, left_out(columns, shown)))))
    if found.all.unfinished:
        text = ", ".join(
            f"{each.unfinished:,.0f} of {clean(team) or 'no team'}"
            for team, each in found.teams.items()
            if round(each.unfinished)
        )
        count = f"{plural(round(found.all.unfinished), 'job')}{f' ({text})' if text else ''}"
        _say(
            console,
            f"{count} never ran to the end: their team may not have so many GPUs at once (quota and"
            " borrow_limit), or nodes leave that do not come back.",
        )


def _time(seconds: float | None) -> str:
    return "" if seconds is None else duration(seconds)


def _say(console: Console, text: str) -> None:
    console.print(Text(text, style="dim"), soft_wrap=True)
