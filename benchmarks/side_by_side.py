"""Another version beside this one: python -m benchmarks.side_by_side --against CHECKOUT [--rounds N]

A plan's processor time, the way to the first step cold and warm, from a rank's SIGKILL to the next new step,
how long a save holds up the training, and what the probes' wrapped calls add to a step. Both run in this
environment, with the same scripts and settings, in turns: every other round takes ours first. It prints a
table, and writes nothing.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from benchmarks import restart, snapshot_stall
from benchmarks.figures import spread, table
from benchmarks.ground import Ground, ground
from benchmarks.launch import COLD, WARM, arguments, chosen_device
from benchmarks.launchers import JOB, ORCHESTRATOR, Task
from benchmarks.plan_time import CASES, MEASURED, processor_s
from benchmarks.report import conditions

HERE = Path(__file__).resolve().parents[1]
PARAMETERS = 10_000_000
# Benchmarks lay among the tests once.
CALLS = """
try:
    from benchmarks.direct_cost import calls_s
except ImportError:
    from tests.benchmarks.direct_cost import calls_s
print(calls_s())
"""


@dataclass(frozen=True)
class Question:
    """What is measured, and how many of its units a second is."""

    name: str
    per_second: float
    measure: Callable[[Ground], float]


def plan_s(here: Ground) -> float:
    return processor_s(here, CASES[MEASURED])


def cold_s(here: Ground) -> float:
    return COLD.launch(here, _task()).total_s


def warm_s(here: Ground) -> float:
    return WARM.launch(here, _task()).total_s


def restart_s(here: Ground) -> float:
    here.ended()
    here.rest()
    options = {"checkpoints": "{place}/checkpoints", "every": str(restart.SAVE_EVERY)}
    task = replace(
        _task(), steps=restart.STEPS_UNTIL_KILLED, restarts=1, script=restart.TRAINS_ON, options=options
    )
    return restart.restart(ORCHESTRATOR, here, task).total_s


def stall_s(here: Ground) -> float:
    here.ended()
    here.rest()
    options = {"checkpoints": "{place}/checkpoints", "parameters": str(PARAMETERS)}
    task = Task(
        snapshot_stall.RANKS, steps=snapshot_stall.SAVES, script=str(JOB / "saves.py"), options=options
    )
    return snapshot_stall.saves(ORCHESTRATOR, here, task, staged=True).warm_s


def calls_s(here: Ground) -> float:
    told = subprocess.run(
        [sys.executable, "-c", CALLS], cwd=here.env["PYTHONPATH"], env=here.env, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    return float(told.stdout)


QUESTIONS = {
    "plan": Question(f"{MEASURED}, processor time, s", 1, plan_s),
    "cold": Question("from the command to the first step, cold, s", 1, cold_s),
    "warm": Question("the same, on a cluster that `up` keeps, s", 1, warm_s),
    "restart": Question("from a rank's SIGKILL to the next new step, s", 1, restart_s),
    "stall": Question(f"a save of {PARAMETERS // 10**6} million parameters, ms", 1e3, stall_s),
    "calls": Question("what the probes' wrapped calls add to a step, µs", 1e6, calls_s),
}


def _task() -> Task:
    return chosen_device("cpu", None)


def of_version(here: Ground, checkout: Path) -> Ground:
    """The ground, where `python -m orchestrator` is that of a checkout."""
    return replace(here, env={**here.env, "PYTHONPATH": str(checkout)})


def in_turns(here: Ground, question: Question, against: Path, rounds: int) -> list[tuple[float, float]]:
    """The other version's figure and ours, by round."""
    found = []
    for turn in range(rounds):
        seconds = {
            place: question.measure(of_version(here, place))
            for place in ((against, HERE) if turn % 2 == 0 else (HERE, against))
        }
        found.append((seconds[against], seconds[HERE]))
        before, after = (one * question.per_second for one in found[-1])
        print(f"round {turn + 1}/{rounds}: {question.name}: {before:.4g}, {after:.4g}", flush=True)
    return found


def row(question: Question, found: Sequence[tuple[float, float]]) -> list[str]:
    """Medians and spreads, and the median of the rounds' ratios."""
    cells = [question.name]
    for place in (0, 1):
        figures = [one[place] * question.per_second for one in found]
        cells.append(f"{median(figures):.3g} ({spread(figures)})")
    return [*cells, f"{median(after / before for before, after in found):.2f}"]


def main() -> int:
    parser = arguments(5, __doc__)
    parser.add_argument("--against", type=Path, required=True, help="folder of the other version")
    parser.add_argument("--only", nargs="+", choices=list(QUESTIONS), default=list(QUESTIONS))
    args, load = parser.parse_args(), os.getloadavg()[0]
    against = args.against.resolve()
    if not (against / "orchestrator" / "__init__.py").is_file():
        parser.error(f"--against={args.against}: has no folder 'orchestrator'; name a checkout of it")
    rows = []
    with ground() as here:
        for name in args.only:
            question = QUESTIONS[name]
            for place in (against, HERE):  # writes the bytecode, and counts for nothing
                question.measure(of_version(here, place))
            rows.append(row(question, in_turns(here, question, against, args.rounds)))
    command = f"python -m benchmarks.side_by_side --against {args.against} --rounds {args.rounds}"
    print("\n".join(table(["what", "before", "after", "ratio"], rows)))
    print("\n".join(["", *conditions(command, load)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
