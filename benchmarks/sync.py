"""What `sync` takes for a long run: python -m benchmarks.sync [--steps N ...]

A journal of steps and nothing else, into a new SQLite file, by the command itself. Wall and processor time,
the file's size, and the same for a million steps, where the two longest runs say how it goes on. Prints a
table.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.figures import table
from orchestrator.events import (
    AttemptStarted,
    Event,
    Record,
    ResourcesGranted,
    RunEnded,
    RunStarted,
    Status,
    StepDone,
)
from orchestrator.records import record_to_json

STEP_S = 0.5
MILLION = 1_000_000


@dataclass(frozen=True)
class Took:
    steps: int
    wall_s: float
    cpu_s: float
    database_bytes: int


def write_journal(path: Path, steps: int) -> None:
    """Without a sync for each step, which is what takes time in a real one."""
    begin: list[Event] = [
        RunStarted("long", "gpt", "lab", "H100", 4, 2.5, "GPU", steps, 1000, 1e9, 1e12),
        ResourcesGranted(["n0"], 4),
        AttemptStarted(1, "h", 29500, 4),
    ]
    with path.open("w") as file:

        def write(seq: int, elapsed_s: float, event: Event) -> None:
            file.write(record_to_json(Record(seq, elapsed_s, 1.7e9 + elapsed_s, event)) + "\n")

        for seq, event in enumerate(begin):
            write(seq, 0.0, event)
        for number in range(1, steps + 1):
            step = StepDone(
                1, number, STEP_S + number % 7 * 1e-3, 5.0 / number, 1e-3, 1.0 + number % 13 * 0.01
            )
            write(len(begin) + number - 1, number * STEP_S, step)
        write(len(begin) + steps, steps * STEP_S, RunEnded(Status.FINISHED, "all steps done"))


def sync(steps: int) -> Took:
    with tempfile.TemporaryDirectory(prefix="sync-") as name:
        folder = Path(name)
        run_dir = folder / "long"
        (run_dir / "logs").mkdir(parents=True)
        write_journal(run_dir / "journal.jsonl", steps)
        tracking = {"uri": f"sqlite:///{folder}/mlflow.db", "experiment": "bench", "run_name": "long"}
        (run_dir / "tracking.json").write_text(json.dumps(tracking))
        before, begin_s = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run([sys.executable, "-m", "orchestrator", "sync", str(run_dir)], check=True)
        wall_s, after = time.perf_counter() - begin_s, resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return Took(steps, wall_s, cpu_s, (folder / "mlflow.db").stat().st_size)


def for_a_million(shorter: Took, longer: Took) -> Took:
    """As if every further step took what those between the two took; the later ones take less."""
    share = (MILLION - longer.steps) / (longer.steps - shorter.steps)
    return Took(
        MILLION,
        longer.wall_s + share * (longer.wall_s - shorter.wall_s),
        longer.cpu_s + share * (longer.cpu_s - shorter.cpu_s),
        round(longer.database_bytes + share * (longer.database_bytes - shorter.database_bytes)),
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, nargs="+", default=[20_000, 100_000])
    args = parser.parse_args()
    took = [sync(steps) for steps in sorted(args.steps)]
    rows = [(f"{one.steps:,}", one) for one in took]
    if len(took) > 1 and took[-1].steps < MILLION:
        rows.append(("1,000,000 at most", for_a_million(*took[-2:])))
    cells = [
        [what, f"{one.wall_s:.1f}", f"{one.cpu_s:.1f}", f"{one.database_bytes / 1e6:.1f}"]
        for what, one in rows
    ]
    print("\n".join(table(["steps", "wall, s", "processor, s", "database, MB"], cells)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
