"""``simulate``: policies side by side on a trace of jobs, as a table or as JSON."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.text import Text

from orchestrator.cli.show import simulation_picture
from orchestrator.cli.show.tables import Column, fitting, left_out, table_of
from orchestrator.errors import ConfigError
from orchestrator.files import atomic_write
from orchestrator.fleet.contest import POLICIES, Contest, Setting, Standing, contest
from orchestrator.fleet.simulate import Run
from orchestrator.fleet.trace import TraceJob
from orchestrator.fleet.trace_formats import read_trace
from orchestrator.papers import PaperError, read_text
from orchestrator.text import duration, figure, percent, plural, usd

_MOST_BYTES = 1 << 30  # of a trace: Philly's own has a third of that


def simulate(
    trace: str,
    setting: Setting,
    policies: Sequence[str],
    profile: str | None,
    as_json: bool,
    console: Console,
    *,
    jobs_csv: str | None = None,
    png: str | None = None,
) -> None:
    """No policies are all of them. ``jobs_csv`` gets a line for each policy and job, ``png`` a picture
    of how it went. Raises :class:`ConfigError` for a trace that cannot be read or played."""
    if profile and (jobs_csv or png):
        flag = "--jobs-csv" if jobs_csv else "--png"
        raise ConfigError(f"{flag}: there is nothing to show of --profile={profile}; leave one of them out")
    text = text_of(trace)
    _refuse_no_folder("--jobs-csv", jobs_csv)
    _refuse_no_folder("--png", png)
    jobs = read_trace(text, trace)
    runs: dict[str, Run] = {}
    found = contest(jobs, trace, setting, policies or POLICIES, profile, runs)
    if jobs_csv:
        _write(jobs_csv, "--jobs-csv", lambda path: atomic_write(path, _csv(jobs, runs)))
    if png:
        _write(png, "--png", lambda path: simulation_picture.draw(runs, path))
    if as_json:
        console.file.write(json.dumps(dataclasses.asdict(found), indent=2) + "\n")
    else:
        _show(found, console)


def text_of(trace: str) -> str:
    """Raises :class:`ConfigError` for a file that cannot be read."""
    try:
        return read_text(trace, _MOST_BYTES)
    except (OSError, PaperError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(f"--trace={trace}: {why}") from None


def _refuse_no_folder(flag: str, path: str | None) -> None:
    """Before anything is played that would then be lost."""
    folder = Path(path or ".").parent
    if not folder.is_dir():
        raise ConfigError(f"{flag}={path}: there is no folder {folder}; make it, or name another")


def _write(path: str, flag: str, write: Callable[[Path], object]) -> None:
    try:
        write(Path(path))
    except OSError as error:
        raise ConfigError(f"{flag}={path}: {error.strerror or error}") from None


_CSV_COLUMNS = (
    "policy", "key", "team", "gpus", "usd_per_hour", "submit_s", "first_start_s", "end_s", "work_s",
    "waited_s", "stops",
)  # fmt: skip


def _csv(jobs: Sequence[TraceJob], runs: Mapping[str, Run]) -> str:
    """A line for each policy and job, of the first seed, by their submission."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_CSV_COLUMNS)
    for name, run in runs.items():
        waited_s = run.ended_at - run.arrivals.submit_s - run.ran_s
        columns = (
            run.arrivals.submit_s, run.first_start, run.ended_at, run.work_s, np.maximum(waited_s, 0.0)
        )  # fmt: skip
        for row, at in enumerate(run.arrivals.job.tolist()):
            job, numbers = jobs[at], [f"{column[row]:.3f}" for column in columns]
            writer.writerow(
                [name, job.key, job.team, job.gpus, job.usd_per_hour, *numbers, int(run.starts[row]) - 1]
            )
    return out.getvalue()


Row = tuple[str, Standing]


def _show(found: Contest, console: Console) -> None:
    rows = list(found.policies.items())
    columns = [
        Column[Row]("policy", lambda row: row[0], 0, text=True),
        Column[Row]("average", lambda row: duration(row[1].avg_jct_s), 0),
        Column[Row]("× bound", lambda row: figure(row[1].avg_jct_s / found.bound_jct_s), 1),
        Column[Row]("median", lambda row: duration(row[1].p50_jct_s), 3),
        Column[Row]("p99", lambda row: duration(row[1].p99_jct_s), 2),
        Column[Row]("waiting", lambda row: duration(row[1].avg_wait_s), 4),
        Column[Row]("all done in", lambda row: duration(row[1].makespan_s), 5),
        Column[Row]("stops", lambda row: f"{row[1].preemptions:,.0f}", 6),
        Column[Row]("in use", lambda row: percent(row[1].allocation), 5),
        Column[Row]("idle for gangs", lambda row: _idle(row[1], "gang"), 7),
        Column[Row]("idle, kept", lambda row: _idle(row[1], "fits"), 9),
        Column[Row]("delay", lambda row: usd(row[1].delay_usd), 6),
        Column[Row]("lost", lambda row: f"{row[1].gpu_time_lost:.3%}", 7),
        Column[Row]("spread", lambda row: _spread(row[1]), 8),
    ]
    shown = fitting(columns, rows, console.width)
    console.print(table_of(shown, rows))
    titles = {one.title for one in shown}
    lost = " Lost is GPU time, to starts after a stop." if "lost" in titles else ""
    if "idle for gangs" in titles:
        lost += (
            " Idle are GPUs while somebody waits: for a gang that needs more, or kept though one would fit."
        )
    told = (
        f"\n{plural(found.jobs, 'job')} on {plural(found.gpus, 'GPU')}, from submission to end; no policy can"
        f" be below {duration(found.bound_jct_s)} on average.{lost}"
    )
    console.print(Text(" ".join(filter(None, (told, left_out(columns, shown)))), style="dim"), soft_wrap=True)
    if any(one.fairness for one in found.policies.values()):
        _show_teams(found, console)


def _show_teams(found: Contest, console: Console) -> None:
    rows = [row for row in found.policies.items() if row[1].fairness]
    teams = list(rows[0][1].fairness or {})
    columns = [Column[Row]("policy", lambda row: row[0], 0, text=True)]
    columns += [Column[Row](team or "no team", _ratio(team), place) for place, team in enumerate(teams)]
    shown = fitting(columns, rows, console.width)
    console.print()
    console.print(table_of(shown, rows))
    told = (
        "\nEach team's average over what it would be on GPUs of its own, as many for each team; above 1 it is"
        " worse off for sharing."
    )
    console.print(Text(" ".join(filter(None, (told, left_out(columns, shown)))), style="dim"), soft_wrap=True)


def _ratio(team: str) -> Callable[[Row], str]:
    return lambda row: figure((row[1].fairness or {})[team])


def _idle(one: Standing, why: str) -> str:
    """GPU-hours that were free while somebody waited."""
    return "" if one.idle_gpu_h is None else f"{one.idle_gpu_h[why]:,.0f} h"


def _spread(one: Standing) -> str:
    """Of the average, over the seeds."""
    if one.seeds == 1:
        return ""
    return f"±{(one.most_avg_jct_s - one.least_avg_jct_s) / 2 / one.avg_jct_s:.1%}"
