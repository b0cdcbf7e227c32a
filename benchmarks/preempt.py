"""From `submit` to the first step on another's GPUs: python -m benchmarks.preempt [--rounds N]

A queue on a Ray of this machine: a long job has all of its cores, has saved and has run for longer than its
least time; then a job that is worth more is submitted. The time ends with its first step. What each took is
read from the queue's own facts and the two journals. The result replaces this benchmark's section of
docs/benchmarks.md.
"""

from __future__ import annotations

import os
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks.figures import spread, table
from benchmarks.ground import Ground, ground, wait_for
from benchmarks.launch import arguments
from benchmarks.launchers import ORCHESTRATOR_COMMAND
from benchmarks.report import REPORT, conditions, write_section
from orchestrator.dispatch.facts import Fact, StartMeant, StopMeant
from orchestrator.dispatch.serve import daemon_pid
from orchestrator.dispatch.store import Store
from orchestrator.events import (
    AttemptEnded,
    AttemptStarted,
    Event,
    ResourcesGranted,
    RunEnded,
    RunStarted,
    SnapshotCommitted,
    StepDone,
    StopRequested,
)
from orchestrator.ledger.journal import replay

RANKS, GOAL_S = 2, 5.0
FLEET = f"""
pools:
  cpus: {{nodes: 1, gpus_per_node: {RANKS}, resource: CPU, words: [gpu=cpu, cluster.cpu_threads_per_rank=1]}}
classes:
  batch: {{usd_per_hour: 1, default: true}}
  product: {{usd_per_hour: 100000}}
policy: {{min_run_s: 1, min_run_prices: 0}}
"""
JOB = [
    f"cluster.gpus_per_node={RANKS}", "job.micro_batch=1", "model.seq_len=64", "job.args.val_every=0",
    "job.args.sample_tokens=0", "job.args.checkpoint_every=20", "launch.dashboard=false",
]  # fmt: skip
LONG, SHORT = "job.steps=100000", "job.steps=5"
PHASES = {
    "command": "`submit`: compose, plan, forecast",
    "decided": "decided",
    "asked": "the other hears of it",
    "saved": "it saves and ends",
    "left": "its nodes are back",
    "driver": "the next driver: fork, compose, plan",
    "granted": "Ray: attach, nodes, agents",
    "ranks": "ranks forked",
    "step": "engine, first step",
}


@dataclass(frozen=True)
class Preemption:
    """Seconds by phase, from the command's start."""

    phases: dict[str, float]

    @property
    def from_submitted_s(self) -> float:
        """Without the command itself, which ends with the job in the queue."""
        return sum(self.phases.values()) - self.phases["command"]

    @classmethod
    def between(cls, typed_unix_s: float, moments: Mapping[str, float]) -> Preemption:
        phases, before_s = {}, typed_unix_s
        for phase in PHASES:
            phases[phase], before_s = moments[phase] - before_s, moments[phase]
        return cls(phases)


class Queue:
    """The queue below a ground's folder."""

    def __init__(self, here: Ground) -> None:
        self._here, self._runs = here, here.folder / "runs"
        self.state_dir = self._runs / "fleet"

    def submit(self, *words: str) -> tuple[float, float]:
        """When it was typed, and when the job was in the queue."""
        before = self._newest()
        with self._here.started([*ORCHESTRATOR_COMMAND, "submit", *words, *JOB]) as (process, typed_unix_s):
            wait_for(lambda: self._newest() > before or process.poll() is not None, "the job in the queue")
            written_unix_s = time.time()
            if process.wait():
                raise RuntimeError(f"submit ended with {process.returncode}: {self._here.said()}")
        return typed_unix_s, written_unix_s

    def cancel(self, key: str) -> None:
        self._here.run([*ORCHESTRATOR_COMMAND, "cancel", key])

    def decided(self, kind: type[Any], key: str, after_unix_s: float) -> float:
        """When it was."""
        with closing(Store(self.state_dir)) as store:
            facts: list[tuple[float, str, Fact]] = list(store.facts())
        return next(
            at for at, _, fact in facts if isinstance(fact, kind) and fact.job == key and at > after_unix_s
        )

    def happened(
        self, key: str, kind: type[Event], since_unix_s: float = 0.0, **fields: object
    ) -> float | None:
        """When it first did; None: it has not."""
        journal = self._runs / key / "journal.jsonl"
        for record in replay(journal) if journal.exists() else ():
            event = record.event
            alike = isinstance(event, kind) and all(getattr(event, name) == fields[name] for name in fields)
            if alike and record.time_unix_s >= since_unix_s:
                return record.time_unix_s
        return None

    def _newest(self) -> int:
        with closing(sqlite3.connect(self.state_dir / "fleet.db")) as database:
            found: int = database.execute(
                "SELECT coalesce(max(seq), 0) FROM events WHERE kind = 'Submitted'"
            ).fetchone()[0]
        return found


