"""A sweep of plans as a person reads it, and for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NotRequired, TypedDict

from rich.console import Console
from rich.text import Text

from orchestrator.cli.show import sweep_picture
from orchestrator.cli.show.tables import Column, fitting, table_of
from orchestrator.errors import ConfigError
from orchestrator.plan.forecast.price import WITHOUT
from orchestrator.plan.plan import Plan, plan_json
from orchestrator.planner.sweep import (
    PlannedPoint,
    PlanRow,
    bills_of,
    cheapest_first,
    hide_secrets,
    label,
    rows_of,
    short_names,
    values_of,
    varying_keys,
)
from orchestrator.text import UNKNOWN, count, hours, hours_name, percent, plural, usd

NOT_PREDICTED = "not predicted"
PARETO = "Pareto front: no other plan{} is cheaper without taking longer"


class SweptPlan(TypedDict):
    """One point of a sweep: a plan, or why it is refused."""

    overrides: list[str]  # of this point; values of secrets are hidden
    plan: NotRequired[Annotated[dict[str, object], Plan]]  # left out where the point is refused
    # no other plan that is paid alike is cheaper without taking longer; left out where the point is refused
    pareto: NotRequired[bool]
    refused: NotRequired[str]  # the reason; left out where there is a plan


def show_plans(points: Sequence[PlannedPoint], picture: Path, console: Console) -> None:
    """Print the possible plans, cheapest first, then the refused ones, then where the picture is.

    Raises :class:`ConfigError` where no plan is possible.
    """
    rows = rows_of(points)
    keys = varying_keys([values_of(point.overrides) for point in points])
    if rows:
        _show_rows(cheapest_first(rows), keys, console)
    _show_refused(points, keys, console)
    refuse_if_none(points)
    if sum(row.predicted for row in rows) > 1:
        _show_picture(rows, picture, console)


def plans_json(points: Sequence[PlannedPoint]) -> str:
    """A list in the order of the sweep: ``overrides`` with ``plan`` and ``pareto``, or with ``refused``."""
    rows = iter(rows_of(points))
    body: list[SweptPlan] = []
    for point in points:
        overrides = hide_secrets(point.overrides)
        if point.plan is None:
            body.append({"overrides": overrides, "refused": point.refused})
        else:
            body.append({"overrides": overrides, "plan": plan_json(point.plan), "pareto": next(rows).pareto})
    return json.dumps(body, indent=2)


def refuse_if_none(points: Sequence[PlannedPoint]) -> None:
    """Raises :class:`ConfigError` where no point has a plan."""
    if all(point.plan is None for point in points):
        raise ConfigError(
            f"no plan of the sweep's {plural(len(points), 'point')} is possible; each has its reason"
        )


def _columns(rows: Sequence[PlanRow], keys: Sequence[str]) -> list[Column[PlanRow]]:
    names = short_names(keys)
    bills = bills_of(rows)
    columns: list[Column[PlanRow]] = [Column("", lambda row: "*" if row.pareto else "", 0, text=True)]
    columns += [
        Column(names[key], lambda row, key=key: row.overrides.get(key, UNKNOWN), 0, text=True)  # type: ignore[misc]
        for key in keys
    ]
    columns += [
        Column("days", lambda row: NOT_PREDICTED if row.days is None else _amount(row.days), 0),
        Column(hours_name(rows[0].unit), lambda row: _amount(row.gpu_hours), 4),
        Column(f"USD, {bills[0]}" if len(bills) == 1 else "USD", lambda row: _usd(row, len(bills) > 1), 0),
        *([Column("capital", lambda row: usd(row.capital_usd), 0)] if _bought(rows) else []),
        Column(f"tokens/s/{rows[0].unit.split()[-1]}", lambda row: count(row.tokens_per_s_per_gpu), 2),
        Column("MFU", lambda row: percent(row.mfu), 3),
        Column("memory", lambda row: percent(row.memory_share), 5),
        Column("goodput", lambda row: percent(row.goodput), 7),
        Column("bound by", lambda row: row.bound_by, 6, text=True),
    ]
    # Data parallel, the first degree, follows from the others and the ranks.
    if len({row.layout.partition(" × ")[2] for row in rows}) > 1 and not any(
        key.startswith("layout.") for key in keys
    ):
        columns.append(Column("layout", lambda row: row.layout, 8, text=True))
    return columns


def _bought(rows: Sequence[PlanRow]) -> bool:
    return any(row.capital_usd is not None for row in rows)


def _amount(value: float | None) -> str:
    return f"{value:,.0f}" if value is not None and value >= 100 else hours(value)


def _usd(row: PlanRow, with_bill: bool) -> str:
    """Whole dollars where there are many."""
    text = usd(row.cost_usd)
    return f"{text} {row.bill}" if with_bill and row.cost_usd is not None else text


def _show_rows(rows: Sequence[PlanRow], keys: Sequence[str], console: Console) -> None:
    columns = _columns(rows, keys)
    shown = fitting(columns, rows, console.width)
    console.print(table_of(shown, rows, lambda row: "bold" if row.pareto else ""))
    alike = " that is paid alike" if len(bills_of(rows)) > 1 else ""
    note = f"* {PARETO.format(alike)}" if any(row.pareto for row in rows) else ""
    if _bought(rows):
        note += (
            "; owned machines have to be bought first, for the capital: a run bears its share, without"
            f" {WITHOUT}"
        )
    if hidden := [column.title for column in columns if column not in shown]:
        note += ("; " if note else "") + f"not shown for lack of width: {', '.join(hidden)}"
    if note:
        console.print(Text(note, style="dim"), soft_wrap=True)


def _show_refused(points: Sequence[PlannedPoint], keys: Sequence[str], console: Console) -> None:
    """Every refused point with its reason; points with the very same reason share it."""
    by_reason: dict[str, list[str]] = {}
    for point in points:
        if point.plan is None:
            in_words = label(values_of(point.overrides), keys, short_names(keys))
            by_reason.setdefault(" ".join(point.refused.split()), []).append(in_words)
    if not by_reason:
        return
    console.print(Text(f"\nRefused: {sum(map(len, by_reason.values()))} of {len(points)}", style="bold"))
    for reason, words in by_reason.items():
        console.print(Text.assemble("  ", ("; ".join(words), "yellow"), f": {reason}"), soft_wrap=True)


def _show_picture(rows: Sequence[PlanRow], path: Path, console: Console) -> None:
    try:
        note = sweep_picture.draw([row for row in rows if row.predicted], path)
    except OSError as error:
        console.print(Text(f"no picture: {path}: {error.strerror or error}", style="yellow"), soft_wrap=True)
        return
    console.print(Text(f"\npicture: {path}" + (f" ({note})" if note else "")), soft_wrap=True)
