"""One process that tells MLflow of many runs: python -m benchmarks.many_journals [--runs N ...] [--seconds S]

Runs that are nothing but their journals, a step a second each, written by this process as their drivers
would; MLflow is a SQLite file. Said is what the process that follows them takes: memory of its own, processor
time while they go on, and how long after the last run's end MLflow has all of it. The result replaces this
benchmark's section of docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.figures import table
from benchmarks.ground import wait_for
from benchmarks.report import conditions, write_section
from orchestrator.events import RunEnded, Status
from orchestrator.ledger.journal import Journal
from orchestrator.ledger.mlflow.shared_messages import Follow
from orchestrator.ledger.mlflow.shared_process import SharedSink, place_of
from tests.support.sink_harness import new_run_dir, story, track

# Importing MLflow, and making its database, on a machine that is busy.
BEGIN_S, FINISH_S = 120.0, 600.0


@dataclass(frozen=True)
class Followed:
    """What the process took for so many runs."""

    runs: int
    own_mb: float
    cores: float
    late_s: float
    behind_s: float

    def row(self) -> list[str]:
        each = self.own_mb / self.runs
        figures = (f"{self.own_mb:.0f}", f"{each:.1f}", f"{self.cores:.2f}")
        return [str(self.runs), *figures, f"{self.behind_s:.0f}", f"{self.late_s:.0f}"]


HEAD = ("runs", "MB of its own", "a run", "cores", "behind by, s", "all written after, s")


class Driver:
    """Of one run all that MLflow is told by."""

    def __init__(self, folder: Path, number: int, uri: str) -> None:
        self.run_dir = new_run_dir(folder / str(number))
        track(self.run_dir, uri, flush_s=2.0, run_name=f"run-{number}")
        self.journal = Journal(self.run_dir / "journal.jsonl")
        self._story = [event for _, event in story(10_000)]
        self._place = place_of(folder / "fleet", uri, "", os.environ)
        self.sink: SharedSink | None = None

    def begin(self) -> None:
        self.journal.append_many(self._story[:4])
        self.sink = SharedSink(self._place, Follow(str(self.run_dir), FINISH_S, 0), print)

    def step(self, number: int) -> None:
        self.journal.append(self._story[4 + number])

    def end(self) -> None:
        self.journal.append(RunEnded(Status.FINISHED, "all steps done"))
        self.journal.close()

    def written_seq(self) -> int:
        path = self.run_dir / "mlflow_sink.json"
        return int(json.loads(path.read_text())["written_seq"]) if path.exists() else -1

    def is_told(self) -> bool:
        return self.sink is not None and self.sink.poll() is not None


def followed(runs: int, seconds: float) -> Followed:
    """Let them go on for so long, each a step a second, and end together."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        uri = f"sqlite:///{folder}/mlflow.db"
        drivers = [Driver(Path(folder), number, uri) for number in range(runs)]
        drivers[0].begin()  # so that one makes the database
        wait_for(lambda: drivers[0].written_seq() >= 0, "MLflow's first run", BEGIN_S)
        for driver in drivers[1:]:
            driver.begin()
        wait_for(lambda: all(driver.written_seq() >= 0 for driver in drivers), "MLflow's runs", FINISH_S)
        assert drivers[0].sink is not None
        sink = psutil.Process(drivers[0].sink.pid)
        began_s, began = time.monotonic(), sink.cpu_times()
        steps = 0
        while (now_s := time.monotonic() - began_s) < seconds:
            for driver in drivers:
                driver.step(steps)
            steps += 1
            time.sleep(max(0.0, steps - now_s))
        behind_s = max(4 + steps - 1 - driver.written_seq() for driver in drivers)
        ended, own_mb = sink.cpu_times(), sink.memory_full_info().uss / 1e6
        cores = (ended.user + ended.system - began.user - began.system) / (time.monotonic() - began_s)
        end_s = time.monotonic()
        for driver in drivers:
            driver.end()
        wait_for(lambda: all(driver.is_told() for driver in drivers), "the end of all runs", FINISH_S)
        late_s = time.monotonic() - end_s
        codes = {driver.sink.poll() for driver in drivers if driver.sink is not None}
        sink.terminate()
        if codes != {0}:
            raise RuntimeError(f"the runs' sinks ended with {codes}")
        return Followed(runs, own_mb, cores, late_s, float(behind_s))


def report(seen: Sequence[Followed], seconds: float, command: str, load: float) -> str:
    """The section."""
    each = ""
    if len(seen) > 1:
        more = (seen[-1].own_mb - seen[0].own_mb) / (seen[-1].runs - seen[0].runs)
        each = f" Each further run: {more:.1f} MB."
    lines = [
        "## One process that tells MLflow of many runs",
        "",
        f"Journals that get a step a second each for {seconds:.0f} s, after which all end together; MLflow is"
        " a SQLite file. *Behind* is the age of the oldest step that MLflow lacks just before that, *all"
        f" written* when the last run is whole in it, files uploaded.{each} What calls to MLflow take of the"
        " processor is bounded by half a core: with more runs each is written less often.",
        "",
        *table(HEAD, [one.row() for one in seen]),
    ]
    return "\n".join([*lines, "", *conditions(command, load)])


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, nargs="+", default=[1, 100])
    parser.add_argument("--seconds", type=float, default=60.0)
    options = parser.parse_args()
    load = os.getloadavg()[0]
    seen = [followed(runs, options.seconds) for runs in sorted(options.runs)]
    command = f"python -m benchmarks.many_journals {' '.join(sys.argv[1:])}".strip()
    text = report(seen, options.seconds, command, load)
    print(text)
    write_section("many_journals", text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
