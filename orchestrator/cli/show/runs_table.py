"""Runs side by side, the best value of each column marked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestrator.cli.show.tables import GAP
from orchestrator.ledger.mlflow.runs import RunRow
from orchestrator.text import UNKNOWN, count, ending, hours, hours_name, number, percent, usd

STATUS_STYLES = {"finished": "green", "failed": "red", "running": "cyan", "unknown": "yellow"}
MIN_NAME_WIDTH = 16


@dataclass(frozen=True)
class Column:
    """``best`` is min or max, None when no value is better than another. When not all columns fit,
    those with the lowest ``rank`` do; 0 always does."""

    key: str
    title: str
    show: Callable[[RunRow], str]
    rank: int
    best: Callable[[Sequence[float]], float] | None = None


COLUMNS = [
    Column("name", "run", lambda row: row.name, 0),
    Column("cluster", "cluster", lambda row: row.cluster or UNKNOWN, 6),
    Column("gpus", "GPUs", lambda row: _gpus(row), 7),
    Column("status", "status", lambda row: row.status, 4),
    Column("tokens", "tokens", lambda row: count(row.tokens), 10),
    Column("tokens_per_s", "tokens/s", lambda row: count(row.tokens_per_s), 3, max),
    Column("mfu", "MFU", lambda row: percent(row.mfu), 9, max),
    Column("gpu_hours", "GPU-hours", lambda row: hours(row.gpu_hours), 11),
    Column("cost_usd", "cost", lambda row: usd(row.cost_usd), 1, min),
    Column(
        "cost_usd_per_million_tokens",
        "$/M tokens",
        lambda row: usd(row.cost_usd_per_million_tokens),
        2,
        min,
    ),
    Column("final_loss", "final loss", lambda row: number(row.final_loss), 5, min),
    Column("goodput", "goodput", lambda row: percent(row.goodput), 8, max),
    Column("restarts", "restarts", lambda row: UNKNOWN if row.restarts is None else str(row.restarts), 12),
]
TEXT_COLUMNS = ("name", "cluster", "gpus", "status")


def print_table(rows: Sequence[RunRow], console: Console) -> None:
    """One line per run; columns that do not fit are left out and named below."""
    cells = {column.key: _cells(column, rows) for column in COLUMNS}
    titles = {column.key: _title(column, rows) for column in COLUMNS}
    widths = {
        column.key: max(cell_len(text) for text in [titles[column.key], *cells[column.key]])
        for column in COLUMNS
    }
    widths["name"] = min(widths["name"], max(MIN_NAME_WIDTH, console.width // 4))
    cells["name"] = [ending(name, widths["name"]) for name in cells["name"]]
    shown = fitting(widths, console.width)
    table = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False, header_style="bold")
    for column in shown:
        left = column.key in TEXT_COLUMNS
        table.add_column(
            titles[column.key],
            justify="left" if left else "right",
            no_wrap=True,
            overflow="crop",
            max_width=widths[column.key],
        )
    for index, row in enumerate(rows):
        table.add_row(*[_styled(column, row, cells[column.key][index]) for column in shown])
    console.print(table)
    hidden = [titles[column.key].strip() for column in COLUMNS if column not in shown]
    note = (
        "* best of the finished runs"
        if any("*" in text for texts in cells.values() for text in texts)
        else ""
    )
    if hidden:
        note += ("; " if note else "") + f"not shown for lack of width: {', '.join(hidden)}"
    if note:
        console.print(Text(note, style="dim"), soft_wrap=True)


def fitting(widths: dict[str, int], console_width: int) -> list[Column]:
    """The columns that fit, in the table's order; chosen from the most important one down."""
    room = console_width + GAP
    chosen: list[Column] = []
    for column in sorted(COLUMNS, key=lambda column: column.rank):
        if not chosen or widths[column.key] + GAP <= room:
            chosen.append(column)
            room -= widths[column.key] + GAP
    return [column for column in COLUMNS if column in chosen]


def best_values(rows: Sequence[RunRow]) -> dict[str, float]:
    """Per column the best value of the finished runs; none where fewer than two can be compared."""
    best: dict[str, float] = {}
    for column in COLUMNS:
        values = [getattr(row, column.key) for row in rows if row.status == "finished"]
        values = [value for value in values if value is not None]
        if column.best and len(values) > 1:
            best[column.key] = column.best(values)
    return best


def _cells(column: Column, rows: Sequence[RunRow]) -> list[str]:
    best = best_values(rows).get(column.key)
    numeric = column.best is not None
    marks = [
        ("*" if best is not None and row.status == "finished" and getattr(row, column.key) == best else " ")
        for row in rows
    ]
    return [column.show(row) + (mark if numeric else "") for row, mark in zip(rows, marks, strict=True)]


def _styled(column: Column, row: RunRow, text: str) -> Text:
    if column.key == "status":
        return Text(text, style=STATUS_STYLES.get(row.status, "yellow"))
    return Text(text, style="bold green" if text.endswith("*") and column.best else "")


def _title(column: Column, rows: Sequence[RunRow]) -> str:
    if column.key == "gpu_hours":
        units = {row.unit for row in rows if row.unit}
        return hours_name(units.pop()) if len(units) == 1 else column.title
    return column.title + (" " if column.best else "")


def _gpus(row: RunRow) -> str:
    return " ".join(str(part) for part in (row.gpus, row.gpu_type) if part is not None) or UNKNOWN
