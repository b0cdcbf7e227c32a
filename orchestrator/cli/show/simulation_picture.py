"""How simulated policies went, as a PNG: GPUs in use, GPUs waited for, and dollars of delay, over time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from orchestrator.cli.show.sweep_picture import FAINT, SERIES, TEXT
from orchestrator.fleet.simulate import Run
from orchestrator.fleet.trace import Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DAY_S, _HOUR_S = 86400.0, 3600.0
_POINTS = 400  # a line has no more: of what happens between two of them the mean is drawn
_OURS = "ours"  # drawn last and thicker


def draw(runs: Mapping[str, Run], path: Path) -> None:
    """Raises :class:`OSError` where the file cannot be written."""
    import matplotlib
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {"font.size": 10, "axes.edgecolor": FAINT, "text.parse_math": False}
    style |= {"text.color": TEXT, "axes.labelcolor": TEXT, "xtick.color": TEXT, "ytick.color": TEXT}
    ends_s = max(float(run.ended_at.max()) for run in runs.values())
    unit_s, unit = (_DAY_S, "days") if ends_s > 3 * _DAY_S else (_HOUR_S, "hours")
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(9.0, 7.6), dpi=150, layout="constrained")
        in_use, waiting, delay = figure.subplots(3, 1, sharex=True)
        for place, (name, run) in enumerate(sorted(runs.items(), key=lambda item: item[0] == _OURS)):
            line = {"color": SERIES[place % len(SERIES)][0], "linewidth": 1.2, "label": name}
            if name == _OURS:
                line |= {"color": TEXT, "linewidth": 2.2}
            elif place >= len(SERIES):
                line["linestyle"] = "--"
            at = np.array([moment.at for moment in run.moments])
            _steps(in_use, at, [moment.gpus_in_use for moment in run.moments], ends_s, unit_s, line)
            _steps(waiting, at, [moment.gpus_waited_for for moment in run.moments], ends_s, unit_s, line)
            times, usd = _delay(run, ends_s)
            delay.plot(times / unit_s, usd, **line)
        gpus = next(iter(runs.values())).gpus
        in_use.axhline(gpus, color=FAINT, linewidth=0.8)
        in_use.set_ylabel(f"GPUs in use, of {gpus:,}")
        waiting.set_ylabel("GPUs waited for")
        delay.set_ylabel("delay so far, USD")
        delay.set_xlabel(f"time, {unit}")
        for axes in (in_use, waiting, delay):
            axes.set_ylim(bottom=0)
            axes.set_xlim(0, ends_s / unit_s)
            axes.yaxis.set_major_formatter("{x:,.0f}")
            axes.grid(color="#E8EAED", linewidth=0.8)
            axes.set_axisbelow(True)
            for side in ("top", "right"):
                axes.spines[side].set_visible(False)
        handles, labels = in_use.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=len(labels), frameon=False)
        figure.savefig(path)


def _steps(
    axes: Axes, at: Floats, values: list[int], ends_s: float, unit_s: float, line: dict[str, Any]
) -> None:
    """The mean of each stretch of time, so that ten thousand events are a line and not a block of ink."""
    edges = np.linspace(0.0, ends_s, _POINTS + 1)
    times = np.concatenate([[0.0], at])
    area = np.concatenate([[0.0], np.cumsum(np.concatenate([[0.0], values[:-1]]) * np.diff(times))])
    axes.plot(edges[1:] / unit_s, np.diff(np.interp(edges, times, area)) / np.diff(edges), **line)


def _delay(run: Run, ends_s: float) -> tuple[Floats, Floats]:
    """Dollars of the time that jobs have waited until then, each as if it had waited evenly."""
    times = np.linspace(0.0, ends_s, _POINTS + 1)
    submit_s, jct_s = run.arrivals.submit_s, run.ended_at - run.arrivals.submit_s
    usd = np.maximum(jct_s - run.ran_s, 0.0) / _HOUR_S * run.arrivals.usd_per_hour
    found = [
        float((usd * np.clip((at - submit_s) / np.maximum(jct_s, 1e-9), 0.0, 1.0)).sum()) for at in times
    ]
    return times, np.array(found)
