"""What is shown of runs side by side, and which value of a column is the best; a terminal and a notebook lay
it out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from orchestrator.events import Status
from orchestrator.ledger.mlflow.differences import comparable
from orchestrator.ledger.mlflow.runs import RunRow
from orchestrator.text import UNKNOWN, count, ending, hours, hours_name, number, percent, usd


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
    Column("gpu_hours", "GPU-hours", lambda row: hours(row.gpu_hours), 3),
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
    Column(
        "actual_over_predicted_cost",
        "actual/plan",
        lambda row: UNKNOWN if row.predicted_cost_usd is None else number(row.actual_over_predicted_cost, 3),
        13,
    ),
    Column("restarts", "restarts", lambda row: UNKNOWN if row.restarts is None else str(row.restarts), 12),
]
# Where it was asked for.
TO_LOSS_COLUMNS = [
    Column("usd_to_loss", "$ to loss", lambda row: _to_loss(row), 1, min),
    Column("gpu_hours_to_loss", "GPU-h to loss", lambda row: hours(row.gpu_hours_to_loss), 4, min),
    Column("hours_to_loss", "h to loss", lambda row: hours(row.hours_to_loss), 3, min),
]
MOST_OF_A_SETTING = 24
TEXT_COLUMNS = ("name", "cluster", "gpus", "status")


def columns_of(rows: Sequence[RunRow]) -> list[Column]:
    """All columns, with one for each key in which the runs differ behind their names."""
    keys = sorted({key for row in rows for key in row.settings})
    names = [key.rpartition(".")[2] for key in keys]
    own = [
        Column(f"settings.{key}", name if names.count(name) == 1 else key, _setting(key), 1)
        for key, name in zip(keys, names, strict=True)
    ]
    to_loss = TO_LOSS_COLUMNS if any(row.best_loss is not None for row in rows) else []
    return [COLUMNS[0], *own, *to_loss, *COLUMNS[1:]]


def _to_loss(row: RunRow) -> str:
    """Of a run that never reached it the best that it came to."""
    if row.usd_to_loss is None and row.best_loss is not None:
        return f"best {number(row.best_loss)}"
    return usd(row.usd_to_loss)


def cost_nothing(row: RunRow) -> bool:
    """A run that was refused, or ended, before it held anything: the cheapest of all, and nothing to compare
    with."""
    ended = row.status not in ("running", Status.FINISHED)
    return ended and not (row.gpu_hours or row.cost_usd or row.tokens)


def _setting(key: str) -> Callable[[RunRow], str]:
    return lambda row: ending(row.settings.get(key, UNKNOWN), MOST_OF_A_SETTING)


def best_value(column: Column, rows: Sequence[RunRow]) -> float | None:
    """The best value of the finished runs, which are comparable; None where fewer than two are."""
    if column.best is None:
        return None
    values = [getattr(row, column.key) for row in rows if row.status == Status.FINISHED]
    values = [value for value in values if value is not None]
    return column.best(values) if len(values) > 1 else None


def cells_of(column: Column, rows: Sequence[RunRow]) -> list[str]:
    """A column's texts; the best among the runs of one job and model has a star, and the others a space in
    its place."""
    if column.best is None:
        return [column.show(row) for row in rows]
    best = {(group[0].job, group[0].model): best_value(column, group) for group in comparable(rows)}
    wanted = [best[row.job, row.model] if row.status == Status.FINISHED else None for row in rows]
    return [
        column.show(row) + ("*" if value is not None and getattr(row, column.key) == value else " ")
        for row, value in zip(rows, wanted, strict=True)
    ]


def title_of(column: Column, rows: Sequence[RunRow]) -> str:
    """A column's heading, with the unit of its hours where all runs have the same."""
    if column.key == "gpu_hours":
        units = {row.unit for row in rows if row.unit}
        return hours_name(units.pop()) if len(units) == 1 else column.title
    return column.title + (" " if column.best else "")


def _gpus(row: RunRow) -> str:
    return " ".join(str(part) for part in (row.gpus, row.gpu_type) if part is not None) or UNKNOWN
