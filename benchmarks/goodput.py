"""How much of the time trains new steps when ranks are killed: python -m benchmarks.goodput [--rounds N]

job/trains_on.py trains a fixed number of steps under torchrun, Ray Train and the orchestrator in turn, each
told to restart; the last rank gets SIGKILL at the same moments after the first step under each. The clock
runs from the first step to the last. The result replaces this benchmark's section of docs/benchmarks.md.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from statistics import median

import psutil

from benchmarks import trail
from benchmarks.figures import interleaved_rounds, spread, table
from benchmarks.ground import Ground, ground, wait_for
from benchmarks.launch import arguments, chosen_device
from benchmarks.launchers import Launcher, Place, Task, ranks_in_words
from benchmarks.report import REPORT, conditions, write_section
from benchmarks.restart import CASES, TRAINS_ON

FAULTS_AFTER_S = (10.0, 35.0, 60.0)
SAVE_EVERY = 20
# Undisturbed, so that the last fault comes before the end under every launcher.
TRAINING_S = 90.0
TRIED_STEPS = 100


@dataclass(frozen=True)
class Outcome:
    """Of one run: seconds from its first step to its last, of them in steps that were new and in saves, as
    rank 0 counts them; steps that were done again; how many faults met ranks that did not train yet."""

    wall_s: float
    new_s: float
    saves_s: float
    redone: int
    early: int

    @property
    def goodput(self) -> float:
        return self.new_s / self.wall_s

    @classmethod
    def of(cls, notes: Sequence[trail.Note], ranks: int, steps: int, early: int) -> Outcome:
        """Raises RuntimeError where a step was left out."""
        done = trail.rank_zero_steps(notes)
        new = trail.new_steps(done)
        if [note.step for note in new] != list(range(1, steps + 1)):
            raise RuntimeError(f"of {steps} steps {len(new)} are new, up to {trail.reached(notes)}")
        begin_s = new[0].at_unix_s - new[0].seconds
        end_s = trail.last_s(notes, "step", ranks, steps)
        assert end_s is not None
        saves_s = sum(note.seconds for note in notes if note.what == "saved" and note.rank == 0)
        return cls(end_s - begin_s, sum(note.seconds for note in new), saves_s, len(done) - len(new), early)


def outcome(launcher: Launcher, here: Ground, task: Task) -> Outcome:
    """One run under the fault schedule, to its end. Raises RuntimeError where a fault came too late to
    strike."""
    place = Place.fresh(here)
    early = 0
    with here.started(launcher.command(task, place)) as (process, _):

        def at_work() -> bool:
            if process.poll() is not None:
                raise RuntimeError(f"it ended with {process.returncode} before the last fault: {here.said()}")
            return trail.last_s(trail.read(place.folder), "step", task.ranks, 1) is not None

        wait_for(at_work, "the first step")
        first_unix_s = next(note.at_unix_s for note in trail.read(place.folder) if note.what == "step")
        for fault_s in FAULTS_AFTER_S:
            time.sleep(max(0.0, first_unix_s + fault_s - time.time()))
            at_work()
            early += strike(place, task)
        wait_for(lambda: process.poll() is not None, f"step {task.steps}")
    if process.returncode:
        raise RuntimeError(f"it ended with {process.returncode}: {here.said()}")
    return Outcome.of(trail.read(place.folder), task.ranks, task.steps, early)


def strike(place: Place, task: Task) -> bool:
    """SIGKILL to the last rank, or to its successor as soon as that runs; whether it had not trained yet."""
    notes: list[trail.Note] = []

    def there() -> bool:
        nonlocal notes
        notes = trail.read(place.folder)
        if trail.reached(notes) >= task.steps:
            raise RuntimeError(f"step {task.steps} was done before the last fault: raise --steps")
        with suppress(psutil.Error):
            pid = trail.newest_pid(notes, task.ranks - 1)
            return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        return False

    wait_for(there, "a rank to kill")
    pid = trail.newest_pid(notes, task.ranks - 1)
    os.kill(pid, signal.SIGKILL)
    return not any(note.pid == pid and note.what == "step" for note in notes)


def steps_of(seconds: float, here: Ground, task: Task) -> int:
    """How many steps take so long, by a run of a few under torchrun."""
    place, tried = Place.fresh(here), replace(task, steps=TRIED_STEPS)
    here.run(CASES["torchrun"].command(tried, place))
    steps = trail.rank_zero_steps(trail.read(place.folder))
    return round(seconds / median(note.seconds for note in steps))


def interleaved(here: Ground, task: Task, rounds: int) -> dict[str, list[Outcome]]:
    """The outcomes of each launcher by round; every other round goes backwards."""
    found: dict[str, list[Outcome]] = {name: [] for name in CASES}
    for turn in range(rounds):
        for name in list(CASES)[:: -1 if turn % 2 else 1]:
            here.ended()
            here.rest()
            one = outcome(CASES[name], here, task)
            found[name].append(one)
            print(f"round {turn + 1}/{rounds}: {name}: {one.wall_s:.1f} s, {one.goodput:.1%}", flush=True)
    return found


def section(found: Mapping[str, Sequence[Outcome]], task: Task, rounds: int, load: float) -> str:
    rows = []
    for name, of_one in found.items():
        shares, walls = [one.goodput for one in of_one], [one.wall_s for one in of_one]
        rows.append(
            [
                name,
                f"{median(shares):.1%}",
                spread([share * 100 for share in shares], 1),
                f"{median(walls):.1f}",
                spread(walls, 1),
                f"{median(one.redone for one in of_one):g}",
                f"{median(one.saves_s for one in of_one):.2f}",
                f"{sum(one.early for one in of_one)}",
            ]
        )
    moments = ", ".join(f"{moment:g}" for moment in FAULTS_AFTER_S)
    lines = [
        "## Goodput under faults",
        "",
        (
            f"{ranks_in_words(task)}, ZeRO-1, 2 million parameters, {task.steps} steps, a checkpoint every"
            f" {SAVE_EVERY}; the last rank gets SIGKILL {moments} s after the first step, or as soon as there"
            f" is one to kill; {interleaved_rounds(rounds)}. Goodput is the share of the time from the first"
            " step to the last that was spent in steps that had not been done before; the launch is not in"
            " it. torchrun and Ray Train save and load as DeepSpeed does by itself."
        ),
        "",
        *table(
            [
                *("started by", "goodput, median", "rounds, %", f"{task.steps} steps, s", "rounds, s"),
                *("steps done again", "in saves, s", "faults that met a restart"),
            ],
            rows,
        ),
        "",
        (
            f"{len(FAULTS_AFTER_S)} faults in so short a time are many more than any cluster has: what is"
            " compared is what one fault costs."
        ),
        "",
        *conditions(f"python -m benchmarks.goodput --rounds {rounds} --steps {task.steps}", load),
    ]
    return "\n".join(lines)


def main() -> int:
    parser = arguments(3, __doc__, device=True)
    parser.add_argument("--steps", type=int, help=f"default: as many as take {TRAINING_S:g} s without faults")
    args, load = parser.parse_args(), os.getloadavg()[0]
    task = replace(chosen_device(args.device, args.ranks), restarts=2 * len(FAULTS_AFTER_S))
    options = {"checkpoints": "{place}/checkpoints", "every": str(SAVE_EVERY)}
    task = replace(task, script=TRAINS_ON, options=options)
    with ground(device="cuda" if task.cuda else "cpu") as here:
        task = replace(task, steps=args.steps or steps_of(TRAINING_S, here, task))
        found = interleaved(here, task, args.rounds)
    text = section(found, task, args.rounds, load)
    write_section("goodput", text)
    print(f"\n{text}\n\nwritten to {REPORT.relative_to(REPORT.parents[1])}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
