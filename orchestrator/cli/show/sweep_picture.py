"""Cost against time of a sweep's plans as a PNG: every point labelled, the Pareto front as a line."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.planner.sweep import PlanRow, is_number, label, short_names, varying_keys
from orchestrator.text import figure, plural

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.text import Annotation

# Okabe and Ito's colours that stand out on white, told apart by most colour-blind people; markers for the
# rest.
SERIES = (
    ("#0072B2", "o"),
    ("#D55E00", "s"),
    ("#009E73", "^"),
    ("#CC79A7", "D"),
    ("#B8860B", "v"),
    ("#5B4B9A", "P"),
)
TEXT, FAINT = "#222222", "#8A8F98"
LEGEND_WIDTH = 115  # characters in a row
MOST_LABELS = 30  # of more points only the front is labelled
LOG_FROM = 6.0  # largest over smallest value from which an axis is logarithmic
DISTANCES_PT = (8.0, 15.0, 26.0, 40.0, 56.0, 80.0)  # of a label from its point, nearest first
ANGLES_DEG = (0, 180, 90, 270, 45, 315, 135, 225, 22, 338, 158, 202, 67, 293, 113, 247)
LEADER_FROM_PT = 12.0  # a label that is further away has a line to its point
Box = tuple[float, float, float, float]  # left, bottom, right, top in pixels


@dataclass(frozen=True)
class Both:
    """Two marks of the legend that stand for one value."""

    marks: tuple[Any, ...]
    label: str

    def get_label(self) -> str:
        """As of any handle."""
        return self.label


def draw(rows: Sequence[PlanRow], path: Path) -> str:
    """Write the picture of rows that have a prediction; returns what a reader has to know of it, or "".

    Raises :class:`OSError` where the file cannot be written.
    """
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.legend_handler import HandlerTuple

    keys = varying_keys([row.overrides for row in rows])
    coloured = series_key(rows, keys)
    style: dict[Any, Any] = {"font.size": 10, "axes.edgecolor": FAINT, "text.parse_math": False}
    style |= {"text.color": TEXT, "axes.labelcolor": TEXT, "xtick.color": TEXT, "ytick.color": TEXT}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(9.0, 5.8), dpi=150, layout="constrained")
        axes = figure.add_subplot()
        _scale(axes, rows)
        handles = _draw_points(axes, rows, coloured)
        widths = [len(str(handle.get_label())) + 8 for handle in handles]
        columns = len(handles) if sum(widths) <= LEGEND_WIDTH else max(1, LEGEND_WIDTH // max(widths))
        figure.legend(
            handles=[handle.marks if isinstance(handle, Both) else handle for handle in handles],
            labels=[str(handle.get_label()) for handle in handles],
            handler_map={tuple: HandlerTuple(ndivide=None)}, title=_title(rows, keys),
            loc="outside upper left", ncols=columns, frameon=False,
            fontsize=9, title_fontsize=11, alignment="left", handletextpad=0.4, columnspacing=1.4,
        )  # fmt: skip
        note = _draw_labels(axes, rows, [key for key in keys if key != coloured])
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
    return note


def series_key(rows: Sequence[PlanRow], keys: Sequence[str]) -> str | None:
    """The override that colour stands for: of those with few values the one with the longest, so that labels
    are short; None where only one key varies."""

    def values(key: str) -> set[str]:
        return {row.overrides.get(key, "") for row in rows}

    fit = [key for key in keys if 2 <= len(values(key)) <= len(SERIES)]
    if len(keys) < 2 or not fit:
        return None
    return max(fit, key=lambda key: (not all(map(is_number, values(key))), max(map(len, values(key)))))


def _title(rows: Sequence[PlanRow], varying: Sequence[str]) -> str:
    """A path is of this machine, and says nothing of the plans."""
    overrides = rows[0].overrides
    fixed = [key for key in overrides if key not in varying and "/" not in overrides[key]]
    said = label(rows[0].overrides, fixed, short_names(fixed))
    return f"Cost against time: {said}" if said else "Cost against time"


def _scale(axes: Axes, rows: Sequence[PlanRow]) -> None:
    unit, per_day = _time_unit(rows)
    axes.set_xlabel(f"time, {unit}")
    bills = {row.bill for row in rows}
    axes.set_ylabel(f"cost, USD {bills.pop()}" if len(bills) == 1 else "cost, USD")
    _scale_axis(axes.xaxis, [_days(row) * per_day for row in rows], axes.set_xscale, axes.set_xlim)
    _scale_axis(axes.yaxis, [_usd(row) for row in rows], axes.set_yscale, axes.set_ylim)
    axes.grid(color="#E8EAED", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _scale_axis(
    axis: Axis,
    values: Sequence[float],
    set_scale: Callable[[str], None],
    set_limits: Callable[[float, float], object],
) -> None:
    """Logarithmic where the spread needs it, with ticks at 1, 2 and 5; room for labels at both ends."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    low, high = min(values), max(values)
    if low > 0 and high / low >= LOG_FROM:
        set_scale("log")
        room = (high / low) ** 0.1
        set_limits(low / room, high * room)
        decades = math.log10(high / low)
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if decades < 3 else (1.0,), numticks=20))
        axis.set_minor_locator(NullLocator())
    else:
        room = 0.12 * (high - low) or 0.1 * high or 1.0
        set_limits(max(0.0, low - room), high + room)
        axis.set_major_locator(MaxNLocator(6))
    axis.set_major_formatter(FuncFormatter(lambda value, _place: tick(value)))


