"""What a long run costs to keep, to look at and to take up: python -m benchmarks.growth [--steps N ...]

A journal as a run of so many steps leaves it (a step a second, a checkpoint every hundred steps, a lost rank
every hundred thousand) is written by the journal's own code, without waiting for a disk. Then it is read as
the verbs read it, each in a process of its own: `resume` up to the moment before Ray starts, `incidents` and
`status` whole but for Ray. Once as the driver has left it, and once where the fold that lies beside the
journal is missing, as beside those of older versions. The result replaces this benchmark's section of
docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from benchmarks.figures import table
from benchmarks.launch import arguments
from benchmarks.report import REPORT, conditions, write_section
from orchestrator.agent.gather import shortened
from orchestrator.driver.journal_fold import NAME, JournalFold
from orchestrator.events import (
    AttemptEnded,
    AttemptStarted,
    CheckpointSaved,
    Decided,
    Event,
    Outcome,
    RankLost,
    ResourcesGranted,
    ResourcesReleased,
    RunEnded,
    RunStarted,
    SnapshotCommitted,
    Status,
    StepDone,
)
from orchestrator.ledger.journal import Journal

STEPS = (10_000, 100_000, 1_000_000)
RUNS, FINISHED_STEPS = (10, 100), (100, 10_000)
FAULT_EVERY, SAVE_EVERY = 100_000, 100
ADDRESS = "127.0.0.1:6379"


def events(steps: int, ended: bool = False) -> Iterator[Event]:
    """What a run of so many steps tells; the last attempt is under way unless it has ``ended``."""
    yield RunStarted(
        "long", "llama3_8b", "dgx_h100", "NVIDIA H100 80GB HBM3", 8, 2.5, steps=2 * steps,
        tokens_per_step=1 << 20, model_flops_per_token=4.8e10, peak_flops_per_gpu=9.89e14,
        ray_address=ADDRESS, predicted_step_time_s=1.0,
    )  # fmt: skip
    yield ResourcesGranted(["n0"], 8)
    attempt = 1
    yield AttemptStarted(attempt, "127.0.0.1", 29500, 8)
    for step in range(1, steps + 1):
        loss = 2.0 + 8.0 / math.sqrt(step) + 0.01 * math.sin(step)
        step_time_s, lr = 0.98765432101 + 1e-3 * math.sin(step), 3e-4 * math.cos(step / steps)
        figures = shortened(step_time_s, 5), shortened(loss, 7), shortened(lr, 5)  # as the driver does
        yield StepDone(attempt, step, *figures, shortened(0.5 + 0.4 * math.sin(step), 5))
        if step % SAVE_EVERY == 0:
            path = f"runs/long/checkpoints/step-{step}"
            yield CheckpointSaved(attempt, step, f"step-{step}", path, 0.05, staged=True)
            yield SnapshotCommitted(attempt, step, f"step-{step}", path, 16_060_000_000, 9.5)
        if step % FAULT_EVERY == 0 and step < steps:
            yield RankLost(attempt, 3, "n0", "GPU 3", -9, step, "killed by SIGKILL", log_tail=["a line"] * 20)
            yield AttemptEnded(attempt, Outcome.FAILED, step)
            yield Decided("restart", f"restart 1 of 3 from the checkpoint of step {step}")
            attempt += 1
            yield AttemptStarted(attempt, "127.0.0.1", 29500, 8, step, "memory")
    if ended:
        yield AttemptEnded(attempt, Outcome.FINISHED, steps)
        yield ResourcesReleased()
        yield RunEnded(Status.FINISHED, "the job ended by itself")


class _Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def write_journal(path: Path, steps: int, ended: bool = False) -> None:
    """As a driver writes it, its fold beside it; nothing is waited for."""
    clock, wall = _Clock(), _Clock()
    with patch("os.fsync", lambda _fd: None), Journal(path, clock, wall) as journal:
        fold = JournalFold(path.parent)
        for event in events(steps, ended):
            clock.now_s += 1.0001234 if isinstance(event, StepDone) else 0.01
            wall.now_s = 1.7e9 + clock.now_s
            fold.appended(journal.append(event))
        if ended:
            fold.finish()


RESUME = """
from orchestrator.ledger.journal import Journal
from orchestrator.driver.resume import unfinished
found = unfinished(folder / "long")
assert found is not None
past = found.past()
with Journal(folder / "long" / "journal.jsonl", after=found.fold.mark):
    assert past.past.history.highest_step
