"""Runs side by side, or groups of them, the best value of each column marked."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from orchestrator.cli.show.two_lines import Cells, print_lines
from orchestrator.events import Status
from orchestrator.ledger.mlflow.differences import comparable
from orchestrator.ledger.mlflow.run_columns import TEXT_COLUMNS, cells_of, columns_of, cost_nothing, title_of
from orchestrator.ledger.mlflow.run_groups import Group
from orchestrator.ledger.mlflow.runs import RunRow
from orchestrator.text import UNKNOWN, count, ending, hours, number, percent, usd

STATUS_STYLES = {Status.FINISHED: "green", Status.FAILED: "red", "running": "cyan", "unknown": "yellow"}
MIN_NAME_WIDTH = 16
MOST_APART = 12  # that are named
# A figure of groups with its heading, how it is written and which of them go first where room is scarce.
GROUP_FIGURES: tuple[tuple[str, str, Callable[[float | None], str], int], ...] = (
    ("usd_to_loss", "$ to loss", usd, 1),
    ("hours_to_loss", "h to loss", hours, 4),
    ("cost_usd", "cost", usd, 2),
    ("gpu_hours", "GPU-hours", hours, 6),
    ("cost_usd_per_million_tokens", "$/M tokens", usd, 3),
    ("final_loss", "final loss", number, 5),
    ("tokens_per_s", "tokens/s", count, 7),
    ("mfu", "MFU", percent, 9),
    ("goodput", "goodput", percent, 8),
    ("actual_over_predicted_cost", "actual/plan", lambda value: number(value, 3), 10),
)


def print_table(rows: Sequence[RunRow], console: Console) -> None:
    """One line per run, or two on a narrow terminal; columns that fit in neither are named below."""
    apart = [row for row in rows if cost_nothing(row)]
    rows = [row for row in rows if not cost_nothing(row)] or rows
    cells = []
    for column in columns_of(rows):
        texts, left = cells_of(column, rows), column.key in TEXT_COLUMNS
        if column.key == "name":
            widest = min(max(map(cell_len, texts)), max(MIN_NAME_WIDTH, console.width // 3))
            texts = [ending(name, widest) for name in texts]
        style = _style_of(column.key, column.best is not None, rows, texts)
        first = left or column.key.startswith("settings.")
        cells.append(Cells(title_of(column, rows), texts, column.rank, left, first, style))
    hidden = [one.title.strip() for one in print_lines(cells, console)]
    note = (
        "* best of the finished runs" + (" of the same job and model" if len(comparable(rows)) > 1 else "")
        if any(text.endswith("*") for one in cells for text in one.texts)
        else ""
    )
    if hidden:
        note += ("; " if note else "") + f"not shown for lack of width: {', '.join(hidden)}"
    if note:
        console.print(Text(note, style="dim"), soft_wrap=True)
    if apart and apart != rows:
        names = ", ".join(row.name for row in apart[:MOST_APART])
        names += f" and {len(apart) - MOST_APART} more" if len(apart) > MOST_APART else ""
        ended = f"refused or ended before they held anything, and cost nothing: {names}"
        console.print(Text(ended, style="dim"), soft_wrap=True)


def print_groups(groups: Sequence[Group], console: Console) -> None:
    """One line for each group, or two: mean ± standard deviation of its finished runs."""
    keys = list(groups[0].values)
    names = [key.rpartition(".")[2] for key in keys]
    cells = [
        Cells(
            name if names.count(name) == 1 else key,
            [group.values[key] for group in groups],
            0,
            left=True,
            first=True,
        )
        for name, key in zip(names, keys, strict=True)
    ]
    cells.append(Cells("runs", [_runs(group) for group in groups], 0, left=True, first=True))
    cells.append(Cells("spent in all", [usd(group.cost_usd) for group in groups], 3))
    if any("usd_to_loss" in group.figures or group.reached for group in groups):
        cells.append(Cells("reached", [f"{group.reached} of {group.runs}" for group in groups], 2))
    for name, title, say, rank in GROUP_FIGURES:
        if any(name in group.figures for group in groups):
            cells.append(Cells(title, [spread_text(group, name, say) for group in groups], rank))
    hidden = [one.title for one in print_lines(cells, console)]
    note = "mean ± standard deviation of the finished runs"
    if any(group.finished < group.runs for group in groups):
        note += "; (+n): others, whose cost is in 'spent in all' alone"
    if hidden:
        note += f"; not shown for lack of width: {', '.join(hidden)}"
    console.print(Text(note, style="dim"), soft_wrap=True)


def _runs(group: Group) -> str:
    others = group.runs - group.finished
    return f"{group.finished} (+{others})" if others else str(group.finished)


def spread_text(group: Group, name: str, say: Callable[[float | None], str]) -> str:
    """A figure's mean and standard deviation."""
    found = group.figures.get(name)
    if found is None:
        return UNKNOWN
    mean = say(found.mean)
    if found.deviation is None:
        return mean
    deviation = say(found.deviation)
    if "." not in mean:  # no finer than what it is about
        deviation = re.sub(r"\.\d+$", "", deviation)
    return f"{mean} ± {deviation}"


def _style_of(key: str, has_best: bool, rows: Sequence[RunRow], texts: Sequence[str]) -> Callable[[int], str]:
    if key == "status":
        return lambda place: STATUS_STYLES.get(rows[place].status, "yellow")
    return lambda place: "bold green" if has_best and texts[place].endswith("*") else ""
