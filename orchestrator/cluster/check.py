"""A check of a cluster's nodes: one that measures on each, pinned there, and rounds of exchanges between
them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.agent.check.node_check import Asked, NodeCheck
from orchestrator.check.findings import Finding
from orchestrator.check.judge import silent
from orchestrator.check.reports import Figure, NodeReport, What, decode
from orchestrator.check.rounds import Group, Paths, Search
from orchestrator.cluster import placement
from orchestrator.errors import ConfigError

_CLOSE_S = 10.0
_LOOKS_AT_CLOCK = 3


@dataclass(frozen=True)
class Candidate:
    """A node of the cluster, as Ray has it. ``held_by`` names the runs that are on it."""

    node_id: str
    name: str
    address: str
    held_by: tuple[str, ...] = ()

    def is_free_for(self, own: str = "") -> bool:
        """Whether nobody holds it, but for the run whose nodes are held as ``own``."""
        return all(own and placement.is_group_of(name, own) for name in self.held_by)


def candidates() -> list[Candidate]:
    """All nodes that are alive and have something to give, by name; ``ray`` is initialised already."""
    seen = placement.inspect_cluster()
    found = [
        Candidate(
            node["NodeID"],
            node["NodeManagerHostname"],
            node["NodeManagerAddress"],
            tuple(sorted(name for name, _ in seen.held.get(node["NodeID"], []))),
        )
        for node in seen.nodes
        if node["Resources"].get("CPU", 0.0)
    ]
    return sorted(found, key=lambda one: (one.name, one.address))


@dataclass
class Checks:
    """The nodes of a check that still answer, in their order, and what was found of the others."""

    nodes: list[Candidate]
    timeout_s: float
    actors: dict[str, Any] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    _exchanges: int = 0

    def measure(self) -> list[NodeReport]:
        """What each node measures by itself, all at once."""
        answers = self._ask([(node, ()) for node in self.nodes], "measure")
        reports = []
        for node in self.nodes:
            report = decode(answers[node.node_id])
            ahead = Figure(What.CLOCK, self._ahead_s(node))
            reports.append(NodeReport(node.name, (*report.figures, ahead), report.facts, report.failed))
        return reports

    def search(self, asked: Search) -> Paths:
        """Exchange data in the rounds that a search asks for."""
        ports = self._ask([(node, ()) for node in self.nodes], "store_port")
        try:
            wanted = next(asked)
            while True:
                wanted = asked.send(self._exchanged(wanted, ports))
        except StopIteration as ended:
            found: Paths = ended.value
            return found

    def _exchanged(self, groups: Sequence[Group], ports: dict[str, int]) -> list[float]:
        self._exchanges += 1
        answers = {}
        for group in groups:
            first = self.nodes[group[0]]
            way = "all_gather" if len(group) == 2 else "all_to_all"
            for place, number in enumerate(group):
                name = f"{self._exchanges}.{group[0]}"
                told = [way, name, first.address, ports[first.node_id], place, len(group)]
                answers[number] = self.actors[self.nodes[number].node_id].exchange.remote(told)
        ray.wait(list(answers.values()), num_returns=len(answers), timeout=self.timeout_s)
        return [min(_rate(answers[number]) for number in group) for group in groups]

    def _ahead_s(self, node: Candidate) -> float:
        """How far its clock is from ours, less what the answer may have taken on its way."""
        offsets = []
        for _ in range(_LOOKS_AT_CLOCK):
            asked_s = time.time()
            try:
                there_s = ray.get(self.actors[node.node_id].clock.remote(), timeout=self.timeout_s)
            except RayError:
                return 0.0  # what it measured has been heard already
            half_s = (time.time() - asked_s) / 2
            offset_s = there_s - (asked_s + half_s)
            offsets.append(max(0.0, abs(offset_s) - half_s) * (1 if offset_s > 0 else -1))
        return float(min(offsets, key=abs))

    def _ask(self, calls: Sequence[tuple[Candidate, tuple[Any, ...]]], method: str) -> dict[str, Any]:
        """The answers by node; one that does not answer in time is named, and left out from here on."""
        asked = [(node, getattr(self.actors[node.node_id], method).remote(*args)) for node, args in calls]
        done, _ = ray.wait([one for _, one in asked], num_returns=len(asked), timeout=self.timeout_s)
        heard = {}
        for node, answer in asked:
            try:
                if answer in done:
                    heard[node.node_id] = ray.get(answer)
            except RayError:
                continue
        for node, _ in asked:
            if node.node_id not in heard:
                self.findings.append(silent(node.name, self.timeout_s))
        self.nodes = [node for node in self.nodes if node.node_id in heard]
        return heard


@contextlib.contextmanager
def checks(nodes: Sequence[Candidate], asked: Asked) -> Iterator[Checks]:
    """Start what measures on every node, and leave nothing. Raises :class:`ConfigError` where another check
    is at work."""
    found = Checks(list(nodes), asked.timeout_s)
    try:
        for node in nodes:
            strategy = NodeAffinitySchedulingStrategy(node.node_id, soft=False)
            made = ray.remote(num_cpus=0)(NodeCheck).options(scheduling_strategy=strategy, max_restarts=0)
            found.actors[node.node_id] = made.remote(asked, node.address)
        names = {node.node_id: node.name for node in nodes}
        taken = found._ask([(node, ()) for node in nodes], "hold")
        for node_id, by in taken.items():
            if by:
                raise ConfigError(
                    f"node {names[node_id]}: a check is at work there already ({by}), and two would slow each"
                    " other; wait for it, or name other nodes with 'check.nodes=[HOST,HOST]'"
                )
        yield found
    finally:
        closing = [actor.close.remote() for actor in found.actors.values()]
        if closing:
            ray.wait(closing, num_returns=len(closing), timeout=_CLOSE_S)
        for actor in found.actors.values():
            ray.kill(actor)


def _rate(answer: Any) -> float:
    """0 for a node that has not answered, or has failed."""
    try:
        return float(ray.get(answer, timeout=0))
    except RayError:
        return 0.0