def tick(value: float) -> str:
    """``0.5``, ``12``, ``150k``, ``1.25M``: exact to four digits."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{figure(value / size, 4)}{unit}"
    return figure(value, 4)


def _draw_points(axes: Axes, rows: Sequence[PlanRow], coloured: str | None) -> list[Any]:
    """Filled on the front, hollow elsewhere, one colour and marker per value of an override; the legend's
    handles, which are both beside each other."""
    _unit, per_day = _time_unit(rows)
    front = sorted((_days(row) * per_day, _usd(row)) for row in rows if row.pareto)
    axes.plot(*zip(*front, strict=True), color=TEXT, linewidth=1.1, zorder=2)
    values = sorted({row.overrides.get(coloured, "") for row in rows} if coloured else {""}, key=_natural)
    handles: list[Any] = []
    for value, (colour, marker) in zip(values, SERIES, strict=False):
        for best in (False, True):
            part = [
                row for row in rows if row.pareto is best and (row.overrides.get(coloured or "", "") == value)
            ]
            axes.scatter(
                [_days(row) * per_day for row in part], [_usd(row) for row in part], s=56 if best else 34,
                marker=marker, edgecolors=colour, facecolors=colour if best else "white", linewidths=1.2,
                zorder=4 if best else 3,
            )  # fmt: skip
        if coloured:
            said = label({coloured: value}, [coloured], short_names([coloured]))
            handles.append(_both(axes, colour, marker, said))
    line, only = axes.plot([], [], color=TEXT, linewidth=1.1)[0], SERIES[0]
    explained = "filled: on the Pareto front; hollow: another is cheaper and no slower"
    if not coloured:
        handles.append(_both(axes, *only, explained))
    elif len(front) < len(rows):
        line.set_label(explained)
        handles.append(line)
    else:
        line.set_label("Pareto front")
        handles.append(line)
    return handles


def _both(axes: Axes, colour: str, marker: str, said: str) -> Both:
    """A filled and a hollow one, as they stand in the picture."""
    filled, hollow = (
        axes.scatter([], [], s=44, marker=marker, edgecolors=colour, facecolors=face, linewidths=1.2)
        for face in (colour, "white")
    )
    return Both((filled, hollow), said)


def _draw_labels(axes: Axes, rows: Sequence[PlanRow], keys: Sequence[str]) -> str:
    """Each label at the nearest place where it covers nothing; the front first. Returns who has none."""
    names = short_names(keys)
    wanted = rows if len(rows) <= MOST_LABELS else [row for row in rows if row.pareto]
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # the layout, which places are measured in
    figure.set_layout_engine("none")
    _unit, per_day = _time_unit(rows)
    spots = [tuple(axes.transData.transform((_days(row) * per_day, _usd(row)))) for row in rows]
    where = dict(zip(map(id, rows), spots, strict=True))
    front = sorted(where[id(row)] for row in rows if row.pareto)
    points_to_px = figure.dpi / 72
    marks = [_around(x, y, 5.0 * points_to_px) for x, y in spots]
    marks += [_around(x, y, 1.0) for line in pairwise(front) for x, y in _along(*line, 6.0 * points_to_px)]
    labels: list[Box] = []
    left_out, marked = 0, len({row.bill for row in rows}) > 1
    for row in sorted(wanted, key=lambda row: not row.pareto):
        text = axes.annotate(
            _said(row, keys, names, marked),
            (_days(row) * per_day, _usd(row)),
            (0, 0),
            textcoords="offset points",
            fontsize=8.5,
            fontweight="bold" if row.pareto else "normal",
            color=TEXT if row.pareto else "#555555",
            ha="center",
            va="center",
        )
        if not _place(text, where[id(row)], marks, labels, axes, points_to_px):
            text.remove()
            left_out += 1
    note = "only the Pareto front is labelled" if len(wanted) < len(rows) else ""
    if left_out:
        note += (", " if note else "") + f"{plural(left_out, 'label')} left out for lack of room"
    axes.set_title(note, loc="right", fontsize=8.5, color=FAINT)
    return note


def _said(row: PlanRow, keys: Sequence[str], names: dict[str, str], marked: bool) -> str:
    """What a point is, and where others are paid otherwise how: a machine of one's own is no rented one."""
    return ", ".join(filter(None, (label(row.overrides, keys, names), row.bill if marked else "")))


