"""How long `compare` takes over a thousand and over ten thousand runs of an MLflow database, and its page.

    python -m benchmarks.compare_runs

The database is SQLite, written by benchmarks/generated_runs.py: of each run a hundred losses and thirty
bills. What is imported is imported before; each figure is the median of the rounds.
"""

from __future__ import annotations

import io
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.figures import table
from benchmarks.generated_runs import BILL_POINTS, EXPERIMENT, LOSS_POINTS, write_database
from benchmarks.launch import arguments
from benchmarks.report import REPORT, conditions, write_section
from orchestrator.cli.compare import compare
from orchestrator.cli.show.screen import Screen
from orchestrator.text import plural

RUNS = (1_000, 10_000)
GOALS_S = {1_000: 1.0, 10_000: 5.0}
PAGE_RUNS, PAGE_GOAL_S, PAGE_GOAL_BYTES = 1_000, 5.0, 2_000_000


def took_s(work: Callable[[], Any], rounds: int) -> tuple[float, float]:
    """Wall and processor seconds, medians."""
    walls, processors = [], []
    for _ in range(rounds):
        wall, processor = time.perf_counter(), time.process_time()
        work()
        walls.append(time.perf_counter() - wall)
        processors.append(time.process_time() - processor)
    return statistics.median(walls), statistics.median(processors)


def looked_at(uri: str, limit: int, **asked: Any) -> str:
    """What a person reads in a terminal of 120 columns."""
    screen = Screen(file=(file := io.StringIO()), width=120)
    compare(uri, EXPERIMENT, None, "table", limit, screen, **asked)
    return file.getvalue()


def measure(folder: Path, rounds: int) -> tuple[list[list[str]], dict[str, float]]:
    """The rows of the table, and the figures that have a goal."""
    rows, figures = [], {}
    looked_at(
        write_database(folder / "warm.db", 3), 3, html=str(folder / "warm.html"), png=str(folder / "w.png")
    )

    def add(what: str, uri: str, runs: int, **asked: Any) -> float:
        wall, processor = took_s(lambda: looked_at(uri, runs, **asked), rounds)
        rows.append([what, f"{runs:,}", f"{wall:.2f}", f"{processor:.2f}"])
        return processor

    for runs in RUNS:
        uri, page = write_database(folder / f"{runs}.db", runs), folder / f"{runs}.html"
        figures[f"processor_{runs}"] = add("`compare`", uri, runs)
        wanted = "tags.cluster = 'aws_p5' and metrics.cost_usd > 1000"
        add("`--filter`, a fifth of them", uri, runs, filter_string=wanted)
        add("`--by cluster,job.args.lr`", uri, runs, by=("cluster", "job.args.lr"))
        add("`--to-loss 2.0`", uri, runs, to_loss=2.0)
        figures[f"page_processor_{runs}"] = add("`--html`", uri, runs, html=str(page))
        figures[f"page_bytes_{runs}"] = page.stat().st_size
        add("`--png`", uri, runs, png=str(folder / f"{runs}.png"))
    return rows, figures


def section(rows: Sequence[Sequence[str]], figures: dict[str, float], rounds: int) -> str:
    def met(value: float, goal: float) -> str:
        return "met" if value <= goal else "missed"

    goals = [
        f"- {runs:,} runs: **{figures[f'processor_{runs}']:.2f} s**"
        f" (goal: {goal:g} s at most; {met(figures[f'processor_{runs}'], goal)})"
        for runs, goal in GOALS_S.items()
    ]
    took, size = figures[f"page_processor_{PAGE_RUNS}"], figures[f"page_bytes_{PAGE_RUNS}"]
    kept = met(max(took / PAGE_GOAL_S, size / PAGE_GOAL_BYTES), 1.0)
    goals.append(
        f"- the page of {PAGE_RUNS:,} runs: {took:.2f} s and {size / 1e6:.2f} MB"
        f" (goal: {PAGE_GOAL_S:g} s and {PAGE_GOAL_BYTES / 1e6:g} MB at most; {kept})"
    )
    hardware, *others = conditions(f"python -m benchmarks.compare_runs --rounds {rounds}", 0.0)
    lines = [
        "## Many runs compared",
        "",
        *goals,
        "",
        f"After imports, over a SQLite database with {LOSS_POINTS} losses and {BILL_POINTS + 1} bills a run."
        " Goals are held against processor time, which is the wall of one thread on a machine that does"
        f" nothing else; this one did. {plural(rounds, 'round')}. MLflow's own search, which makes an object"
        " of every tag, parameter and metric, took 20 s of wall for such 10,000 runs.",
        "",
        *table(["what is asked", "runs", "wall, s", "processor, s"], rows),
        "",
        hardware.partition("; load average")[0],
        *others,
    ]
    return "\n".join(lines)


def main() -> int:
    args = arguments(3, __doc__).parse_args()
    with tempfile.TemporaryDirectory(prefix="compare-") as folder:
        rows, figures = measure(Path(folder), args.rounds)
    text = section(rows, figures, args.rounds)
    write_section("compare_runs", text)
    print(f"\n{text}\n\nwritten to {REPORT.relative_to(REPORT.parents[1])}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
