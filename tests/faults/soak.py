"""Chaos: run after run of the main job, each struck at random by what machines and people do, and looked at after.

    python -m tests.faults.soak --minutes 30 --seed 1

Two runs go beside each other, each on a cluster that is kept for it. Each is struck one to four times at steps of its
own, taken up again as often as its driver ends before it has finished, and must then have trained what an
uninterrupted run trains, to the last digit of every loss. What is printed in the end goes into docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from orchestrator.events import RankLost, RunEnded, Status, StepDone
from tests.faults.invariants import finished_like, nothing_left
from tests.faults.runs import COMMON, STEPS, Run, User
from tests.processes import title

STOPS = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGINT)
SETTINGS = [
    "recovery.max_restarts=20",
    "recovery.max_idle_faults=20",
    "recovery.hang_floor_s=5",
    "recovery.hang_evidence_s=3",
]
MOST_DRIVERS = 12
LANES = 2


def named(run: Run, words: str) -> list[psutil.Process]:
    return [process for process in run.family() if words in title(process)]


def send(number: int, *processes: psutil.Process) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.send_signal(number)


def freeze_all(processes: Sequence[psutil.Process], seconds: float) -> None:
    send(signal.SIGSTOP, *processes)
    time.sleep(seconds)
    send(signal.SIGCONT, *processes)


def stop_at_once(run: Run) -> None:
    send(signal.SIGINT, run.driver)
    time.sleep(0.2)
    send(signal.SIGINT, run.driver)


def a_rank(run: Run, chance: random.Random) -> list[psutil.Process]:
    ranks = named(run, "orchestrator rank ")
    return [chance.choice(ranks)] if ranks else []


STRIKES: dict[str, Callable[[Run, random.Random], None]] = {
    "a rank is killed": lambda run, chance: send(signal.SIGKILL, *a_rank(run, chance)),
    "all ranks are killed": lambda run, chance: send(signal.SIGKILL, *named(run, "orchestrator rank ")),
    "a rank is stopped": lambda run, chance: send(signal.SIGSTOP, *a_rank(run, chance)),
    "a rank gets a stray signal": lambda run, chance: send(chance.choice(STOPS[1:3]), *a_rank(run, chance)),
    "the writer is killed": lambda run, chance: send(signal.SIGKILL, *named(run, "orchestrator writer ")),
    "the agent is killed": lambda run, chance: send(signal.SIGKILL, *named(run, "ray::NodeAgent")),
    "MLflow's process is killed": lambda run, chance: send(signal.SIGKILL, *named(run, "mlflow_sink")),
    "MLflow's process is stopped": lambda run, chance: freeze_all(named(run, "mlflow_sink"), 3.0),
    "the driver is killed": lambda run, chance: send(signal.SIGKILL, run.driver),
    "the driver is frozen": lambda run, chance: freeze_all([run.driver], chance.uniform(1.0, 8.0)),
    "the driver is asked to stop": lambda run, chance: send(chance.choice(STOPS), run.driver),
    "all are asked to stop": lambda run, chance: send(chance.choice(STOPS[:3]), run.driver, *run.family()),
    "it is stopped at once": lambda run, chance: stop_at_once(run),
}  # fmt: skip


def night(user: User, whole: Run, name: str, seed: int) -> list[str]:
    """One run from its start to its end, however many drivers that takes; what struck it."""
    chance = random.Random(seed)
    strikes = [chance.choice(list(STRIKES)) for _ in range(chance.randint(1, 4))]
    steps = sorted(chance.randint(1, STEPS - 2) for _ in strikes)
    run, left = user.start(name, *SETTINGS, tracked=True), list(zip(steps, strikes, strict=True))
    for _ in range(MOST_DRIVERS):
        while run.alive():
            done = max((one.event.step for one in run.records() if isinstance(one.event, StepDone)), default=0)
            if left and done >= left[0][0]:
                STRIKES[left.pop(0)[1]](run, chance)
            elif not left:
                run.hurry()
            time.sleep(0.05)
        run.ended()
        nothing_left(run)
        ended = run.events()[-1]
        if isinstance(ended, RunEnded) and ended.status is Status.FINISHED:
            finished_like(run, whole)
            return strikes
        assert run.code in (130, 143, 129, 138, -9), f"exit code {run.code}\n{run.text}"
        run = user.resume(name)
        run._hurry.unlink(missing_ok=True)
    raise AssertionError(f"not finished by {MOST_DRIVERS} drivers")


@dataclass
class Tally:
    """What came together of all runs."""

    struck: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    runs: int = 0
    drivers: int = 0
    lost: int = 0


def nights(folder: Path, seed: int, lane: int, end_s: float, tally: Tally) -> None:
    """Run after run on a cluster of this lane's own: whose an agent is cannot be seen from outside."""
    folder.mkdir()
    with User(folder).keeping(*COMMON) as user:
        whole = user.start("whole", pace_s=0).ended()
        assert whole.code == 0, whole.text
        number = lane
        while time.monotonic() < end_s:
            name = f"night-{seed}-{number}"
            try:
                strikes = night(user, whole, name, seed * 100_000 + number)
                tally.struck.update(strikes)
                print(f"{name}: finished as if nothing had happened, after: {', '.join(strikes)}", flush=True)
            except Exception:  # noqa: BLE001 - whatever it is, it is one of the things that are counted
                tally.broken.append(name)
                print(f"{name}: BROKEN\n{traceback.format_exc()}", flush=True)
            mine = [run for run in user.runs if run.name == name]
            tally.runs, tally.drivers = tally.runs + 1, tally.drivers + len(mine)
            tally.lost += len(mine[-1].of(RankLost)) if mine else 0
            number += LANES


def soak(folder: Path, minutes: float, seed: int) -> int:
    """Prints a line a run and the figures in the end; the number of runs after which something did not hold."""
    tally, end_s = Tally(), time.monotonic() + 60.0 * minutes
    with ThreadPoolExecutor(LANES) as pool:
        lanes = [pool.submit(nights, folder / str(lane), seed, lane, end_s, tally) for lane in range(LANES)]
        for lane in lanes:
            lane.result()
    print(
        f"\nseed {seed}, {minutes:g} minutes: {tally.runs} runs, {tally.drivers} drivers, "
        f"{sum(tally.struck.values())} strikes, {tally.lost} times a rank was lost"
    )
    for what, times in tally.struck.most_common():
        print(f"  {times:4d}  {what}")
    broken = len(tally.broken)
    print(f"runs that did not train what an uninterrupted one trains, or left something: {broken} {tally.broken or ''}")
    return broken


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    told = parser.parse_args(words)
    with tempfile.TemporaryDirectory(prefix="soak-", ignore_cleanup_errors=True) as folder:
        sys.exit(min(1, soak(Path(folder), told.minutes, told.seed)))


if __name__ == "__main__":
    main()