def _place(
    text: Annotation,
    spot: tuple[float, float],
    marks: list[Box],
    labels: list[Box],
    axes: Axes,
    points_to_px: float,
) -> bool:
    """Move a label to the first free place around its point, and take that."""
    extent, inside = text.get_window_extent(), axes.get_window_extent()
    half_width_pt, half_height_pt = (side / points_to_px / 2 + 1.0 for side in (extent.width, extent.height))
    for distance_pt in DISTANCES_PT:
        for angle in map(math.radians, ANGLES_DEG):
            # The nearest side of the label, not its centre, is so far away.
            x_pt = math.cos(angle) * (distance_pt + half_width_pt)
            y_pt = math.sin(angle) * (distance_pt + half_height_pt)
            x, y = spot[0] + x_pt * points_to_px, spot[1] + y_pt * points_to_px
            half_width, half_height = half_width_pt * points_to_px, half_height_pt * points_to_px
            box = (x - half_width, y - half_height, x + half_width, y + half_height)
            if box[0] < inside.x0 or box[1] < inside.y0 or box[2] > inside.x1 or box[3] > inside.y1:
                continue
            leader: list[Box] = []
            if distance_pt >= LEADER_FROM_PT:
                nearest = (min(max(spot[0], box[0]), box[2]), min(max(spot[1], box[1]), box[3]))
                leader = [_around(x, y, 1.0) for x, y in _along(nearest, spot, 3.0 * points_to_px)]
            covered = any(_overlap(box, other) for other in [*marks, *labels])
            if covered or any(_overlap(part, other) for part in leader for other in labels):
                continue
            text.set_position((x_pt, y_pt))
            labels.append(box)
            marks += leader
            if leader:
                _draw_leader(axes, text, nearest, spot, points_to_px)
            return True
    return False


def _draw_leader(
    axes: Axes, text: Annotation, nearest: tuple[float, float], spot: tuple[float, float], points_to_px: float
) -> None:
    """A thin line from the nearest end of a label to its point."""
    start = ((nearest[0] - spot[0]) / points_to_px, (nearest[1] - spot[1]) / points_to_px)
    line = {"arrowstyle": "-", "color": FAINT, "linewidth": 0.7, "shrinkA": 0.0, "shrinkB": 4.5}
    axes.annotate("", text.xy, start, textcoords="offset points", arrowprops=line, zorder=2)


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _around(x: float, y: float, radius: float) -> Box:
    return (x - radius, y - radius, x + radius, y + radius)


def _along(
    start: tuple[float, float], end: tuple[float, float], every_px: float
) -> list[tuple[float, float]]:
    """Points on a line, close enough that no label fits between two."""
    count = max(1, round(math.dist(start, end) / every_px))
    return [
        (start[0] + (end[0] - start[0]) * k / count, start[1] + (end[1] - start[1]) * k / count)
        for k in range(count)
    ]


def _time_unit(rows: Sequence[PlanRow]) -> tuple[str, float]:
    """Days, or hours where all runs are short."""
    return ("hours", 24.0) if max(map(_days, rows)) < 2 else ("days", 1.0)


def _days(row: PlanRow) -> float:
    assert row.days is not None
    return row.days


def _usd(row: PlanRow) -> float:
    assert row.cost_usd is not None
    return row.cost_usd


def _natural(name: str) -> tuple[float, str]:
    return (float(name) if is_number(name) else 0.0, name)
