"""What one look at all nodes costs the driver: python -m benchmarks.tick [--rounds N] [--agents N ...]

The driver's own code, from what the nodes say to the journal, the bill and the terminal, with a list in place
of Ray: the parts of `--agents` nodes of 8 ranks come as the bytes that Ray would have carried, each made by
the nodes' own fold. What Ray takes to ask and to answer is measured by itself. The result replaces this
benchmark's section of docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import os
import pickle
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import ray
from rich.console import Console

from benchmarks.figures import spread, table
from benchmarks.journal import file_system
from benchmarks.launch import arguments
from benchmarks.report import REPORT, conditions, write_section
from orchestrator.agent.assignment import Assignment
from orchestrator.agent.gather import Gather, part_of
from orchestrator.agent.messages import (
    Encoded,
    NodeSample,
    Part,
    RankExited,
    RankPhases,
    Unknown,
    decode,
    encode,
)
from orchestrator.cli.show.terminal import Terminal
from orchestrator.cluster.attempt import Attempt
from orchestrator.cluster.group import RayWorkerGroup, UnderWay
from orchestrator.cluster.hangs import HangWatch
from orchestrator.cluster.nodes import Node
from orchestrator.cluster.stragglers import StragglerWatch
from orchestrator.config.schema import RecoveryConfig
from orchestrator.events import AttemptStarted, ResourcesGranted, RunStarted
from orchestrator.ledger.journal import Journal
from orchestrator.ledger.ledger import Ledger
from orchestrator.rank.messages import StepTaken
from orchestrator.supervise.clock import SystemClock
from orchestrator.supervise.loop import StopRequest, supervise
from tests.support.assignments import assignment

RANKS_PER_NODE = 8
AGENTS = (10, 100, 1000, 2000, 10_000)
# Nodes sample themselves every 10 s and the driver looks every 0.2 s at most.
SAMPLE_EVERY_TICKS = 50
GOAL_S, GOAL_AGENTS = 1.0, 2000
ASKED_ACTORS = 4


@dataclass
class Ticks:
    """Seconds of the driver: of ticks with a step of every rank, of one in which every node sends a sample
    too, of the last, in which every rank ends; and how much the journal grew by in a usual tick."""

    usual_s: list[float] = field(default_factory=list)
    samples_s: float = 0.0
    ends_s: float = 0.0


class Deaf:
    """An agent that is told to tidy up and to finish at the end."""

    def __init__(self) -> None:
        self.tidy = self.finish = self

    def remote(self, *_told: object) -> None:
        pass


class ListedGroup(RayWorkerGroup):
    """The worker group of a run, but nodes are entries of a list: `said` gives what each says at a tick."""

    def __init__(self, assignment: Assignment, nodes: int, said: Callable[[int], list[bytes] | None]) -> None:
        super().__init__(assignment, nodes, 1.0, 1.0)
        self.spent_s: list[float] = []
        self._said, self._count = said, nodes
        self._heard_s: float | None = None

    def acquire(self, cancelled: Callable[[], bool]) -> ResourcesGranted:
        self._nodes.all[:] = [Node(index, Deaf(), f"node-{index:05d}") for index in range(self._count)]
        return ResourcesGranted([node.name for node in self._nodes.all], self.assignment.ranks.world_size)

    def start(
        self,
        attempt: int,
        restore_before: int | None = None,
        skip_batches: Sequence[int] = (),
        put_aside: str = "",
    ) -> AttemptStarted:
        names = [node.name for node in self._nodes.all]
        told = Attempt(attempt, names, RANKS_PER_NODE, stragglers=StragglerWatch(1.5, 20))
        self._now = UnderWay(told, HangWatch(attempt, names, 120.0, None, lambda: None), [], 0.0)
        self._checkpoints.snapshots.started(attempt, None)
        return AttemptStarted(attempt, "10.0.0.1", 29500, self.assignment.ranks.world_size)

    def _poll_nodes(self, now: UnderWay) -> list[tuple[Node, list[Part | Unknown]]]:
        """A tick ends where the next begins; what makes up the nodes' words is on nobody's clock."""
        if self._heard_s is not None:
            self.spent_s.append(time.perf_counter() - self._heard_s)
        said = self._said(len(self.spent_s))
        self._heard_s = time.perf_counter()
        return [
            (node, decode(pickle.loads(words)))
            for node, words in zip(self._nodes.all, said or [], strict=False)
        ]

    def close(self) -> None:
        if self._heard_s is not None:
            self.spent_s.append(time.perf_counter() - self._heard_s)
            self._heard_s = None


class Clock(SystemClock):
    """Without the pause between two looks."""

    def sleep(self, seconds: float) -> None:
        pass


def node_step(node: int, step: int) -> Part:
    """The step of a node's ranks, folded as its agent folds it."""
    gather = Gather(RANKS_PER_NODE)
    first = node * RANKS_PER_NODE
    for rank in range(first, first + RANKS_PER_NODE):
        loss, local_time_s = 3.0 + rank % 97 / 1000, 0.05 + (rank * step) % 89 / 1e5
        whole = gather.add(part_of(rank, StepTaken(step, 0.2, local_time_s, loss, lr=1e-3, grad_norm=1.0)))
    assert whole is not None
    return whole