"""
INCIDENTS = """
from rich.console import Console
from orchestrator.cli.incidents import incidents
incidents("long", str(folder), False, Console(file=open(os.devnull, "w")))
"""
STATUS = f"""
from orchestrator.driver.cluster_status import other_runs
assert other_runs(folder, "{ADDRESS}", 0.0, set())
"""
AS_THE_VERB_DOES = (
    "import json, os, resource, sys, time; from pathlib import Path; folder = Path(sys.argv[1])\n"
)
TOLD = """
print(json.dumps([time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024]))
"""


@dataclass(frozen=True)
class Look:
    """What a process took, its imports included."""

    cpu_s: float
    peak_bytes: int


def look(code: str, folder: Path) -> Look:
    """Run what a verb does in a process of its own."""
    command = [sys.executable, "-c", AS_THE_VERB_DOES + code + TOLD, str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return Look(*json.loads(done.stdout))


@dataclass(frozen=True)
class Length:
    """A run of so many steps: bytes of journal a step, and each verb's look with the fold and without."""

    steps: int
    bytes_a_step: float
    fold_bytes: int
    looks: dict[str, Look]
    anew: dict[str, Look]


VERBS = {"resume": RESUME, "incidents": INCIDENTS, "status": STATUS}


def measured(steps: int, folder: Path) -> Length:
    """Write a journal of so many steps and look at it."""
    path = folder / "long" / "journal.jsonl"
    write_journal(path, steps)
    looks, anew = {}, {}
    for name, code in VERBS.items():
        looks[name] = look(code, folder)
        if name == "resume":
            fold_bytes = (path.parent / NAME).stat().st_size
    for name, code in VERBS.items():
        (path.parent / NAME).unlink(missing_ok=True)
        anew[name] = look(code, folder)
    return Length(steps, path.stat().st_size / steps, fold_bytes, looks, anew)


def finished_runs(runs: int, steps: int, folder: Path) -> Look:
    """`status` over so many finished runs: each with a fold of its own."""
    for number in range(runs):
        write_journal(folder / f"run-{number}" / "journal.jsonl", steps, ended=True)
    return look(STATUS, folder)


def section(lengths: list[Length], finished: list[tuple[int, int, Look]], command: str, load: float) -> str:
    """The section of docs/benchmarks.md."""
    rows = [
        [
            f"{each.steps:,}",
            f"{each.bytes_a_step:.2f}",
            *(f"{each.looks[name].cpu_s:.2f} / {each.anew[name].cpu_s:.1f}" for name in VERBS),
            f"{each.looks['resume'].peak_bytes / 1e6:.0f} / {each.anew['resume'].peak_bytes / 1e6:.0f}",
            f"{each.fold_bytes / 1e3:,.0f}",
        ]
        for each in lengths
    ]
    heads = [
        "steps",
        "journal, bytes a step",
        *(f"`{name}`, s" for name in VERBS),
        "`resume`, MB",
        "fold, kB",
    ]
    longest = lengths[-1]
    resume = longest.looks["resume"]
    others = max(longest.looks[name].cpu_s for name in ("incidents", "status"))
    lines = [
        "## A long run",
        "",
        (
            f"- A step takes **{longest.bytes_a_step:.2f} bytes** of journal (goal: under 120), its share of"
            " checkpoints and faults included"
        ),
        (
            f"- {longest.steps:,} steps: `resume` takes **{resume.cpu_s:.1f} s** and"
            f" {resume.peak_bytes / 1e6:.0f} MB before Ray starts (goal: under 5 s, 100 MB); `incidents` and"
            f" `status` take **{others:.2f} s** at most (goal: under 1 s)"
        ),
        "",
        (
            "Seconds of processor time of a whole process, Python's start and imports included: with the"
            " fold that the driver keeps beside the journal / without it, as beside an older journal. A step"
            f" a second, a checkpoint every {SAVE_EVERY} steps, a lost rank every {FAULT_EVERY:,}. `status`"
            " is all but its questions to Ray."
        ),
        "",
        *table(heads, rows),
        "",
        "`status` over finished runs of one cluster:",
        "",
        *table(
            ["runs", "steps of each", "s"],
            [[f"{runs:,}", f"{steps:,}", f"{one.cpu_s:.2f}"] for runs, steps, one in finished],
        ),
        "",
        *conditions(command, load),
    ]
    return "\n".join(lines)


def main() -> int:
    parser: argparse.ArgumentParser = arguments(1, __doc__)
    parser.add_argument("--steps", type=int, nargs="+", default=list(STEPS))
    args, load = parser.parse_args(), os.getloadavg()[0]
    lengths: list[Length] = []
    finished: list[tuple[int, int, Look]] = []
    with tempfile.TemporaryDirectory() as folder:
        for steps in args.steps:
            lengths.append(measured(steps, Path(folder) / f"steps-{steps}"))
            print(lengths[-1], flush=True)
        for runs, steps in ((runs, steps) for runs in RUNS for steps in FINISHED_STEPS):
            finished.append((runs, steps, finished_runs(runs, steps, Path(folder) / f"{runs}-of-{steps}")))
            print(finished[-1], flush=True)
    text = section(lengths, finished, "python -m benchmarks.growth", load)
    write_section("growth", text)
    print(f"\n{text}\n\nwritten to {REPORT.relative_to(REPORT.parents[1])}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
