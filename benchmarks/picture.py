"""docs/images/launch.svg: one bar per launcher, cut into what the time went to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.phases import Launch, typical
from benchmarks.report import REPORT

PICTURE = REPORT.parent / "images" / "launch.svg"
# Tones that stand out on white as on black; grey text for the same reason.
GROUPS = {
    "the launcher, until the ranks start": (("tool", "attach", "place", "spawn", "start"), "#4c8dd6"),
    "imports in the ranks": (("import",), "#e0823d"),
    "CUDA, process group, collective": (("CUDA context", "process group", "first collective"), "#9a7fd1"),
    "deepspeed.initialize": (("initialize",), "#c9a227"),
    "first step": (("first step",), "#3fa66b"),
}
TEXT = "#808890"


def grouped(launch: Launch) -> dict[str, float]:
    """Seconds by group of phases."""
    return {
        name: sum(launch.phases.get(phase, 0.0) for phase in phases)
        for name, (phases, _colour) in GROUPS.items()
    }


def draw(launches: Mapping[str, Sequence[Launch]], path: Path = PICTURE) -> bool:
    """Draw the typical launch of each; returns whether matplotlib (the extra `bench`) was there to do it."""
    try:
        import matplotlib
    except ImportError:
        print("no picture: matplotlib is missing (pip install 'orchestrator[bench]')")
        return False
    from matplotlib.figure import Figure

    shown = {name: typical(of_one) for name, of_one in launches.items()}
    style = {"svg.fonttype": "none", "svg.hashsalt": "launch", "font.family": "sans-serif", "font.size": 11}
    style |= {"text.color": TEXT, "xtick.color": TEXT, "ytick.color": TEXT, "axes.labelcolor": TEXT}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(8.4, 0.52 * len(shown) + 1.3), layout="constrained")
        axes = figure.add_subplot()
        left = [0.0] * len(shown)
        for name, (_phases, colour) in GROUPS.items():
            seconds = [grouped(launch)[name] for launch in shown.values()]
            if max(seconds) >= 0.005:
                axes.barh(list(shown), seconds, left=left, color=colour, label=name, height=0.62)
            left = [before + more for before, more in zip(left, seconds, strict=True)]
        for row, end_s in enumerate(left):
            axes.annotate(f"{end_s:.1f} s", (end_s, row), (6, 0), textcoords="offset points", va="center")
        axes.invert_yaxis()
        axes.set_xlim(0, max(left) * 1.1)
        axes.set_xlabel("seconds from the command to the first step done")
        axes.tick_params(left=False)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        axes.spines["bottom"].set_color(TEXT)
        figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=10)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, transparent=True, metadata={"Date": None})
    # Its own choice of fonts would be this machine's.
    path.write_text(path.read_text().replace("DejaVu Sans", "Helvetica"))
    return True
