"""Runs side by side as a page: loss against dollars and hours, cost by what it went to, cost against time
with its front, predicted against actual, and the table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.cli.show.page import (
    BUCKETS,
    Cell,
    charts,
    legend,
    page,
    sorted_table,
    swatch,
    tiles,
)
from orchestrator.cli.show.runs_table import GROUP_FIGURES, spread_text
from orchestrator.cli.show.svg_chart import OTHERS, SERIES, Axis, Line, Mark, bars, chart, key_of
from orchestrator.events import Status
from orchestrator.ledger.bill import Bucket
from orchestrator.ledger.mlflow.curves import CurvePoint
from orchestrator.ledger.mlflow.run_columns import TEXT_COLUMNS, columns_of, cost_nothing, title_of
from orchestrator.ledger.mlflow.run_groups import Group
from orchestrator.ledger.mlflow.runs import RunRow
from orchestrator.planner.sweep import pareto_front
from orchestrator.text import UNKNOWN, count, hours, hours_name, number, percent, usd

MOST_BARS = 12
# Of more runs the curves are those of the best of each colour and of the newest.
MOST_CURVES = 300
UNTOLD = "untold"  # of what a run cost, where MLflow has no bill by bucket


@dataclass(frozen=True)
class Series:
    """The runs that share a colour: what tells them from the others, and each one's place by its number."""

    names: tuple[str, ...]
    of: Mapping[str, int]


def series_of(rows: Sequence[RunRow], groups: Sequence[Group]) -> Series:
    """By the groups that were asked for; else each run where they are few, else by cluster or by a key in
    which they differ that has few values. The largest have colours, the rest is grey."""
    if groups:
        labels = {run_id: ", ".join(group.values.values()) for group in groups for run_id in group.run_ids}
    elif len(rows) <= SERIES:
        labels = {row.run_id: row.name for row in rows}
    else:
        labels = _by_a_key(rows)
    sizes = {name: list(labels.values()).count(name) for name in dict.fromkeys(labels.values())}
    names = sorted(sizes, key=lambda name: -sizes[name])
    named = [*names[:SERIES], "others"] if len(names) > SERIES else names
    return Series(tuple(named), {run_id: min(names.index(name), OTHERS) for run_id, name in labels.items()})


def _by_a_key(rows: Sequence[RunRow]) -> dict[str, str]:
    readings = [{row.run_id: row.cluster or UNKNOWN for row in rows}]
    for key in sorted({key for row in rows for key in row.settings}):
        name = key.rpartition(".")[2]
        readings.append({row.run_id: f"{name} {row.settings.get(key, UNKNOWN)}" for row in rows})
    for labels in readings:
        if 2 <= len(set(labels.values())) <= SERIES:
            return labels
    return {row.run_id: "all runs" for row in rows}


