"""``runs``: what goes on and what has ended below a run root, as a table or as JSON."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from orchestrator.cli.show.tables import Column, fitting, table_of
from orchestrator.driver.run_list import DAMAGED, ListedRun, RunFilter, listed
from orchestrator.events import Status
from orchestrator.ledger.run_directory import LOST
from orchestrator.text import UNKNOWN, clean, duration, ending, hours, hours_name, plural, usd

_STYLES = {Status.FAILED: "red", LOST: "red", DAMAGED: "red", Status.INTERRUPTED: "yellow"}
_NAME_WIDTH = 44


def runs(
    run_root: str, wanted: RunFilter, as_json: bool, limit: int, console: Console, trust: bool = False
) -> None:
    """Print the runs of a run root, the newest first; raises as
    :func:`~orchestrator.driver.run_list.listed` does."""
    found = listed(run_root, wanted, limit, trust)
    if as_json:
        # past the console, which would wrap and colour it
        console.file.write(json.dumps([dataclasses.asdict(run) for run in found], indent=2) + "\n")
        return
    if not found:
        which = "no run of this kind" if wanted != RunFilter() else "no run"
        console.print(f"{which} in {run_root}; set run_root to look elsewhere", highlight=False)
        return
    now_s = time.time()
    columns = [
        Column[ListedRun]("run", lambda run: ending(clean(run.name), _NAME_WIDTH), 0, text=True),
        Column[ListedRun]("state", lambda run: run.state, 0, text=True),
        Column[ListedRun]("cost", lambda run: usd(run.cost_usd), 1),
        Column[ListedRun]("step", _step, 2),
        Column[ListedRun]("held", _held, 3),
        Column[ListedRun]("hours", lambda run: hours(run.gpu_hours), 4),
        Column[ListedRun]("began", lambda run: _ago(run.started_unix_s, now_s), 5),
        Column[ListedRun]("owner", lambda run: clean(run.owner), 6, text=True),
        Column[ListedRun]("project", lambda run: clean(run.project or UNKNOWN), 8, text=True),
        Column[ListedRun]("job", lambda run: clean(run.job or UNKNOWN), 7, text=True),
        Column[ListedRun]("cluster", lambda run: clean(run.cluster or UNKNOWN), 9, text=True),
    ]
    shown = fitting(columns, found, console.width)
    console.print(table_of(shown, found, _style))
    hidden = [column.title for column in columns if column not in shown]
    note = f"; not shown for lack of width: {', '.join(hidden)}" if hidden else ""
    console.print(Text(_total(found, limit) + note, style="dim"), soft_wrap=True)


def _style(run: ListedRun) -> str:
    return "green" if run.goes_on else _STYLES.get(run.state, "")


def _step(run: ListedRun) -> str:
    if run.step is None:
        return UNKNOWN
    return f"{run.step:,}/{run.steps:,}" if run.steps else f"{run.step:,}"


def _held(run: ListedRun) -> str:
    return plural(run.gpus_held, run.unit) if run.gpus_held else ""


def _ago(at_unix_s: float | None, now_s: float) -> str:
    return UNKNOWN if at_unix_s is None else f"{duration(max(0.0, now_s - at_unix_s))} ago"


def _total(found: Sequence[ListedRun], limit: int) -> str:
    """What they hold and have cost together; hours are not added up over units."""
    going = [run for run in found if run.goes_on]
    parts = [plural(len(found), "run")]
    if going:
        parts.append(f"{len(going)} of them going on")
    units = {run.unit for run in found}
    if len(units) == 1:
        parts.append(f"{hours(sum(run.gpu_hours for run in found))} {hours_name(units.pop())}")
    parts.append(usd(sum(run.cost_usd for run in found)))
    more = f"; there may be more, see --limit {2 * limit}" if len(found) >= limit else ""
    return ", ".join(parts) + more
