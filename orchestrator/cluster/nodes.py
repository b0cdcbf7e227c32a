"""The nodes of a run: held through one placement group, an agent on each, and asked through it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from orchestrator.agent import facts
from orchestrator.agent.agent import AGENT, NodeAgent, Place
from orchestrator.agent.assignment import NO_SECRETS, Assignment
from orchestrator.agent.launchers import WarmZygotes
from orchestrator.agent.localize import kill_process, unshared
from orchestrator.cluster import placement
from orchestrator.cluster.domains import PlacementRules
from orchestrator.cluster.draining import ASK_S, DrainWatch
from orchestrator.cluster.held import Gone, Held
from orchestrator.cluster.parked_order import order_of
from orchestrator.cluster.ray_errors import by_text, reason
from orchestrator.cluster.warm import pool, spare
from orchestrator.errors import Cancelled, ClusterError, NodeLost, NodeMismatch
from orchestrator.events import CheckpointWriteBlocked, CheckpointWriteResumed, Event, ResourcesGranted

_CLOSE_TIMEOUT_S = 10.0
_SPACE_S = 1.0
# Ray takes half a minute, more on a busy network, to find that a node does not answer.
_NEWS_S = 120.0
_NEWS_POLL_S = 0.5
_LOOKS = 3
NO_RULES = PlacementRules()
_EDITED = "job.script or a file beside it was edited after the plan was made: the ranks run it as it is now"


@dataclass
class Node:
    """An agent and the call to it that is under way, since ``asked_s`` (monotonic)."""

    index: int  # of its ranks in the run
    agent: Any
    name: str
    bundle: int = -1  # of the placement group
    address: str = ""
    pid: int = 0
    start: str = ""  # of its process, by which it is known again
    ray_id: str = ""
    remarks: list[str] = field(default_factory=list)
    parked: list[int] = field(default_factory=list)  # ranks of the run that it has in memory
    polling: Any = None
    asked_s: float = 0.0
    lost: str | None = None
    silent: bool = False  # it was lost because nothing was heard of it: Ray may still believe in it
    draining: bool = False  # Ray starts nothing on it any more


class Nodes:
    """All or none of them. ``notice`` is told what is waited for. ``taken_up`` tells the names of a run that
    is gone on with from those of the driver before, which Ray may still hold."""

    def __init__(
        self,
        assignment: Assignment,
        count: int,
        wait_for_resources_s: float,
        wait_for_node_s: float,
        start_timeout_s: float,
        notice: Callable[[str], None],
        lent: WarmZygotes | None,
        taken_up: str = "",
        rules: PlacementRules = NO_RULES,
    ) -> None:
        self.all: list[Node] = []
        self.shared_checkpoints = True
        # Secrets are told to agents directly, and not to Ray's record of actors.
        self._assignment = replace(assignment, secrets=NO_SECRETS)
        self._secrets = assignment.secrets
        self._count = count
        self._name = f"{assignment.run}{taken_up}"
        self._start_timeout_s = start_timeout_s
        self._needs = placement.bundle(assignment.ranks.per_node, assignment.ranks.device == "cuda")
        only = tuple(assignment.launch.node_ids)
        self._asked = placement.PlacementRequest(count, self._needs, wait_for_resources_s, only)
        self._again = placement.PlacementRequest(count, self._needs, wait_for_node_s, only)
        self._cancelled: Callable[[], bool] = lambda: False
        self._notice = notice
        self._takes_spares = lent is None  # on a cluster of the run's own nobody keeps any
        self._warm = lent or partial(pool.lease_here, idle_timeout_s=assignment.warm_idle_timeout_s)
        self._held = Held(placement.group_name(self._name), rules, notice, self._avoided)
        self._quarantined: set[str] = set()
        self._replaced = 0  # how often, for names of agents
        self._drains = DrainWatch()

    def acquire(self, cancelled: Callable[[], bool]) -> ResourcesGranted:
        """Hold all nodes, start an agent on each and compare it with the plan."""
        self._cancelled = self._held.cancelled = cancelled
        self._drains.start()
        self._held.hold(self._asked)
        self._start_all()
        for again in itertools.count(1):
            try:
                self._describe(self.all)
                self._give_back_ranks()
                break
            except NodeLost:
                if not any(node.draining for node in self.all):
                    raise
                self._hold_others(f" again {again}")
        return ResourcesGranted(
            [node.name for node in self.all],
            self._assignment.ranks.world_size,
            self._warnings(),
            self._held.crossed([node.ray_id for node in self.all]),
        )

    def replace_lost(self, attempt: int) -> list[str]:
        """New agents for lost ones: on the same node where only the agent died, else where Ray finds room.
        Returns the names of nodes that the run has not had before, or that had left since."""
        self.newly_draining()
        lost = [node for node in self.all if node.lost or node.draining]
        if not lost:
            return []
        self._replaced += 1
        suffix, had = f" attempt {attempt}.{self._replaced}", {node.ray_id for node in self.all}
        if any(node.draining or node.name in self._quarantined for node in lost):
            self._move(suffix)
        else:
            self._succeed(lost, suffix)
        return [node.name for node in self.all if node.ray_id not in had]

    def _succeed(self, lost: Sequence[Node], suffix: str) -> None:
        """Others in place of these alone."""
        for node in lost:
            if node.silent or self._held.named:
                self._await_news_of(node)
        gone = {node.index: Gone(node.bundle, node.ray_id, node.name) for node in lost}
        self._held.regain(list(gone.values()), self._again, suffix)
        for node in lost:
            self.all[node.index] = self._new(node.bundle, f"successor of {node.name}", suffix, node.index)
        self._describe([self.all[node.index] for node in lost])
        for index, before in gone.items():
            after = self.all[index]
            if moved := self._held.move_in_words(before, Gone(after.bundle, after.ray_id, after.name)):
                self._notice(moved)
        self._look_for_checkpoints()

    def wait_for_space(self) -> list[Event]:
        """Until every node can write to its run directory; what there is to tell. Raises
        :class:`Cancelled`."""
        found: list[Event] = []
        for node in self.all:
            began_s = time.monotonic()
            while (full := self.ask(node, "lacks_space")) is not None:
                if not found or found[-1] != CheckpointWriteBlocked(node.name, full):
                    found.append(CheckpointWriteBlocked(node.name, full))
                    self._notice(f"{node.name}: {full}; waiting for space")
                if self._cancelled():
                    raise Cancelled("stopped while waiting for space")
                time.sleep(_SPACE_S)
            if found and isinstance(found[-1], CheckpointWriteBlocked):
                found.append(CheckpointWriteResumed(node.name, round(time.monotonic() - began_s, 3)))
        return found

    def quarantine(self, name: str) -> None:
        """Take no more of this node: the next attempt runs on others."""
        self._quarantined.add(name)
        for node in self.all:
            if node.name == name:
                node.lost = node.lost or "it is quarantined"

    def newly_draining(self) -> list[tuple[Node, float | None]]:
        """Nodes that Ray has been told to empty since this was last asked, each with the seconds that are
        left."""
        new = [node for node in self.all if not node.draining and self._drains.draining(node.ray_id)]
        for node in new:
            node.draining = True
        return [(node, self._drains.left_s(node.ray_id)) for node in new]

    def ask(self, node: Node, question: Any, *args: Any) -> Any:
        """The answer to a method of the agent, or to a call that is under way. Raises
        :class:`ClusterError`."""
        answer = getattr(node.agent, question).remote(*args) if isinstance(question, str) else question
        try:
            return ray.get(answer, timeout=self._start_timeout_s)
        except GetTimeoutError:
            raise self._no_answer(node) from None
        except RayTaskError as error:
            raise ClusterError(f"{node.name}: {reason(error)}") from None
        except RayActorError as error:
            node.lost = f"its agent died: {reason(error)}"
            raise NodeLost.of(node.name, node.lost) from None

    def _no_answer(self, node: Node) -> ClusterError:
        limit = f"launch.start_timeout_s={self._start_timeout_s:g}"
        return ClusterError(f"{node.name}: its agent did not answer within {limit}")

    def broadcast(self, method: str, *args: Any) -> list[Any]:
        """Call all agents that are there; the calls under way."""
        return [getattr(node.agent, method).remote(*args) for node in self.all if not node.lost]

    def end(self, node: Node) -> None:
        """Kill an agent that does not answer: a stopped process does not hear Ray either."""
        strategy = NodeAffinitySchedulingStrategy(node.ray_id, soft=False)
        ray.remote(num_cpus=0)(kill_process).options(scheduling_strategy=strategy).remote(
            node.pid, node.start
        )
        ray.kill(node.agent)

    def close(self) -> None:
        """Leave no agent and no placement group."""
        self._drains.close()
        if self.all:
            closing = self.broadcast("close")
            ray.wait(closing, num_returns=len(closing), timeout=_CLOSE_TIMEOUT_S) if closing else None
            for node in self.all:
                ray.kill(node.agent)
            self.all.clear()
        self._held.release()

    def _avoided(self) -> list[str]:
        return [node["NodeID"] for node in ray.nodes() if node["NodeManagerHostname"] in self._quarantined]

    def _await_news_of(self, node: Node) -> None:
        """Until it answers, so that only its agent was ill, or Ray has noticed that it is gone, and has
        placed its bundle anew: before, Ray would start its successor on the dead node itself."""
        strategy = NodeAffinitySchedulingStrategy(node.ray_id, soft=False)
        answer = ray.remote(num_cpus=0)(_answer).options(scheduling_strategy=strategy, max_retries=0).remote()
        deadline_s = time.monotonic() + _NEWS_S
        while time.monotonic() < deadline_s and not self._cancelled():
            if ray.wait([answer], timeout=_NEWS_POLL_S)[0]:
                return
            if not any(one["Alive"] for one in ray.nodes() if one["NodeID"] == node.ray_id):
                return
        ray.cancel(answer, force=True)

    def _move(self, suffix: str) -> None:
        """Go on without a node: on others, which have to be like those that were planned for."""
        self._hold_others(suffix)
        self._describe(self.all)
        self._give_back_ranks()
        self._look_for_checkpoints()

    def _hold_others(self, suffix: str) -> None:
        """Let go of all nodes and hold others: a placement group cannot leave one of its nodes."""
        for node in self.all:
            ray.kill(node.agent)
        self._held.hold(self._again)
        self._start_all(suffix)

    def _start_all(self, suffix: str = "") -> None:
        """An agent on each bundle: one that is there already, or a new one."""
        there = self._adopted()
        self.all[:] = [
            Node(index, there[index], f"node {index}", index)
            if index in there
            else self._new(index, f"node {index}", suffix)
            for index in range(self._count)
        ]

    def _adopted(self) -> dict[int, Any]:
        """The spare agents of our nodes that are ours now, by index.

        Ray tells an agent that it starts which GPUs are in its bundle and gives it the folder that it ships;
        a spare one knows neither, and serves where all GPUs of the node are in the bundle or none.
        """
        context = ray.get_runtime_context()
        if not self._takes_spares or context.runtime_env:
            return {}
        has_gpus = {node["NodeID"]: node["Resources"].get("GPU", 0.0) for node in ray.nodes()}
        gpus = self._needs.get("GPU", 0.0)
        wanted = {
            index: node_id
            for index, node_id in self._held.node_ids().items()
            if (not gpus or has_gpus.get(node_id) == gpus) and not self._drains.draining(node_id)
        }
        return spare.adopted(wanted, self._assignment, self._warm, self._held.bundle(0).group)

    def _new(self, bundle: int, name: str, suffix: str = "", index: int | None = None) -> Node:
        """An agent on a bundle, whose number is the node's where it has no other ``index``. A dead one's name
        stays taken for a while, so a successor has a suffix."""
        held = self._held.bundle(bundle)
        index = bundle if index is None else index
        actor = ray.remote(NodeAgent).options(
            name=f"{AGENT} {bundle + 1}/{self._count} {self._name}{suffix}",
            num_cpus=self._needs["CPU"],
            num_gpus=self._needs.get("GPU", 0),
            max_restarts=0,
            scheduling_strategy=PlacementGroupSchedulingStrategy(
                held.group, placement_group_bundle_index=held.index
            ),
        )
        agent = actor.remote(self._assignment, index, self._warm, place=_place, own_process=True)
        return Node(index, agent, name, bundle)

    def _describe(self, nodes: Sequence[Node]) -> None:
        """Learn names and addresses; refuse nodes that differ from the plan, all by name in one message."""
        problems: dict[str, list[str]] = {}
        answers = [(node, node.agent.describe.remote(self._secrets)) for node in nodes]
        self._await_agents(answers)
        for node, answer in answers:
            facts = self.ask(node, answer)
            node.name, node.address, node.ray_id = facts["host"], facts["address"], facts["ray_id"]
            node.pid, node.start = facts["pid"], facts["start"]
            problems[node.name] = facts["problems"]
            node.remarks, node.parked = facts.get("remarks", []), facts.get("parked", [])
        if any(problems.values()):
            problems = self._look_again(nodes)
        found = [f"node {name}: {problem}" for name, each in problems.items() for problem in each]
        if found:
            raise NodeMismatch(
                "nodes differ from the plan: " + "; ".join(found) + "; make them alike, then run again"
            )

    def _give_back_ranks(self) -> None:
        """Let each node run the ranks again that it has in memory."""
        order = order_of([node.parked for node in self.all], self._assignment.ranks.per_node)
        moved = [(node, index) for node, index in zip(self.all, order, strict=True) if node.index != index]
        answers = [(node, node.agent.be.remote(index)) for node, index in moved]
        for node, answer in answers:
            self.ask(node, answer)
        for node, index in moved:
            node.index = index
        self.all.sort(key=lambda node: node.index)

    def _await_agents(self, answers: Sequence[tuple[Node, Any]]) -> None:
        """Until all have answered, if only that they cannot. Raises :class:`ClusterError` when one does not,
        and :class:`NodeLost` where a node that is being drained takes no agent; it is marked then."""
        deadline_s = time.monotonic() + self._start_timeout_s
        waiting = [answer for _, answer in answers]
        while waiting:
            _, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=ASK_S)
            where = self._held.node_ids() if waiting else {}
            for node, answer in answers:
                node.draining = answer in waiting and self._drains.draining(where.get(node.bundle, ""))
            if drained := [node.name for node, _ in answers if node.draining]:
                raise NodeLost.of(", ".join(drained), "it is being drained and takes no agent")
            if waiting and time.monotonic() > deadline_s:
                raise self._no_answer(next(node for node, answer in answers if answer in waiting))

    def _look_again(self, nodes: Sequence[Node]) -> dict[str, list[str]]:
        """A script that was edited since it was planned differs from the plan and not from what is here now.

        Ranks read it when they start: as it is then, everywhere alike. What differs all the same, by node.
        """
        problems: dict[str, list[str]] = {}
        for _ in range(_LOOKS):  # somebody may be editing still
            program = self._assignment.program
            expected = facts.with_script(self._assignment.expected, program.file, program.is_command)
            answers = [(node, node.agent.compare.remote(expected)) for node in nodes]
            problems = {node.name: self.ask(node, answer) for node, answer in answers}
            if not any(problems.values()):
                if expected != self._assignment.expected:
                    self._notice(_EDITED)
                self._assignment = replace(self._assignment, expected=expected)
                break
        return problems

    def _warnings(self) -> list[str]:
        """What may be meant so, but costs the work of a run if it is not."""
        remarks = by_text([(node.name, remark) for node in self.all for remark in node.remarks])
        blind = self._blind()
        self.shared_checkpoints = not blind
        warn = blind and not self._assignment.snapshot.enabled
        return remarks + (
            [unshared(self._assignment.places.checkpoint_dir, self.all[0].name, blind)] if warn else []
        )

    def _look_for_checkpoints(self) -> None:
        """A node that came later has to see the folder that the others share: its part would be nobody
        else's."""
        if self.shared_checkpoints and (blind := self._blind()):
            raise NodeMismatch(unshared(self._assignment.places.checkpoint_dir, self.all[0].name, blind))

    def _blind(self) -> list[str]:
        """The nodes that cannot see what the first one writes into the checkpoint directory."""
        first, *others = self.all
        if not others:
            return []
        mark = self.ask(first, "mark_checkpoints")
        answers = [(node, node.agent.sees_checkpoints.remote(mark)) for node in others]
        blind = [node.name for node, answer in answers if not self.ask(node, answer)]
        self.ask(first, "unmark_checkpoints", mark)
        return blind


def _answer() -> bool:
    """Run on a node by its Ray: whoever hears of it knows that the node is there."""
    return True


def _place() -> Place:
    """Of the node on which an actor runs."""
    return Place(ray.get_runtime_context().get_node_id(), str(ray.util.get_node_ip_address()))
