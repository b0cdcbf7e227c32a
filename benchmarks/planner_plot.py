"""docs/images/planner.svg: predicted against measured step times, and errors by table beside the
baselines'."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter

from benchmarks.planner_accuracy import Answer, by_table, timed
from benchmarks.planner_baselines import CONSTANT

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "images" / "planner.svg"
# Tones that stand out on white as on black; grey text for the same reason.
COLOURS = (
    "#4c8dd6",
    "#98a0a9",
    "#e0823d",
    "#3fa66b",
    "#d6524c",
    "#9a7fd1",
    "#c9a227",
    "#2fb5c4",
    "#d66fb1",
    "#7d8f3a",
)
TEXT, OURS, OTHERS = "#808890", "#3fa66b", ("#4c8dd6", "#e0823d", "#9a7fd1")
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "planner",
    "font.family": "sans-serif",
    "font.size": 10.5,
    **dict.fromkeys(("text.color", "xtick.color", "ytick.color", "axes.labelcolor"), TEXT),
    **dict.fromkeys(("axes.edgecolor", "axes.titlecolor"), TEXT),
}
BANDS = {0.25: 0.13, 0.10: 0.25}  # and how strongly they are shaded
FAMILIES = (CONSTANT, "llm-analysis")


def draw(
    answers: Sequence[Answer], errors: Mapping[str, Mapping[str, float]], ours: str, path: Path = PICTURE
) -> None:
    """`answers` with stored constants; `errors` by method and table, `ours` the method that is the
    planner's."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(12.4, 7.6), layout="constrained")
        panels = figure.subplot_mosaic([["step", "bars"], ["ratio", "bars"]], height_ratios=(1.7, 1))
        _step_times(panels["step"], timed(answers))
        _ratios(panels["ratio"], timed(answers))
        _bars(panels["bars"], _shown(errors, ours), ours)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(
            path, transparent=True, dpi=180, metadata={"Date": None} if path.suffix == ".svg" else None
        )
    if path.suffix == ".svg":  # its own choice of fonts would be this machine's
        path.write_text(path.read_text().replace("DejaVu Sans", "Helvetica"))


def _step_times(axes: Any, answers: Sequence[Answer]) -> None:
    low, high = _range(answers)
    for band, alpha in BANDS.items():
        below, above = [low * (1 - band), high * (1 - band)], [low * (1 + band), high * (1 + band)]
        axes.fill_between(
            [low, high], below, above, color=TEXT, alpha=alpha, linewidth=0, label=f"±{band:.0%}"
        )
    axes.plot([low, high], [low, high], color=TEXT, linewidth=0.8)
    _points(axes, answers, lambda one: one.predicted_s)
    axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high), ylabel="predicted step, s")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set(title="Step time of published training runs")
    axes.tick_params(labelbottom=False)
    axes.legend(loc="upper left", frameon=False, fontsize=9, markerscale=1.4)
    frame(axes)


def _ratios(axes: Any, answers: Sequence[Answer]) -> None:
    low, high = _range(answers)
    for band, alpha in BANDS.items():
        axes.axhspan(-band, band, color=TEXT, alpha=alpha, linewidth=0)
    axes.axhline(0, color=TEXT, linewidth=0.8)
    _points(axes, answers, lambda one: one.error)
    most = max(abs(one.error) for one in answers) * 1.05
    axes.set(xscale="log", xlim=(low, high), ylim=(-most, most), xlabel="measured step, s", ylabel="error")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    frame(axes)


def _range(answers: Sequence[Answer]) -> tuple[float, float]:
    return min(one.case.step_s for one in answers) / 1.5, max(one.case.step_s for one in answers) * 1.5


def _points(axes: Any, answers: Sequence[Answer], value: Callable[[Answer], float]) -> None:
    """One colour for each table; the many first, so that they hide nobody."""
    tables = by_table(answers)
    for table in sorted(tables, key=lambda name: -len(tables[name])):
        here, many = tables[table], len(tables[table]) > 500
        axes.scatter(
            [one.case.step_s for one in here],
            [value(one) for one in here],
            s=5 if many else 18,
            alpha=0.6 if many else 0.85,
            color=COLOURS[list(tables).index(table) % len(COLOURS)],
            linewidth=0,
            label=f"{table} ({len(here)})",
            rasterized=True,
        )


def _shown(errors: Mapping[str, Mapping[str, float]], ours: str) -> dict[str, Mapping[str, float]]:
    """The planner and, of each family of baselines, the one with the least mean over the tables."""
    shown = {ours: errors[ours]}
    for family in FAMILIES:
        means = {name: statistics.fmean(errors[name].values()) for name in errors if name.startswith(family)}
        if means:
            best = min(means, key=means.__getitem__)
            shown[best] = errors[best]
    return shown


def _bars(axes: Any, errors: Mapping[str, Mapping[str, float]], ours: str) -> None:
    rows = [*errors[ours], "mean of tables"]
    height = 0.8 / len(errors)
    for place, (name, tables) in enumerate(errors.items()):
        values = [*(tables.get(table, 0.0) for table in rows[:-1]), statistics.fmean(tables.values())]
        positions = [row + (place - (len(errors) - 1) / 2) * height for row in range(len(rows))]
        colour = OURS if name == ours else OTHERS[(place - 1) % len(OTHERS)]
        label = f"{ours}, fitted to the other tables" if name == ours else name
        axes.barh(positions, values, height=height * 0.92, color=colour, label=label)
        for position, value in zip(positions, values, strict=True):
            place_text = {"xytext": (3, 0), "textcoords": "offset points", "va": "center", "fontsize": 8}
            axes.annotate(f"{value:.0%}", (value, position), **place_text)
    axes.axhline(len(rows) - 1.5, color=TEXT, linewidth=0.8)
    axes.set_yticks(range(len(rows)), rows)
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set(xlabel="mean absolute error of the step time", title="Tables that the constants have not seen")
    axes.tick_params(axis="y", left=False)
    axes.legend(loc="lower right", frameon=False, fontsize=9)
    frame(axes)


def frame(axes: Any) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
