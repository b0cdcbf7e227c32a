"""What is shown of runs side by side, and which value of a column is the best; a terminal and a notebook lay
it out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from orchestrator.events import Status
from orchestrator.ledger.mlflow.runs import RunRow
from orchestrator.text import UNKNOWN, count, hours, hours_name, number, percent, usd


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


def best_values(rows: Sequence[RunRow]) -> dict[str, float]:
    """Per column the best value of the finished runs; none where fewer than two can be compared."""
    best: dict[str, float] = {}
    for column in COLUMNS:
        values = [getattr(row, column.key) for row in rows if row.status == Status.FINISHED]
        values = [value for value in values if value is not None]
        if column.best and len(values) > 1:
            best[column.key] = column.best(values)
    return best


def cells_of(column: Column, rows: Sequence[RunRow]) -> list[str]:
    """A column's texts; the best has a star, and the others a space in its place."""
    best = best_values(rows).get(column.key)
    numeric = column.best is not None
    stars = [row.status == Status.FINISHED and getattr(row, column.key) == best for row in rows]
    marks = ["*" if star and best is not None else " " for star in stars]
    return [column.show(row) + (mark if numeric else "") for row, mark in zip(rows, marks, strict=True)]


def title_of(column: Column, rows: Sequence[RunRow]) -> str:
    """A column's heading, with the unit of its hours where all runs have the same."""
    if column.key == "gpu_hours":
        units = {row.unit for row in rows if row.unit}
        return hours_name(units.pop()) if len(units) == 1 else column.title
    return column.title + (" " if column.best else "")


def _gpus(row: RunRow) -> str:
    return " ".join(str(part) for part in (row.gpus, row.gpu_type) if part is not None) or UNKNOWN
