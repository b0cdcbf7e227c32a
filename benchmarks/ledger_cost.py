"""What the ledger costs: an event, a step in MLflow, and a step of 100 ms with two ranks.

    python -m benchmarks.ledger_cost [--rounds N]

Journals of ten thousand to a million steps are folded as a driver folds them. Steps are told to MLflow by the
process that follows a journal, and by `mlflow.log_metric` and `mlflow.log_metrics` in a loop, into SQLite
files that were made before. All of it is processor time, since the machine is seldom alone; what MLflow's
import takes is measured apart and left out. The result replaces this benchmark's section of
docs/benchmarks.md.
"""

from __future__ import annotations

import itertools
import json
import os
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from unittest.mock import patch

from benchmarks.direct_cost import in_a_rank_s
from benchmarks.figures import table
from benchmarks.growth import events
from benchmarks.launch import arguments
from benchmarks.report import REPORT, conditions, write_section
from benchmarks.sync import write_journal
from orchestrator.events import Record
from orchestrator.ledger.journal import Journal
from orchestrator.ledger.ledger import Ledger
from orchestrator.text import plural

STEPS = (10_000, 100_000, 1_000_000)
AT_ONCE = 10_000
TOLD_STEPS, LOOP_STEPS, APPENDED_STEPS = 4_000, 100, 2_000
STEP_S, RANKS, GOAL = 0.1, 2, 0.005
SINK, ONE_BY_ONE, TOGETHER = (
    "this ledger's process",
    "`mlflow.log_metric`, each",
    "`mlflow.log_metrics`, a step",
)
LOOP = """
import sys, time, mlflow
uri, steps, together = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "together"
mlflow.set_tracking_uri(uri)
with mlflow.start_run(experiment_id="0"):
    begin = time.process_time()
    for step in range(steps):
        values = {name: step * 1e-3 for name in sys.argv[4:]}
        if together:
            mlflow.log_metrics(values, step=step)
        else:
            for name, value in values.items():
                mlflow.log_metric(name, value, step=step)
    print((time.process_time() - begin) / steps)
"""


def records(steps: int) -> Iterator[Record]:
    """Of a run of so many steps, a step a second."""
    yield from (
        Record(seq, float(seq), 1.7e9 + seq, event) for seq, event in enumerate(events(steps, ended=True))
    )


def folding_s(steps: int) -> tuple[float, int]:
    """Processor seconds of the folds alone, and how many records there were."""
    ledger, took, count, coming = Ledger(), 0.0, 0, records(steps)
    while batch := list(itertools.islice(coming, AT_ONCE)):
        begin = time.process_time()
        ledger.fold_all(batch)
        ledger.bill()
        took += time.process_time() - begin
        count += len(batch)
    return took, count


def observing_s(folder: Path) -> float:
    """Processor seconds of a step in the driver: on the disk, folded, and the bill of that moment made."""
    ledger, told = Ledger(), list(events(APPENDED_STEPS))
    with Journal(folder / "journal.jsonl") as journal:
        begin = time.process_time()
        for event in told:
            ledger.fold(journal.append(event))
            ledger.bill()
        return (time.process_time() - begin) / len(told)


@dataclass(frozen=True)
class Told:
    """Processor seconds of a process and its children, and how many values MLflow has afterwards."""

    cpu_s: float
    values: int


def told(uri_path: Path, command: list[str]) -> Told:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    with closing(sqlite3.connect(uri_path)) as database:
        (values,) = database.execute("SELECT count(*) FROM metrics").fetchone()
    return Told(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, values)


def new_database(path: Path) -> str:
    from orchestrator.ledger.mlflow.database import make_ready

    make_ready(f"sqlite:///{path}")
    return f"sqlite:///{path}"


def by_the_sink(folder: Path, steps: int) -> Told:
    run_dir = folder / f"run-{steps}"
    (run_dir / "logs").mkdir(parents=True)
    path = folder / f"sink-{steps}.db"
    write_journal(run_dir / "journal.jsonl", steps)
    tracking = {"uri": new_database(path), "experiment": "bench", "run_name": "long"}
    (run_dir / "tracking.json").write_text(json.dumps(tracking))
    command = [sys.executable, "-m", "orchestrator.ledger.mlflow.sink", str(run_dir), "--parent-pid", "0"]
    return told(path, command)


def by_a_loop_s(folder: Path, how: str, names: list[str]) -> float:
    """Processor seconds of a step, by the loop's own clock."""
    uri = new_database(folder / f"{how}.db")
    command = [sys.executable, "-c", LOOP, uri, str(LOOP_STEPS), how, *names]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


@dataclass(frozen=True)
class Round:
    """Processor seconds: of an event by the length of its run, of a step by who told MLflow, and of a step by
    who took them."""

    folds: dict[int, float]
    steps: dict[str, float]
    of_a_step: dict[str, float]


