"""How many bytes a decision puts on record beside its own facts, in a queue of many jobs that run.

Each moment is 10 s after the one before: every job has done some steps, some have saved, the median of some
has moved by its fourth figure, and now and then a node comes or goes.

    python -m benchmarks.fleet_records [--running 2000] [--nodes 1000] [--decisions 300]
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from orchestrator.dispatch.codec import plain
from orchestrator.dispatch.facts import Began, Fact, SeenNode, StartMeant, Submitted, Tally
from orchestrator.dispatch.fleet_file import FleetFile, PoolEntry
from orchestrator.dispatch.moments import Recorder
from orchestrator.dispatch.store import Store
from orchestrator.fleet.decisions import StartCause
from orchestrator.fleet.jobs import JobSpec, Placement, PoolPlan, StopPrice
from orchestrator.fleet.pools import Pool

GPUS_PER_NODE = 8


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--running", type=int, default=2000)
    words.add_argument("--nodes", type=int, default=1000)
    words.add_argument("--decisions", type=int, default=300)
    asked = words.parse_args()
    with tempfile.TemporaryDirectory() as folder, Store(Path(folder)) as store:
        before = _bytes(store)
        took_s = _decide(store, asked.running, asked.nodes, asked.decisions)
        each = (_bytes(store) - before) / asked.decisions
    print(
        f"{asked.running:,} jobs on {asked.nodes:,} nodes, {asked.decisions} decisions: {each:,.0f} bytes and"
        f" {took_s / asked.decisions * 1000:.1f} ms each; one every 10 s is {each * 8640 / 1e6:,.0f} MB a day"
    )


def _bytes(store: Store) -> int:
    return sum(store._db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count",)) * 4096


def _decide(store: Store, running: int, nodes: int, decisions: int) -> float:
    dice = random.Random(1)
    pool = Pool("gpus", nodes, GPUS_PER_NODE)
    fleet = FleetFile(Path(), Path(), (PoolEntry(pool),))
    keys = [f"job-{number}" for number in range(running)]
    steps_s = {key: dice.uniform(0.5, 20.0) for key in keys}
    there = [_node(dice, number) for number in range(nodes)]
    progress = {key: _first(dice, steps_s[key]) for key in keys}
    spec = JobSpec("next", "nlp", (PoolPlan("gpus", 8, 1.0),))
    store.write("ada", 0.0, lambda _books: [Submitted(spec, "next", "/")])
    recorder, took_s = Recorder(), 0.0
    for number in range(1, decisions + 1):
        for key in keys:
            progress[key] = _later(dice, progress[key], steps_s[key])
        if number % 20 == 0:
            there[dice.randrange(nodes)] = _node(dice, dice.randrange(nodes))
        start = StartMeant("next", number, Placement("gpus", (0,), (8,)), StartCause.WORTH, 1.0)
        began_s = time.perf_counter()
        facts = recorder.with_what_was_seen([start], fleet, there, progress, keys)
        store.write("daemon", 10.0 * number, _saying([*facts, Began("next", number)]))
        took_s += time.perf_counter() - began_s
    assert plain(store.read().jobs["next"].job)["epoch"] == decisions
    return took_s


def _saying(facts: list[Fact]):  # type: ignore[no-untyped-def]
    return lambda _books: facts


def _node(dice: random.Random, number: int) -> SeenNode:
    labels = (("rack", f"r{number // 32}"), ("ray.io/node-id", f"{dice.getrandbits(224):056x}"))
    return SeenNode(f"{dice.getrandbits(224):056x}", f"node-{number}", 96.0, 8.0, labels)


def _first(dice: random.Random, step_s: float) -> Tally:
    step = dice.randrange(100_000)
    price = StopPrice(dice.uniform(0.2, 3.0), dice.uniform(0.1, 9.0), dice.uniform(1.0, 9.0), 2.5)
    return Tally(step, step - step % 50, True, 200_000, float(f"{step_s:.4g}"), 1e6, 2e3, price)


def _later(dice: random.Random, tally: Tally, step_s: float) -> Tally:
    """Ten seconds on: half of the jobs are behind by a step or ahead; one median in fifty moves a little."""
    step = tally.step + max(round(10.0 / step_s + dice.uniform(-0.6, 0.6)), 0)
    moved = step_s * dice.uniform(0.999, 1.001) if dice.random() < 0.02 else tally.step_s or step_s
    return replace(
        tally, step=step, saved_step=step - step % 50, step_s=float(f"{moved:.4g}"),
        gpu_s=tally.gpu_s + 80.0, usd=tally.usd + 0.05 * dice.uniform(0.9, 1.1),
    )  # fmt: skip


if __name__ == "__main__":
    main()
