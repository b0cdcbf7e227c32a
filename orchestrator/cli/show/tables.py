"""Tables with more columns than a terminal may have room for: the most important ones are shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

GAP = 2
Row = TypeVar("Row")


@dataclass(frozen=True)
class Column(Generic[Row]):
    """When not all columns fit, those with the lowest ``rank`` do; those of rank 0 always do."""

    title: str
    show: Callable[[Row], str]
    rank: int
    text: bool = False


def fitting(columns: Sequence[Column[Row]], rows: Sequence[Row], width: int) -> list[Column[Row]]:
    """The columns that fit, in the table's order; chosen from the most important one down."""
    room = width + GAP
    chosen: list[Column[Row]] = []
    for column in sorted(columns, key=lambda column: column.rank):
        needed = GAP + max(cell_len(text) for text in [column.title, *map(column.show, rows)])
        if column.rank == 0 or needed <= room:
            chosen.append(column)
            room -= needed
    return [column for column in columns if column in chosen]


def left_out(columns: Sequence[Column[Row]], shown: Sequence[Column[Row]]) -> str:
    """Which columns did not fit, in a sentence; "" where all did."""
    missing = [column.title for column in columns if column not in shown]
    if not missing:
        return ""
    return f"Not shown for lack of width: {', '.join(missing)}; --json has all."


def table_of(
    columns: Sequence[Column[Row]], rows: Sequence[Row], style: Callable[[Row], str] = lambda row: ""
) -> Table:
    table = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(
            column.title, justify="left" if column.text else "right", no_wrap=True, overflow="ellipsis"
        )
    for row in rows:
        table.add_row(*[Text(column.show(row)) for column in columns], style=style(row))
    return table
