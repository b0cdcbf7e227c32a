"""Runs side by side, the best value of each column marked."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestrator.cli.show.tables import GAP
from orchestrator.events import Status
from orchestrator.ledger.mlflow.differences import comparable
from orchestrator.ledger.mlflow.run_columns import (
    COLUMNS,
    TEXT_COLUMNS,
    Column,
    cells_of,
    columns_of,
    cost_nothing,
    title_of,
)
from orchestrator.ledger.mlflow.runs import RunRow
from orchestrator.text import ending

STATUS_STYLES = {Status.FINISHED: "green", Status.FAILED: "red", "running": "cyan", "unknown": "yellow"}
MIN_NAME_WIDTH = 16


def print_table(rows: Sequence[RunRow], console: Console) -> None:
    """One line per run; columns that do not fit are left out and named below."""
    apart = [row for row in rows if cost_nothing(row)]
    rows = [row for row in rows if not cost_nothing(row)] or rows
    columns = columns_of(rows)
    cells = {column.key: cells_of(column, rows) for column in columns}
    titles = {column.key: title_of(column, rows) for column in columns}
    widths = {
        column.key: max(cell_len(text) for text in [titles[column.key], *cells[column.key]])
        for column in columns
    }
    widths["name"] = min(widths["name"], max(MIN_NAME_WIDTH, console.width // 4))
    cells["name"] = [ending(name, widths["name"]) for name in cells["name"]]
    shown = fitting(widths, console.width, columns)
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
    hidden = [titles[column.key].strip() for column in columns if column not in shown]
    note = (
        "* best of the finished runs" + (" of the same job and model" if len(comparable(rows)) > 1 else "")
        if any("*" in text for texts in cells.values() for text in texts)
        else ""
    )
    if hidden:
        note += ("; " if note else "") + f"not shown for lack of width: {', '.join(hidden)}"
    if note:
        console.print(Text(note, style="dim"), soft_wrap=True)
    if apart and apart != rows:
        names = ", ".join(row.name for row in apart)
        ended = f"refused or ended before they held anything, and cost nothing: {names}"
        console.print(Text(ended, style="dim"), soft_wrap=True)


def fitting(
    widths: dict[str, int], console_width: int, columns: Sequence[Column] = tuple(COLUMNS)
) -> list[Column]:
    """The columns that fit, in the table's order; chosen from the most important one down."""
    room = console_width + GAP
    chosen: list[Column] = []
    for column in sorted(columns, key=lambda column: column.rank):
        if not chosen or widths[column.key] + GAP <= room:
            chosen.append(column)
            room -= widths[column.key] + GAP
    return [column for column in columns if column in chosen]


def _styled(column: Column, row: RunRow, text: str) -> Text:
    if column.key == "status":
        return Text(text, style=STATUS_STYLES.get(row.status, "yellow"))
    return Text(text, style="bold green" if text.endswith("*") and column.best else "")
