"""docs/images/planner_ranges.svg: how many runs of tables left out lie within ranges of each width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from benchmarks.planner_plot import COLOURS, OURS, STYLE, TEXT, frame

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "images" / "planner_ranges.svg"


def draw(
    shares: Sequence[float],
    by_table: Mapping[str, Sequence[float]],
    pooled: Sequence[float],
    path: Path = PICTURE,
) -> None:
    """`shares` are what ranges are made to hold, the others what they held."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 5.2), layout="constrained")
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=TEXT, linewidth=0.8)
        for place, (table, held) in enumerate(by_table.items()):
            axes.plot(shares, held, color=COLOURS[place % len(COLOURS)], alpha=0.6, linewidth=1, label=table)
        axes.plot(shares, pooled, color=OURS, linewidth=2.4, marker="o", label="all rows")
        axes.set(
            xlabel="share that the range is made to hold",
            ylabel="share of rows of tables left out within it",
            xlim=(0, 1),
            ylim=(0, 1),
            title="Ranges of the step time",
        )
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.legend(loc="upper left", frameon=False, fontsize=9)
        frame(axes)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(
            path, transparent=True, dpi=180, metadata={"Date": None} if path.suffix == ".svg" else None
        )
    if path.suffix == ".svg":  # its own choice of fonts would be this machine's
        path.write_text(path.read_text().replace("DejaVu Sans", "Helvetica"))
