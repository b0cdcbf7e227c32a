"""The worker group on Ray: one placement group bundle and one agent actor per node."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError
from ray.util.placement_group import PlacementGroup, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from orchestrator.cluster import placement, warm
from orchestrator.cluster.agent import AGENT, NodeAgent
from orchestrator.cluster.answers import by_text, death, error_of, reason
from orchestrator.cluster.assignment import Assignment
from orchestrator.cluster.attempt import Attempt
from orchestrator.cluster.gather_logs import LogKeeper
from orchestrator.cluster.launching import WarmZygotes
from orchestrator.cluster.merge import Part
from orchestrator.cluster.on_node import unshared
from orchestrator.errors import ClusterError, NodeMismatch
from orchestrator.events import AttemptStarted, Event, ResourcesGranted

_TICK_S = 0.2
_CLOSE_TIMEOUT_S = 10.0


@dataclass
class _Node:
    """An agent and the call to it that is under way."""

    index: int
    agent: Any
    name: str
    address: str
    remark: str | None = None
    polling: Any = None
    lost: str | None = None


class RayWorkerGroup:
    """Implements :class:`~orchestrator.cluster.contract.WorkerGroup`; ``ray`` is initialised already.

    ``notice`` is told what is waited for.
    """

    def __init__(
        self,
        assignment: Assignment,
        nodes: int,
        wait_for_resources_s: float,
        start_timeout_s: float,
        notice: Callable[[str], None] = lambda _text: None,
        lent: WarmZygotes | None = None,
    ) -> None:
        self.assignment = assignment
        self._node_count = nodes
        self._start_timeout_s = start_timeout_s
        self._needs = placement.bundle(assignment.ranks_per_node, assignment.device == "cuda")
        self._asked = placement.Asked(nodes, self._needs, wait_for_resources_s)
        self._cancelled: Callable[[], bool] = lambda: False
        self._notice = notice
        self._warm = lent or partial(warm.offer_here, idle_timeout_s=assignment.warm_idle_timeout_s)
        self._logs = LogKeeper(Path(assignment.run_dir) / "logs")
        self._placement: PlacementGroup | None = None
        self._nodes: list[_Node] = []
        self._attempt: Attempt | None = None
        self._starting: list[Any] = []
        self._start_deadline_s = 0.0
        self._generation_stopped = False

    def acquire(self, cancelled: Callable[[], bool]) -> ResourcesGranted:
        """Hold all nodes, start an agent on each and compare it with the plan."""
        name, self._cancelled = f"orchestrator {self.assignment.run}", cancelled
        self._placement = placement.reserve(name, self._asked, cancelled, self._notice)
        self._nodes = [self._new_node(index, f"node {index}") for index in range(self._node_count)]
        self._describe(self._nodes)
        names = [node.name for node in self._nodes]
        return ResourcesGranted(names, self.assignment.world_size, self._warnings())

    def start(self, attempt: int) -> AttemptStarted:
        """Start a generation of ranks; a node whose agent was lost gets a new one first."""
        self._replace([node for node in self._nodes if node.lost], attempt)
        head = self._nodes[0]
        port = self._get(head, head.agent.free_port.remote())
        # One node needs no network: loopback works whatever its interfaces and firewall are.
        address = "127.0.0.1" if self._node_count == 1 else head.address
        self._attempt = Attempt(attempt, [n.name for n in self._nodes], self.assignment.ranks_per_node)
        self._generation_stopped = False
        self._starting = [node.agent.start.remote(attempt, address, port) for node in self._nodes]
        self._start_deadline_s = time.monotonic() + self._start_timeout_s
        return AttemptStarted(attempt, address, port, self.assignment.world_size)

    def poll(self) -> list[Event]:
        """What the nodes said since the last call; waits a tick at most."""
        attempt = self._attempt
        if attempt is None or attempt.ended:
            return []
        if not self._all_started(attempt):
            return attempt.settle(time.monotonic())
        events: list[Event] = []
        for node, parts in self._hear_nodes(attempt):
            for part in parts:
                if part["kind"] == "log":
                    self._logs.keep(part)
                else:
                    events += attempt.hear(node.index, part, time.monotonic())
        if not self._generation_stopped and attempt.must_stop(time.monotonic()):
            self._generation_stopped = True
            self._tell("stop", self.assignment.kill_after_s)
        return events + attempt.settle(time.monotonic())

    def stop(self, grace_s: float) -> None:
        """Ask every rank to end, and kill those that are left after ``grace_s``."""
        if self._starting:  # no rank has begun, so there is nothing to wait for
            self.kill()
            return
        if self._attempt is not None:
            self._attempt.stopping = True
        self._tell("stop", grace_s)

    def kill(self) -> None:
        """Kill without asking. The agents die, and their ranks die with them, whatever they are doing."""
        if self._attempt is not None:
            self._attempt.stopping = True
        for node in self._nodes:
            ray.kill(node.agent)

    def close(self) -> None:
        """Leave nothing behind: no rank, zygote, agent or placement group."""
        if self._nodes:
            closing = [node.agent.close.remote() for node in self._nodes if not node.lost]
            ray.wait(closing, num_returns=len(closing), timeout=_CLOSE_TIMEOUT_S)
            for node in self._nodes:
                ray.kill(node.agent)
            self._nodes = []
        if self._placement is not None:
            remove_placement_group(self._placement)
            self._placement = None

    def _replace(self, lost: list[_Node], attempt: int) -> None:
        """New agents for lost ones: on the same node where only the agent died, else where Ray finds room."""
        if not lost:
            return
        assert self._placement is not None
        names = [node.name for node in lost]
        placement.regain(self._placement, names, self._asked, self._cancelled, self._notice)
        for node in lost:
            self._nodes[node.index] = self._new_node(node.index, f"successor of {node.name}", f" attempt {attempt}")
        self._describe([self._nodes[node.index] for node in lost])

    def _warnings(self) -> list[str]:
        """What may be meant so, but costs the work of a run if it is not."""
        remarks = by_text([(node.name, node.remark) for node in self._nodes if node.remark])
        first, *others = self._nodes
        if not others:
            return remarks
        mark = self._get(first, first.agent.mark_checkpoints.remote())
        answers = [(node, node.agent.sees_checkpoints.remote(mark)) for node in others]
        blind = [node.name for node, answer in answers if not self._get(node, answer)]
        self._get(first, first.agent.unmark_checkpoints.remote(mark))
        return remarks + ([unshared(self.assignment.checkpoint_dir, first.name, blind)] if blind else [])

    def _new_node(self, index: int, name: str, suffix: str = "") -> _Node:
        """An agent on a bundle. A dead one's name stays taken for a while, so a successor has a suffix."""
        assert self._placement is not None
        actor = ray.remote(NodeAgent).options(
            name=f"{AGENT} {index + 1}/{self._node_count} {self.assignment.run}{suffix}",
            num_cpus=self._needs["CPU"],
            num_gpus=self._needs.get("GPU", 0),
            max_restarts=0,
            scheduling_strategy=PlacementGroupSchedulingStrategy(self._placement, placement_group_bundle_index=index),
        )
        return _Node(index, actor.remote(self.assignment, index, self._warm), name, "")

    def _describe(self, nodes: list[_Node]) -> None:
        """Learn names and addresses; refuse nodes that differ from the plan, all by name in one message."""
        problems: list[str] = []
        for node, answer in [(node, node.agent.describe.remote()) for node in nodes]:
            facts = self._get(node, answer)
            node.name, node.address = facts["host"], facts["address"]
            problems += [f"node {node.name}: {problem}" for problem in facts["problems"]]
            node.remark = facts.get("remark")
        if problems:
            raise NodeMismatch(
                "nodes differ from the plan: " + "; ".join(problems) + "; make them alike, then run again"
            )

    def _get(self, node: _Node, answer: Any) -> Any:
        try:
            return ray.get(answer, timeout=self._start_timeout_s)
        except GetTimeoutError:
            raise ClusterError(
                f"{node.name}: its agent did not answer within launch.start_timeout_s={self._start_timeout_s:g}"
            ) from None
        except RayTaskError as error:
            raise ClusterError(f"{node.name}: {reason(error)}") from None
        except RayActorError as error:
            raise ClusterError(f"{node.name}: its agent died: {reason(error)}") from None

    def _all_started(self, attempt: Attempt) -> bool:
        if not self._starting:
            return True
        ready, waiting = ray.wait(self._starting, num_returns=len(self._starting), timeout=_TICK_S)
        failed = next((error for answer in ready if (error := error_of(answer)) is not None), None)
        if isinstance(failed, RayTaskError):
            raise ClusterError(f"a node could not start its ranks: {reason(failed)}")
        if waiting and time.monotonic() > self._start_deadline_s and not failed:
            raise ClusterError(f"ranks did not start within launch.start_timeout_s={self._start_timeout_s:g}")
        if waiting and not failed:
            return False
        self._starting = []
        return True

    def _hear_nodes(self, attempt: Attempt) -> list[tuple[_Node, list[Part]]]:
        for node in self._nodes:
            if node.polling is None and not node.lost:
                node.polling = node.agent.poll.remote()
        under_way = {node.polling: node for node in self._nodes if node.polling is not None}
        if not under_way:
            return []
        ready, _ = ray.wait(list(under_way), num_returns=len(under_way), timeout=_TICK_S)
        heard = []
        for answer in ready:
            node, under_way[answer].polling = under_way[answer], None
            try:
                heard.append((node, ray.get(answer)))
            except RayTaskError as error:
                raise ClusterError(f"{node.name}: its agent failed: {reason(error)}") from None
            except RayActorError as error:
                node.lost = death(error)
                attempt.lose_node(node.index, node.lost, time.monotonic())
        return heard

    def _tell(self, method: str, *args: Any) -> None:
        for node in self._nodes:
            if not node.lost:
                getattr(node.agent, method).remote(*args)