def with_curves(rows: Sequence[RunRow]) -> list[RunRow]:
    """Those whose curves are drawn: the ones with the lowest loss, and the newest."""
    if len(rows) <= MOST_CURVES:
        return list(rows)
    known = sorted((row for row in rows if row.final_loss is not None), key=lambda row: row.final_loss or 0.0)
    newest = sorted(rows, key=lambda row: row.started_at or "", reverse=True)
    chosen = {row.run_id: row for row in [*known[: MOST_CURVES // 2], *newest]}
    return list(chosen.values())[:MOST_CURVES]


def runs_page(
    rows: Sequence[RunRow],
    groups: Sequence[Group],
    curves: Mapping[str, Sequence[CurvePoint]],
    title: str,
    subtitle: str,
    to_loss: float | None = None,
) -> str:
    """The whole page."""
    rows = [row for row in rows if not cost_nothing(row)] or list(rows)
    series = series_of(rows, groups)
    drawn = [
        *_curves(rows, curves, series),
        _loss_against_cost(rows, series),
        _cost_against_time(rows, series, to_loss),
        _predicted(rows, series),
        _buckets(rows, groups),
    ]
    names = legend((key_of(place), name) for place, name in enumerate(series.names)) if len(rows) > 1 else ""
    kinds = [name for name in BUCKETS if any(name in parts for _, parts in bars_of(rows, groups))]
    swatches = legend((swatch(name), _spoken(name)) for name in kinds)
    body = charts(drawn).replace("<!--buckets-->", swatches)
    return page(
        title, subtitle, [tiles(_totals(rows, to_loss)), names, body, _groups_table(groups), _table(rows)]
    )


def _totals(rows: Sequence[RunRow], to_loss: float | None) -> list[tuple[str, str]]:
    cost = sum(row.cost_usd or 0.0 for row in rows)
    parts = [row.bucket_usd for row in rows if row.bucket_usd]
    told = sum(sum(part.values()) for part in parts)
    trained = sum(part.get(Bucket.TRAINING.value, 0.0) for part in parts)
    finished = sum(row.status == Status.FINISHED for row in rows)
    figures = [
        (f"{'run' if len(rows) == 1 else 'runs'}, {finished:,} finished", f"{len(rows):,}"),
        ("spent", usd(cost)),
    ]
    for unit in sorted({hours_name(row.unit or "GPU") for row in rows}):
        held = sum(row.gpu_hours or 0.0 for row in rows if hours_name(row.unit or "GPU") == unit)
        figures.append((unit, hours(held) if held < 10_000 else f"{held:,.0f}"))
    figures.append(("of it went to training", percent(trained / told if told else None)))
    figures.append(("tokens", count(sum(row.tokens or 0 for row in rows) or None)))
    best = min((row.final_loss for row in rows if row.final_loss is not None), default=None)
    figures.append(("lowest final loss", number(best)))
    if to_loss is not None:
        reached = [row.usd_to_loss for row in rows if row.usd_to_loss is not None]
        figures.append((f"least to a loss of {to_loss:g}", usd(min(reached, default=None))))
        figures.append((f"came to a loss of {to_loss:g}", f"{len(reached):,} of {len(rows):,}"))
    return figures


def _said(row: RunRow) -> str:
    parts = (
        row.name,
        usd(row.cost_usd),
        f"{hours(row.hours)} h",
        f"loss {number(row.final_loss)}",
        row.cluster,
    )
    return ", ".join(part for part in parts if part)


def _curves(
    rows: Sequence[RunRow], curves: Mapping[str, Sequence[CurvePoint]], series: Series
) -> list[tuple[str, str, str]]:
    """Loss against dollars, and against hours. The one of each colour that came lowest stands out where there
    are many."""
    shown = [row for row in rows if len(curves.get(row.run_id, ())) > 1]
    best: dict[int, RunRow] = {}
    for row in sorted(shown, key=lambda row: min(point.loss for point in curves[row.run_id])):
        best.setdefault(series.of[row.run_id], row)
    stand_out = {row.run_id for place, row in best.items() if place != OTHERS}
    many = len(shown) > SERIES
    drawings = []
    for label, place in (("dollars", 1), ("hours", 0)):
        lines, ends = [], []
        for row in shown:
            points = [(point[place], point.loss) for point in curves[row.run_id] if point[place] > 0]
            if not points:
                continue
            number_of, faint = series.of[row.run_id], many and row.run_id not in stand_out
            lines.append(Line(points, number_of, _said(row), faint))
            if not faint:
                ends.append(Mark(*points[-1], _said(row), number_of))
        note = "the median of five losses"
        if many:
            note += "; of each colour the run that came lowest stands out"
        if len(shown) < len(rows):
            note += f"; {len(shown):,} of {len(rows):,} runs"
        drawing = chart(Axis(label), Axis("loss"), lines, ends, f"loss against {label}")
        drawings.append((f"Loss against {label}", drawing, note))
    return drawings


def _cost_against_time(rows: Sequence[RunRow], series: Series, to_loss: float | None) -> tuple[str, str, str]:
    asked = to_loss is not None
    known = [
        (row, row.hours_to_loss if asked else row.hours, row.usd_to_loss if asked else row.cost_usd)
        for row in rows
        if row.status == Status.FINISHED or asked
    ]
    front = pareto_front([(cost, time) for _, time, cost in known])
    marks = [
        Mark(time, cost, _said(row), series.of[row.run_id], place not in front)
        for place, (row, time, cost) in enumerate(known)
        if time and cost
    ]
    corner = sorted((known[place][1] or 0.0, known[place][2] or 0.0) for place in front)
    line = [Line(corner, plain=True)] if len(corner) > 1 else []
    what = f"to a loss of {to_loss:g}" if asked else "of finished runs"
    drawing = chart(Axis("hours"), Axis("dollars"), line if marks else [], marks, f"cost against time {what}")
    note = f"{what}; filled and on the line: no other is both cheaper and faster"
    return ("Cost against time", drawing, note)


def _loss_against_cost(rows: Sequence[RunRow], series: Series) -> tuple[str, str, str]:
    """What a dollar more has bought, one mark a run."""
    known = [row for row in rows if row.final_loss is not None and row.cost_usd]
    front = pareto_front([(row.cost_usd, row.final_loss) for row in known])
    marks = [
        Mark(
            row.cost_usd or 0.0, row.final_loss or 0.0, _said(row), series.of[row.run_id], place not in front
        )
        for place, row in enumerate(known)
    ]
    corner = sorted((known[place].cost_usd or 0.0, known[place].final_loss or 0.0) for place in front)
    line = [Line(corner, plain=True)] if len(corner) > 1 else []
    drawing = chart(Axis("dollars"), Axis("final loss"), line, marks, "final loss against dollars")
    return (
        "Final loss against dollars",
        drawing,
        "filled and on the line: no other is both cheaper and better",
    )


def _predicted(rows: Sequence[RunRow], series: Series) -> tuple[str, str, str]:
    known = [row for row in rows if row.predicted_cost_usd and row.cost_usd]
    marks = [
        Mark(
            row.predicted_cost_usd or 0.0,
            row.cost_usd or 0.0,
            f"{row.name}: {usd(row.predicted_cost_usd)} predicted, {usd(row.cost_usd)} actual",
            series.of[row.run_id],
            row.status != Status.FINISHED,
        )
        for row in known
    ]
    both = [value for mark in marks for value in (mark.x, mark.y)]
    line = [Line([(min(both), min(both)), (max(both), max(both))], plain=True)] if both else []
    drawing = chart(
        Axis("predicted dollars"), Axis("actual dollars"), line, marks, "predicted against actual cost"
    )
    return (
        "Predicted against actual cost",
        drawing,
        "of the steps done; on the line it cost what the plan said; hollow: not finished",
    )


def _buckets(rows: Sequence[RunRow], groups: Sequence[Group]) -> tuple[str, str, str]:
    told = bars_of(rows, groups)
    drawing = bars(told, list(BUCKETS), usd, "cost by what it went to")
    many = len(groups or rows)
    note = "in dollars" if many <= MOST_BARS else f"in dollars, the dearest {MOST_BARS} of {many:,}"
    return ("What the cost went to", drawing and drawing + "<!--buckets-->", note)


def bars_of(rows: Sequence[RunRow], groups: Sequence[Group]) -> list[tuple[str, dict[str, float]]]:
    """Of each group, or each run, the dearest first."""
    by_id = {row.run_id: row for row in rows}
    if groups:
        whole = [
            (", ".join(group.values.values()), [by_id[each] for each in group.run_ids if each in by_id])
            for group in groups
        ]
    else:
        whole = [(row.name, [row]) for row in rows]
    told = [(name, _summed(members)) for name, members in whole]
    told.sort(key=lambda one: -sum(one[1].values()))
    return [one for one in told[:MOST_BARS] if one[1]]


def _summed(rows: Sequence[RunRow]) -> dict[str, float]:
    parts: dict[str, float] = {}
    for row in rows:
        for name, cost in (row.bucket_usd or {UNTOLD: row.cost_usd or 0.0}).items():
            if cost:
                parts[name] = parts.get(name, 0.0) + cost
    return parts


def _spoken(bucket: str) -> str:
    return "not told by what it went to" if bucket == UNTOLD else bucket


def _groups_table(groups: Sequence[Group]) -> str:
    if not groups:
        return ""
    figures = [one for one in GROUP_FIGURES if any(one[0] in group.figures for group in groups)]
    headings = [*((key, False) for key in groups[0].values), ("runs", True), ("finished", True)]
    headings += [
        ("spent in all", True),
        *((f"{title}, mean ± deviation", True) for _, title, _, _ in figures),
    ]
    rows = [
        [
            *(Cell(value) for value in group.values.values()),
            Cell(f"{group.runs:,}", group.runs),
            Cell(f"{group.finished:,}", group.finished),
            Cell(usd(group.cost_usd), group.cost_usd),
            *(
                Cell(
                    spread_text(group, name, say),
                    spread.mean if (spread := group.figures.get(name)) else None,
                )
                for name, _, say, _ in figures
            ),
        ]
        for group in groups
    ]
    return sorted_table(headings, rows, "groups")


def _table(rows: Sequence[RunRow]) -> str:
    columns = columns_of(rows)
    headings = [
        (
            title_of(column, rows).strip(),
            column.key not in TEXT_COLUMNS and not column.key.startswith("settings."),
        )
        for column in columns
    ]
    lines = []
    for row in rows:
        lines.append([
            Cell(column.show(row), getattr(row, column.key) if is_figure else None)
            for column, (_, is_figure) in zip(columns, headings, strict=True)
        ])  # fmt: skip
    return sorted_table(headings, lines, "runs")