def node_sample(node: int) -> Part:
    """As the agent names the figures of a node of eight GPUs."""
    host = ("cpu_utilization_percentage", "system_memory_usage_megabytes", "system_memory_usage_percentage")
    network = ("network_receive_megabytes", "network_transmit_megabytes")
    of_gpu = (
        "memory_usage_megabytes",
        "memory_usage_percentage",
        "utilization_percentage",
        "power_usage_watts",
    )
    gpus = [f"gpu_{index}_{name}" for index in range(RANKS_PER_NODE) for name in of_gpu]
    return NodeSample(dict.fromkeys((*host, *network, *gpus), 1234.5 + node))


def node_exits(node: int) -> list[Part]:
    ranks = range(RANKS_PER_NODE)
    return [RankExited(node * RANKS_PER_NODE + rank, f"GPU {rank}", 0, step=1, time=0.0) for rank in ranks]


def words(agents: int, ticks: int) -> Callable[[int], list[bytes] | None]:
    """What all nodes say at each tick: steps; steps with all samples; the end. Nothing after that."""

    def said(tick: int) -> list[bytes] | None:
        if tick > ticks + 1:
            return None
        told = []
        for node in range(agents):
            parts = node_exits(node) if tick == ticks + 1 else [node_step(node, tick + 1)]
            if tick == ticks or (tick < ticks and (node + tick) % SAMPLE_EVERY_TICKS == 0):
                parts.append(node_sample(node))
            phase = [] if tick == ticks + 1 else ["step"] * RANKS_PER_NODE
            told.append(pickle.dumps(encode([*parts, RankPhases(phase)])))
        return told

    return said


def measured(agents: int, ticks: int, folder: Path) -> Ticks:
    """One run as `orchestrator.driver.run` drives it, but for the gauges, which are Ray's."""
    there = {"run_dir": str(folder), "checkpoint_dir": str(folder / "checkpoints")}
    told = assignment(run="tick", **there, ranks_per_node=RANKS_PER_NODE, world_size=agents * RANKS_PER_NODE)
    group = ListedGroup(told, agents, words(agents, ticks))
    ledger = Ledger()
    started = RunStarted("tick", "tick", "list", "h100", agents * RANKS_PER_NODE, 2.0)
    with open(os.devnull, "w") as nowhere, Journal(folder / "journal.jsonl") as journal:
        terminal = Terminal(Console(file=nowhere, force_terminal=False), ticks)
        for event in supervise(started, group, RecoveryConfig(), Clock(), StopRequest()):
            record = journal.append(event)
            ledger.fold(record)
            terminal.observe(record, ledger.bill())
    usual, samples, end = group.spent_s[1:ticks], group.spent_s[ticks], group.spent_s[ticks + 1]
    if ledger.bill().step != ticks + 1:
        raise RuntimeError(f"{ticks + 1} steps were sent, and the bill knows {ledger.bill().step}")
    return Ticks(usual, samples, end)


# --- Ray's own share ----------------------------------------------------------------------------


class Asked:
    """Answers as an agent does."""

    def poll(self, node: int) -> Encoded:
        return encode([node_step(node, 1), RankPhases(["step"] * RANKS_PER_NODE)])


def ray_call_s(calls: int, rounds: int) -> float:
    """Processor time of this process for one call by Ray and its answer, of `calls` at a time; the median.

    Of 4 actors: how long they take to answer is not in it.
    """
    actors = [ray.remote(Asked).options(num_cpus=0).remote() for _ in range(ASKED_ACTORS)]
    ray.get([actor.poll.remote(0) for actor in actors])
    spent = []
    for _ in range(rounds):
        begin = time.process_time()
        under_way = [actors[node % ASKED_ACTORS].poll.remote(node) for node in range(calls)]
        ready, _late = ray.wait(under_way, num_returns=calls, timeout=60.0)
        for answer in ready:
            ray.get(answer)
        spent.append((time.process_time() - begin) / calls)
    return median(spent)


