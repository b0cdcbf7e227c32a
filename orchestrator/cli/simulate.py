"""``simulate``: policies side by side on a trace of jobs, as a table or as JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from orchestrator.cli.show.tables import Column, fitting, left_out, table_of
from orchestrator.errors import ConfigError
from orchestrator.fleet.contest import POLICIES, Contest, Setting, Standing, contest
from orchestrator.fleet.trace_formats import read_trace
from orchestrator.papers import PaperError, read_text
from orchestrator.text import duration, figure, plural

_MOST_BYTES = 1 << 30  # of a trace: Philly's own has a third of that


def simulate(
    trace: str,
    setting: Setting,
    policies: Sequence[str],
    profile: str | None,
    as_json: bool,
    console: Console,
) -> None:
    """No policies are all of them. Raises :class:`ConfigError` for a trace that cannot be read or played."""
    try:
        text = read_text(trace, _MOST_BYTES)
    except (OSError, PaperError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(f"--trace={trace}: {why}") from None
    found = contest(read_trace(text, trace), trace, setting, policies or POLICIES, profile)
    if as_json:
        console.file.write(json.dumps(dataclasses.asdict(found), indent=2) + "\n")
    else:
        _show(found, console)


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
        Column[Row]("lost", lambda row: f"{row[1].gpu_time_lost:.3%}", 7),
        Column[Row]("spread", lambda row: _spread(row[1]), 8),
    ]
    shown = fitting(columns, rows, console.width)
    console.print(table_of(shown, rows))
    told = (
        f"\n{plural(found.jobs, 'job')} on {plural(found.gpus, 'GPU')}, from submission to end; no policy can"
        f" be below {duration(found.bound_jct_s)} on average. Lost is GPU time, to starts after a stop."
    )
    console.print(Text(" ".join(filter(None, (told, left_out(columns, shown)))), style="dim"), soft_wrap=True)


def _spread(one: Standing) -> str:
    """Of the average, over the seeds."""
    if one.seeds == 1:
        return ""
    return f"±{(one.most_avg_jct_s - one.least_avg_jct_s) / 2 / one.avg_jct_s:.1%}"
