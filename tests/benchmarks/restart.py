"""From a killed rank to the first step done again: python -m tests.benchmarks.restart [--rounds N]

The last rank of a job that trains is killed with SIGKILL; the time ends when all ranks of the next
attempt have done their first step. torchrun, Ray Train and the orchestrator in turn, each told to restart.
The deepspeed launcher has no restart. The result replaces this benchmark's section of docs/benchmarks.md.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from tests.benchmarks import launchers
from tests.benchmarks.figures import interleaved_rounds, spread, table
from tests.benchmarks.ground import Ground, ground, wait_for
from tests.benchmarks.launch import arguments, chosen_device
from tests.benchmarks.launchers import Launcher, Place, Task, ranks_in_words
from tests.benchmarks.phases import slowest
from tests.benchmarks.report import REPORT, conditions, write_section

STEPS_UNTIL_KILLED = 10**9
TRAIN_ON_S = 1.0
CASES = {
    "torchrun": launchers.TORCHRUN,
    "Ray Train": launchers.RAY_TRAIN,
    "orchestrator": launchers.ORCHESTRATOR,
}


@dataclass(frozen=True)
class Restart:
    """Seconds from the kill: to the script's first line again, and from there to the first step done."""

    notice_s: float
    start_s: float

    @property
    def total_s(self) -> float:
        return self.notice_s + self.start_s


def restart(launcher: Launcher, here: Ground, task: Task) -> Restart:
    """Start, let train, kill, wait for the second attempt, stop."""
    place = Place.fresh(here)
    with here.started(launcher.command(task, place)) as (process, _):

        def come(attempts: int) -> bool:
            if process.poll() is not None:
                raise RuntimeError(f"it ended with {process.returncode}: {here.said()}")
            return len(place.ranks()) == attempts * task.ranks

        wait_for(lambda: come(1), "the first step")
        time.sleep(TRAIN_ON_S)
        last = max(place.ranks(), key=lambda rank: rank["rank"])
        killed_unix_s = time.time()
        os.kill(last["pid"], signal.SIGKILL)
        wait_for(lambda: come(2), "the first step after the kill")
    again = [rank["stamps"] for rank in place.ranks() if rank["stamps"]["script"] > killed_unix_s]
    if len(again) != task.ranks:
        raise RuntimeError(f"{len(again)} of {task.ranks} ranks began anew: {here.said()}")
    moments = slowest(again)
    return Restart(moments["script"] - killed_unix_s, moments["first_step"] - moments["script"])


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


def section(restarts: Mapping[str, Sequence[Restart]], task: Task, rounds: int, load: float) -> str:
    rows = []
    for name, of_one in restarts.items():
        totals = [one.total_s for one in of_one]
        parts = [median(one.notice_s for one in of_one), median(one.start_s for one in of_one)]
        rows.append([name, f"{median(totals):.2f}", spread(totals), *(f"{part:.2f}" for part in parts)])
    theirs_s, ours_s = (median(one.total_s for one in restarts[name]) for name in ("torchrun", "orchestrator"))
    lines = [
        "## After a killed rank",
        "",
        f"{ranks_in_words(task)}, ZeRO-2; one gets SIGKILL, all are started again; "
        f"{interleaved_rounds(rounds)}. Nothing is loaded from a checkpoint: that comes on top, the same for all. "
        "torchrun runs with `TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1`, as its restart fails on gloo without it "
        "(PyTorch issue 135712); the deepspeed launcher has no restart.",
        "",
        *table(
            ["started by", "kill to first step, s", "rounds, s", "until the script runs again", "until its first step"],
            rows,
        ),
        "",
        f"The orchestrator is back after {ours_s / theirs_s:.2f} of torchrun's time: its ranks are forked with all "
        "imports done, and what is left is to notice, to give the others a moment to end, and to join again.",
        "",
        *conditions(f"python -m tests.benchmarks.restart --rounds {rounds}", load),
    ]
    return "\n".join(lines)


def main() -> int:
    args, load = arguments(5, __doc__, device=True).parse_args(), os.getloadavg()[0]
    task = replace(chosen_device(args.device, args.ranks), steps=STEPS_UNTIL_KILLED, restarts=1)
    with ground(device="cuda" if task.cuda else "cpu") as here:
        restarts = interleaved(here, task, args.rounds)
    text = section(restarts, task, args.rounds, load)
    write_section("restart", text)
    print(f"\n{text}\n\nwritten to {REPORT.relative_to(REPORT.parents[1])}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