def measure(folder: Path) -> Round:
    folds = {}
    for steps in STEPS:
        took, count = folding_s(steps)
        folds[steps] = took / count
    few, many = by_the_sink(folder, 10), by_the_sink(folder, TOLD_STEPS)
    added = TOLD_STEPS - 10
    # As many values a step as the sink wrote, so that the same is asked of all.
    names = [f"value_{number}" for number in range(max(1, round((many.values - few.values) / added)))]
    steps_s = {SINK: (many.cpu_s - few.cpu_s) / added}
    for name, how in ((ONE_BY_ONE, "each"), (TOGETHER, "together")):
        steps_s[name] = by_a_loop_s(folder, how, names)
    (folder / "rank").mkdir()
    rank = in_a_rank_s(folder / "rank")
    of_a_step = {
        "a rank's training thread, which the step waits for": rank["thread_s"],
        "a rank's other threads": rank["process_s"] - rank["thread_s"],
        "the driver: journal, ledger and bill": observing_s(folder),
        "MLflow's process": steps_s[SINK],
    }
    return Round(folds, steps_s, of_a_step)


def section(rounds: list[Round], load: float) -> str:
    def typical(pick: str, name: object) -> float:
        return median(getattr(one, pick)[name] for one in rounds)

    folds = {steps: typical("folds", steps) for steps in STEPS}
    steps_s = {name: typical("steps", name) for name in rounds[0].steps}
    parts = {name: typical("of_a_step", name) for name in rounds[0].of_a_step}
    thread, others, *once = parts.values()
    whole = RANKS * (thread + others) + sum(once)
    waited, shared = thread / STEP_S, whole / (RANKS * STEP_S)
    verdict = "met" if max(waited, shared) < GOAL else "missed"
    lines = [
        "## What the ledger costs",
        "",
        f"- an event of a run of {STEPS[-1]:,} steps: **{folds[STEPS[-1]] * 1e6:.1f} µs**",
        f"- a step in MLflow: **{steps_s[SINK] / steps_s[ONE_BY_ONE]:.3f}** of what `mlflow.log_metric`"
        " takes",
        f"- of a step of {STEP_S * 1e3:.0f} ms with {RANKS} ranks: **{shared:.3%}** of their cores' time,"
        f" and the step waits for {waited:.3%} (goal: under {GOAL:.1%}; {verdict})",
        "",
        f"Processor time throughout; medians of {plural(len(rounds), 'round')}. A run has a step a second, a"
        " checkpoint every hundred steps, a lost rank every hundred thousand; to read a journal comes on top"
        " of its fold, see A long run.",
        "",
        *table(
            ["steps of the run", "fold, µs an event"],
            [[f"{steps:,}", f"{seconds * 1e6:.1f}"] for steps, seconds in folds.items()],
        ),
        "",
        f"The same number of values a step, into a SQLite file each; {TOLD_STEPS:,} steps for this ledger's"
        f" process and {LOOP_STEPS:,} in a loop, without MLflow's import and the start of the run:",
        "",
        *table(
            ["told to MLflow by", "ms a step", "steps a second of one core"],
            [[name, f"{s * 1e3:.3f}", f"{1 / s:,.0f}"] for name, s in steps_s.items()],
        ),
        "",
        "The loop holds up the training for as long as it takes, the ledger's process does not: nobody waits"
        f" for it. What a step of {STEP_S * 1e3:.0f} ms takes besides its own work:",
        "",
        *table(
            ["of whom", "µs a step"],
            [[name, f"{seconds * 1e6:.0f}"] for name, seconds in parts.items()],
        ),
        "",
        f"Together, with {RANKS} ranks, {whole * 1e6:.0f} µs of the {RANKS * STEP_S * 1e6:,.0f} that"
        f" {RANKS} cores have in a step. Not in it: the driver's looks at the agents, ten a second whatever a"
        " step takes (see A tick of the supervise loop), and a GPU.",
        "",
        *conditions(f"python -m benchmarks.ledger_cost --rounds {len(rounds)}", load),
    ]
    return "\n".join(lines)


def main() -> int:
    args = arguments(3, __doc__).parse_args()
    load, rounds = os.getloadavg()[0], []
    with patch.dict(os.environ, {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}):
        for number in range(args.rounds):
            with tempfile.TemporaryDirectory(prefix="ledger-cost-") as folder:
                rounds.append(measure(Path(folder)))
            print(f"round {number + 1} of {args.rounds}: {rounds[-1]}", flush=True)
    text = section(rounds, load)
    write_section("ledger_cost", text)
    print(f"\n{text}\n\nwritten to {REPORT.relative_to(REPORT.parents[1])}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