def rays_share(rounds: int) -> float:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        ray.init(
            "local", num_cpus=ASKED_ACTORS, include_dashboard=False, log_to_driver=False, _temp_dir=folder
        )
        try:
            return ray_call_s(1000, rounds)
        finally:
            ray.shutdown()


# --- the report ---------------------------------------------------------------------------------


def growth(per_agent_s: Mapping[int, float]) -> str:
    """How a tick grows over the last tenfold of agents."""
    few, many = sorted(per_agent_s)[0], sorted(per_agent_s)[-1]
    return (
        f"An agent takes {per_agent_s[few] * 1e6:.0f} µs of a tick with {few:,} of them and "
        f"{per_agent_s[many] * 1e6:.0f} µs with {many:,}"
    )


def section(
    found: Mapping[int, Ticks], ray_s: float, ticks: int, load: float, command: str, disk: str
) -> str:
    rows = []
    for agents, one in found.items():
        middle = median(one.usual_s)
        rows.append(
            [
                f"{agents:,}",
                f"{agents * RANKS_PER_NODE:,}",
                f"{middle * 1e3:.2f}",
                spread([second * 1e3 for second in one.usual_s]),
                f"{middle / agents * 1e6:.1f}",
                f"{one.samples_s * 1e3:.0f}",
                f"{one.ends_s * 1e3:.0f}",
            ]
        )
    lines = ["## A tick of the supervise loop", ""]
    if GOAL_AGENTS in found:
        middle = median(found[GOAL_AGENTS].usual_s)
        word = "met" if middle < GOAL_S else "MISSED"
        lines += [f"- {GOAL_AGENTS:,} agents: **{middle:.3f} s** a tick (goal: under {GOAL_S:g} s; {word})"]
    lines += [
        (
            f"- {growth({agents: median(one.usual_s) / agents for agents, one in found.items()})} (goal:"
            " linear or better)"
        ),
        "",
        (
            "What the driver does with what all nodes say at one look: unpickle, fold, supervise, journal"
            f" (on {disk}, `fsync` included), bill, terminal. Nodes of {RANKS_PER_NODE} ranks; each tick"
            f" every node tells a step and its ranks' phases, and one in {SAMPLE_EVERY_TICKS} a sample of its"
            f" figures, as often as they do at the usual interval of 10 s; {ticks} ticks. A list stands in"
            " for Ray."
        ),
        "",
        *table(
            [
                "agents",
                "ranks",
                "usual tick, ms",
                "from–to",
                "µs an agent",
                "with a sample of every node, ms",
                "all ranks end, ms",
            ],
            rows,
        ),
        "",
        (
            f"Ray comes on top: {ray_s * 1e6:.0f} µs of the driver's processor time for each node asked "
            f"(1,000 calls at a time to {ASKED_ACTORS} actors on this machine), "
            f"{ray_s * GOAL_AGENTS:.2f} s for {GOAL_AGENTS:,}; the network between real nodes is not in it."
        ),
        "",
        *conditions(command, load),
    ]
    return "\n".join(lines)


def main() -> int:
    parser: argparse.ArgumentParser = arguments(20, __doc__)
    parser.add_argument("--agents", type=int, nargs="+", default=list(AGENTS))
    args, load = parser.parse_args(), os.getloadavg()[0]
    found: dict[int, Ticks] = {}
    with tempfile.TemporaryDirectory(prefix=".tick-", dir=Path.cwd()) as name:
        disk = file_system(Path(name))
        for agents in args.agents:
            folder = Path(name, f"{agents}")
            folder.mkdir()
            found[agents] = measured(agents, args.rounds, folder)
            print(f"{agents:,} agents: {median(found[agents].usual_s) * 1e3:.2f} ms a tick", flush=True)
    ray_s = rays_share(5)
    command = f"python -m benchmarks.tick --rounds {args.rounds}"
    text = section(found, ray_s, args.rounds, load, command, disk)
    write_section("tick", text)
    print(f"\n{text}\n\nwritten to {REPORT.relative_to(REPORT.parents[1])}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
