"""From a killed rank to the next new step: python -m benchmarks.restart [--rounds N]

The last rank of a job that trains and saves, job/trains_on.py, is killed with SIGKILL a few steps after a
checkpoint; the time ends when all ranks of the next attempt have done the first step that none had done
before. torchrun, Ray Train and the orchestrator in turn, each told to restart; the script loads the last
checkpoint under each. The deepspeed launcher has no restart. The result replaces this benchmark's section of
docs/benchmarks.md.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from benchmarks import launchers, trail
from benchmarks.figures import interleaved_rounds, spread, table
from benchmarks.ground import Ground, ground, wait_for
from benchmarks.launch import arguments, chosen_device
from benchmarks.launchers import JOB, Launcher, Place, Task, ranks_in_words
from benchmarks.report import REPORT, conditions, write_section

TRAINS_ON = str(JOB / "trains_on.py")
STEPS_UNTIL_KILLED = 10**9
SAVE_EVERY, KILLED_AFTER = 20, 64  # steps: four of them are done again
OURS, TORCHRUN, RAY_TRAIN = "orchestrator", "torchrun", "Ray Train"
CASES = {
    TORCHRUN: launchers.TORCHRUN,
    RAY_TRAIN: launchers.RAY_TRAIN,
    OURS: launchers.ORCHESTRATOR,
}
GOALS = {RAY_TRAIN: 0.1, TORCHRUN: 0.15}
PHASES = {
    "script": "until the script runs again",
    "initialized": "imports, process group, engine",
    "loaded": "load",
    "first": "first step",
    "new": "steps done again, and a new one",
}


@dataclass(frozen=True)
class Restart:
    """Seconds by phase, from the kill to the first new step."""

    phases: dict[str, float]

    @property
    def total_s(self) -> float:
        return sum(self.phases.values())

    @classmethod
    def between(
        cls, killed_unix_s: float, notes: Sequence[trail.Note], ranks: int, reached: int
    ) -> Restart | None:
        """From the notes of the ranks that were started after the kill; None until all have done a new
        step."""
        loaded = next((note.step for note in notes if note.what == "loaded"), 0)
        points = [("script", "script", 0), ("initialized", "initialized", 0), ("loaded", "loaded", 0)]
        points += [("first", "step", loaded + 1), ("new", "step", reached + 1)]
        phases, before_s = {}, killed_unix_s
        for phase, what, step in points:
            at_s = trail.last_s(notes, what, ranks, step)
            if at_s is None:
                return None
            phases[phase], before_s = at_s - before_s, at_s
        return cls(phases)


def restart(launcher: Launcher, here: Ground, task: Task) -> Restart:
    """Start, let train, kill, wait for the second attempt to get further, stop."""
    place = Place.fresh(here)
    found: list[Restart] = []
    with here.started(launcher.command(task, place)) as (process, _):

        def alive() -> None:
            if process.poll() is not None:
                raise RuntimeError(f"it ended with {process.returncode}: {here.said()}")

        def trained() -> bool:
            alive()
            return trail.last_s(trail.read(place.folder), "step", task.ranks, KILLED_AFTER) is not None

        wait_for(trained, f"step {KILLED_AFTER}")
        last = max(trail.read(place.folder), key=lambda note: note.rank)
        killed_unix_s = time.time()
        os.kill(last.pid, signal.SIGKILL)

        def went_on() -> bool:
            alive()
            notes = trail.read(place.folder)
            reached = trail.reached(trail.before(notes, killed_unix_s))
            one = Restart.between(killed_unix_s, trail.after(notes, killed_unix_s), task.ranks, reached)
            found.extend([one] if one else [])
            return bool(found)

        wait_for(went_on, "a new step after the kill")
    return found[0]


def interleaved(here: Ground, task: Task, rounds: int) -> dict[str, list[Restart]]:
    """The restarts of each launcher by round; every other round goes backwards."""
    restarts: dict[str, list[Restart]] = {name: [] for name in CASES}
    for turn in range(rounds):
        for name in list(CASES)[:: -1 if turn % 2 else 1]:
            here.ended()
            here.rest()
            restarts[name].append(restart(CASES[name], here, task))
            print(f"round {turn + 1}/{rounds}: {name}: {restarts[name][-1].total_s:.2f} s", flush=True)
    return restarts


def verdict(restarts: Mapping[str, Sequence[Restart]], theirs: str) -> str:
    """Median over the rounds of our total by theirs of the same round."""
    pairs = zip(restarts[OURS], restarts[theirs], strict=True)
    value = median(ours.total_s / other.total_s for ours, other in pairs)
    word = "met" if value <= GOALS[theirs] else "MISSED"
    return f"- {OURS} / {theirs}: **{value:.3f}** (goal: {GOALS[theirs]:g} at most; {word})"


def section(restarts: Mapping[str, Sequence[Restart]], task: Task, rounds: int, load: float) -> str:
    rows = []
    for name, of_one in restarts.items():
        totals = [one.total_s for one in of_one]
        parts = [f"{median(one.phases[phase] for one in of_one):.2f}" for phase in PHASES]
        rows.append([name, f"{median(totals):.2f}", spread(totals), *parts])
    lines = [
        "## After a killed rank",
        "",
        *(verdict(restarts, theirs) for theirs in GOALS),
        "",
        (
            f"{ranks_in_words(task)}, ZeRO-1, 2 million parameters, a checkpoint every {SAVE_EVERY} steps;"
            f" one rank gets SIGKILL after step {KILLED_AFTER}, all are started again, load the last"
            f" checkpoint and train until they are further than before; {interleaved_rounds(rounds)}."
            " torchrun and Ray Train save and load as DeepSpeed does by itself. torchrun runs with"
            " `TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1`, as its restart fails on gloo without it (PyTorch issue"
            " 135712); the deepspeed launcher has no restart."
        ),
        "",
        *table(["started by", "kill to next new step, s", "rounds, s", *PHASES.values()], rows),
        "",
        (
            "Phases are medians of their own. The orchestrator's ranks are forked with all imports done and"
            " load from memory: what is left is to notice, to give the others a moment to end, and to join"
            " again."
        ),
        "",
        *conditions(f"python -m benchmarks.restart --rounds {rounds}", load),
    ]
    return "\n".join(lines)


def main() -> int:
    args, load = arguments(5, __doc__, device=True).parse_args(), os.getloadavg()[0]
    task = replace(chosen_device(args.device, args.ranks), steps=STEPS_UNTIL_KILLED, restarts=1)
    options = {"checkpoints": "{place}/checkpoints", "every": str(SAVE_EVERY)}
    task = replace(task, script=TRAINS_ON, options=options)
    with ground(device="cuda" if task.cuda else "cpu") as here:
        restarts = interleaved(here, task, args.rounds)
    text = section(restarts, task, args.rounds, load)
    write_section("restart", text)
    print(f"\n{text}\n\nwritten to {REPORT.relative_to(REPORT.parents[1])}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