@contextmanager
def queue(here: Ground) -> Iterator[Queue]:
    """A kept cluster with a daemon that leads."""
    (here.folder / "runs").mkdir()
    (here.folder / "runs" / "fleet.yaml").write_text(FLEET)
    words = ["gpu=cpu", f"cluster.gpus_per_node={RANKS}", "launch.dashboard=false"]
    here.run([*ORCHESTRATOR_COMMAND, "up", *words])
    made = Queue(here)
    try:
        yield made
    finally:
        here.run([*ORCHESTRATOR_COMMAND, "dispatch", "--stop"])
        wait_for(lambda: daemon_pid(made.state_dir) is None, "the daemon's end")
        here.run([*ORCHESTRATOR_COMMAND, "down", "--force"])


def preempted(there: Queue, number: int) -> Preemption:
    """The job that was there before goes on for the next round."""
    long, short = "long", f"short-{number}"
    resumed_unix_s = time.time() if number else 0.0
    if number == 0:
        there.submit(f"key={long}", "class=batch", LONG)

    def trains() -> bool:
        return there.happened(long, SnapshotCommitted, resumed_unix_s) is not None

    wait_for(trains, "a checkpoint of the long job")
    time.sleep(2.0)
    typed, written = there.submit(f"key={short}", "class=product", SHORT)

    def done() -> bool:
        return there.happened(short, RunEnded) is not None

    wait_for(done, f"the end of {short}")
    found: dict[str, float | None] = {
        "command": written,
        "decided": there.decided(StartMeant, short, 0.0),
        "asked": there.happened(long, StopRequested, typed),
        "saved": there.happened(long, AttemptEnded, typed),
        "left": there.happened(long, RunEnded, typed),
        "driver": there.happened(short, RunStarted),
        "granted": there.happened(short, ResourcesGranted),
        "ranks": there.happened(short, AttemptStarted),
        "step": there.happened(short, StepDone, step=1),
    }
    assert there.decided(StopMeant, long, typed) <= (found["asked"] or 0.0)
    return Preemption.between(typed, {phase: _there(phase, at) for phase, at in found.items()})


def _there(phase: str, at: float | None) -> float:
    if at is None:
        raise RuntimeError(f"the journals have no {phase}")
    return at


def section(found: Sequence[Preemption], load: float) -> str:
    totals = [one.from_submitted_s for one in found]
    value = median(totals)
    word = "met" if value <= GOAL_S else "MISSED"

    def row(name: str, of: Callable[[Preemption], float]) -> list[str]:
        values = [of(one) for one in found]
        return [name, f"{median(values):.2f}", spread(values)]

    lines = [
        "## One job's GPUs for another",
        "",
        f"- submitted to the first step on the other's GPUs: **{value:.2f} s** (goal: {GOAL_S:g} at most;"
        f" {word})",
        "",
        f"A queue on a kept Ray, {RANKS} gloo ranks of one thread, the main job's model. The one that runs"
        " has saved and is past its least time (`policy.min_run_s`, 150 s where nothing is said, is 1 s"
        f" here); it is asked to save and goes on afterwards. {len(found)} rounds.",
        "",
        *table(
            ["phase", "median, s", "rounds, s"],
            [
                *(
                    row(words, lambda one, phase=phase: one.phases[phase])  # type: ignore[misc]
                    for phase, words in PHASES.items()
                ),
                row("all but the command", lambda one: one.from_submitted_s),
            ],
        ),
        "",
        *conditions(f"python -m benchmarks.preempt --rounds {len(found)}", load),
    ]
    return "\n".join(lines)


def main() -> int:
    args, load = arguments(5, __doc__).parse_args(), os.getloadavg()[0]
    found: list[Preemption] = []
    with ground() as here, queue(here) as there:
        for number in range(args.rounds):
            here.rest()
            found.append(preempted(there, number))
            told = ", ".join(f"{phase} {seconds:.2f}" for phase, seconds in found[-1].phases.items())
            print(f"round {number + 1}/{args.rounds}: {found[-1].from_submitted_s:.2f} s: {told}", flush=True)
    text = section(found, load)
    write_section("preempt", text)
    print(f"\n{text}\n\nwritten to {REPORT.relative_to(REPORT.parents[1])}")
    return 0 if median(one.from_submitted_s for one in found) <= GOAL_S else 1


if __name__ == "__main__":
    sys.exit(main())
