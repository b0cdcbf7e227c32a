"""Runs side by side as a picture for slides: four of the charts of the page, on white."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from orchestrator.cli.show.page import BUCKETS, LIGHT
from orchestrator.cli.show.runs_page import Series, bars_of, series_of
from orchestrator.cli.show.svg_chart import OTHERS
from orchestrator.cli.show.sweep_picture import FAINT, LOG_FROM, TEXT, tick
from orchestrator.events import Status
from orchestrator.ledger.mlflow.curves import CurvePoint
from orchestrator.ledger.mlflow.run_columns import cost_nothing
from orchestrator.ledger.mlflow.run_groups import Group
from orchestrator.ledger.mlflow.runs import RunRow
from orchestrator.planner.sweep import pareto_front
from orchestrator.text import ending, usd

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MARKERS = ("o", "s", "^", "D", "v", "P", ".")
_DASHES = ("-", "--", ":", "-.", (0, (4, 2)), (0, (1, 2)), "-")
_HATCHES = {"redone": "///", "recovering": "\\\\\\", "starting": "---"}
_MANY = 6  # curves, from which the others are faint
_MOST_BARS, _NAME = 10, 26


def runs_picture(
    rows: Sequence[RunRow], groups: Sequence[Group], curves: Mapping[str, Sequence[CurvePoint]], title: str
) -> bytes:
    """A PNG of 16:9."""
    import matplotlib
    from matplotlib.figure import Figure

    rows = [row for row in rows if not cost_nothing(row)] or list(rows)
    series = series_of(rows, groups)
    style: dict[Any, Any] = {"font.size": 10, "axes.edgecolor": FAINT, "text.parse_math": False}
    style |= {"text.color": TEXT, "axes.labelcolor": TEXT, "xtick.color": TEXT, "ytick.color": TEXT}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(13.33, 7.5), dpi=144, layout="constrained")
        places = figure.subplots(2, 2)
        _draw_curves(places[0][0], rows, curves, series)
        finished = [row for row in rows if row.status == Status.FINISHED]
        bought = [(row, row.cost_usd, row.final_loss) for row in finished]
        _draw_marks(places[0][1], bought, series, "Final loss against dollars", "dollars", "final loss")
        took = [(row, row.hours, row.cost_usd) for row in finished]
        _draw_marks(places[1][0], took, series, "Cost against time", "hours", "dollars")
        _draw_buckets(places[1][1], rows, groups)
        handles = [
            places[0][0].plot(
                [], [], color=LIGHT[number], marker=_MARKERS[number], linestyle=_DASHES[number]
            )[0]
            for number in range(len(series.names))
        ]
        names = [ending(name, 40) for name in series.names]
        figure.legend(
            handles, names, title=title, loc="outside upper left", ncols=4, frameon=False, alignment="left",
            title_fontsize=13,
        )  # fmt: skip
        written = io.BytesIO()
        figure.savefig(written, format="png")
    return written.getvalue()


def _draw_curves(
    axes: Axes, rows: Sequence[RunRow], curves: Mapping[str, Sequence[CurvePoint]], series: Series
) -> None:
    shown = [row for row in rows if len(curves.get(row.run_id, ())) > 1]
    best: dict[int, str] = {}
    for row in sorted(shown, key=lambda row: min(point.loss for point in curves[row.run_id])):
        best.setdefault(series.of[row.run_id], row.run_id)
    for row in shown:
        place = series.of[row.run_id]
        faint = len(shown) > _MANY and (best[place] != row.run_id or place == OTHERS)
        points = [(point.cost_usd, point.loss) for point in curves[row.run_id] if point.cost_usd > 0]
        if points:
            axes.plot(
                *zip(*points, strict=True), color=LIGHT[place], linestyle=_DASHES[place],
                linewidth=0.7 if faint else 2.0, alpha=0.25 if faint else 1.0, zorder=2 if faint else 3,
            )  # fmt: skip
    _dress(axes, "Loss against dollars", "dollars", "loss")


def _draw_marks(
    axes: Axes,
    told: Sequence[tuple[RunRow, float | None, float | None]],
    series: Series,
    title: str,
    x: str,
    y: str,
) -> None:
    """A mark for each run, filled where no other is better in both, with a line through those."""
    known = [(row, one, other) for row, one, other in told if one and other]
    front = pareto_front([(one, other) for _, one, other in known])
    alike: dict[tuple[int, bool], list[tuple[float, float]]] = {}
    for place, (row, one, other) in enumerate(known):
        alike.setdefault((series.of[row.run_id], place in front), []).append((one, other))
    for (number, best), points in alike.items():
        across, up = zip(*points, strict=True)
        axes.scatter(
            across, up, s=34 if best else 18, marker=_MARKERS[number],
            edgecolors=LIGHT[number], facecolors=LIGHT[number] if best else "white", linewidths=1.0,
            zorder=4 if best else 3,
        )  # fmt: skip
    corner = sorted((known[place][1], known[place][2]) for place in front)
    if len(corner) > 1:
        axes.plot(*zip(*corner, strict=True), color=TEXT, linewidth=1.0, zorder=2)
    _dress(axes, title, x, y)


def _draw_buckets(axes: Axes, rows: Sequence[RunRow], groups: Sequence[Group]) -> None:
    told = bars_of(rows, groups)[:_MOST_BARS][::-1]
    names = [ending(name, _NAME) for name, _ in told]
    left = [0.0] * len(told)
    for bucket, (colour, _) in BUCKETS.items():
        widths = [parts.get(bucket, 0.0) for _, parts in told]
        if any(widths):
            axes.barh(
                range(len(told)), widths, left=left, color=colour, label=bucket, hatch=_HATCHES.get(bucket),
                edgecolor="white", linewidth=0.6,
            )  # fmt: skip
            left = [one + other for one, other in zip(left, widths, strict=True)]
    axes.set_yticks(range(len(told)), names)
    for place, whole in enumerate(left):
        axes.annotate(usd(whole), (whole, place), (4, 0), textcoords="offset points", va="center", fontsize=8)
    axes.margins(x=0.14)
    if told:
        axes.legend(ncols=3, fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.08))
    _dress(axes, "What the cost went to, dollars", "", "", logarithmic=False)
    axes.grid(visible=False, axis="y")


def _dress(axes: Axes, title: str, x: str, y: str, logarithmic: bool = True) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(color="#E8EAED", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    form = FuncFormatter(lambda value, _place: tick(value))
    sides: list[tuple[Any, Any, Any]] = [(axes.xaxis, axes.dataLim.intervalx, axes.set_xscale)]
    if y:
        sides.append((axes.yaxis, axes.dataLim.intervaly, axes.set_yscale))
    for axis, (low, high), set_scale in sides:
        if logarithmic and 0 < low < high and high / low >= LOG_FROM:
            set_scale("log")
            axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high / low < 1000 else (1.0,)))
            axis.set_minor_formatter(NullFormatter())
        axis.set_major_formatter(form)
