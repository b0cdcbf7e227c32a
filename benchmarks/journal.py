"""What it takes to put an event on record: python -m benchmarks.journal [--rounds N] [--folder DIR]

Each event is on the disk before anything follows from it, so this is what stands between a step done and the
next look at the ranks. The result replaces this benchmark's section of docs/benchmarks.md.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from benchmarks.figures import percentile, table
from benchmarks.launch import arguments
from benchmarks.report import REPORT, conditions, write_section
from orchestrator.events import StepDone
from orchestrator.ledger.journal import Journal

EVENTS, TOGETHER = 1000, 100


def appends_s(path: Path) -> list[float]:
    """Seconds of each append of one event."""
    seconds = []
    with Journal(path) as journal:
        for step in range(EVENTS):
            event = StepDone(1, step, 0.1, 2.0, 1e-3, 1.0)
            begin = time.perf_counter()
            journal.append(event)
            seconds.append(time.perf_counter() - begin)
    return seconds


def together_s(path: Path) -> list[float]:
    """Seconds of each append of many events at once, by event."""
    seconds = []
    with Journal(path) as journal:
        for _ in range(EVENTS // TOGETHER):
            events = [StepDone(1, step, 0.1, 2.0, 1e-3, 1.0) for step in range(TOGETHER)]
            begin = time.perf_counter()
            journal.append_many(events)
            seconds.append((time.perf_counter() - begin) / TOGETHER)
    return seconds


def file_system(folder: Path) -> str:
    """The type of the file system that `folder` is on."""
    mounts = {part.mountpoint: part.fstype for part in psutil.disk_partitions(all=True)}
    place = folder.resolve()
    return next(mounts[str(above)] for above in (place, *place.parents) if str(above) in mounts)


def section(one: Sequence[float], many: Sequence[float], folder: Path, rounds: int, load: float) -> str:
    def row(name: str, seconds: Sequence[float]) -> list[str]:
        shares = (0.5, 0.99, 1.0)
        return [name, f"{len(seconds)}", *(f"{percentile(seconds, share) * 1e3:.3f}" for share in shares)]

    rows = [row("one event", one), row(f"one of {TOGETHER} events observed together", many)]
    lines = [
        "## The journal",
        "",
        f"{rounds} × {EVENTS} events, `fsync` included, on {file_system(folder)}.",
        "",
        *table(["append of", "appends", "p50, ms", "p99, ms", "most, ms"], rows),
        "",
        (
            "A run that takes several steps a second spends a few thousandths of a second of the driver on"
            " it, and nothing of the ranks: they do not wait for the journal. On a network file system it is"
            " slower; measure yours with `--folder`."
        ),
        "",
        *conditions(f"python -m benchmarks.journal --rounds {rounds}", load),
    ]
    return "\n".join(lines)


def main() -> int:
    parser = arguments(5, __doc__)
    parser.add_argument("--folder", type=Path, default=Path.cwd(), help="on the disk that is to be measured")
    args = parser.parse_args()
    load = os.getloadavg()[0]
    one: list[float] = []
    many: list[float] = []
    for _ in range(args.rounds):
        with tempfile.TemporaryDirectory(prefix=".journal-", dir=args.folder) as folder:
            one += appends_s(Path(folder, "one.jsonl"))
            many += together_s(Path(folder, "many.jsonl"))
    text = section(one, many, args.folder, args.rounds, load)
    write_section("journal", text)
    print(f"\n{text}\n\nwritten to {REPORT.relative_to(REPORT.parents[1])}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
