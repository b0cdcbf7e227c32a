"""An agent that is there before its run: one per node, beside the warm zygotes.

Ray takes most of a second to start a worker and to import what an agent needs. A spare agent has that behind
it; a run adopts it, and the node's keeper starts another a little later. It holds no resources and is
detached, as it belongs to nobody yet, so it has to see by itself when it is of no use any more:

| it is | and ends when |
|---|---|
| spare | the keeper of its node ends: `down`, the idle timeout, a kill |
| adopted | its run's driver or placement group is gone, as Ray ends an agent that the driver started |
"""

from __future__ import annotations

import os
import secrets
import select
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError
from ray.util import list_named_actors, placement_group_table
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.agent import facts
from orchestrator.agent.agent import NodeAgent, Place
from orchestrator.agent.assignment import Assignment
from orchestrator.agent.launchers import WarmZygotes
from orchestrator.agent.localize import identity
from orchestrator.agent.messages import Encoded
from orchestrator.cluster.session import NAMESPACE
from orchestrator.installation import PACKAGE
from orchestrator.processes import is_same

SPARE = "orchestrator spare agent"
# A spare one answers in milliseconds; what takes longer is no faster than an agent that is started.
_ADOPT_S = 1.0
_KEEPER_LOOK_S = 0.5
# A driver that was not heard of for this long may be gone; Ray's control store is asked then, and so often.
_SILENT_S = 0.5
# And of one that was heard of this often, as Ray may have given its placement group away all the same.
_LOOK_S = 30.0
# The next one is started when the launch that took this one is over: both would want the processor.
REFILL_S = 2.0
_FAILED_S = 60.0
_TICK_S = 0.5
_LOOK_AFTER_TICKS = 10


@dataclass(frozen=True)
class Build:
    """Whose code an agent runs. A spare one serves a driver only if theirs is the same: a worker that Ray
    starts for the driver has it from the driver's place, as it is on the disk then."""

    python: str
    package: str
    sha256: str

    @classmethod
    def here(cls) -> Build:
        """This process's; asked before its code changes on the disk."""
        return cls(sys.executable, str(PACKAGE), facts.own_sha256())

    @classmethod
    def of(cls, expected: Mapping[str, str]) -> Build:
        """This process's, whose hash is among the facts of its plan."""
        return cls(sys.executable, str(PACKAGE), expected.get(facts.OWN, ""))


@dataclass(frozen=True)
class Adoption:
    """What a spare agent has to know to be a run's agent."""

    build: Build
    assignment: Assignment  # without its secrets, as `describe` has them
    node_index: int
    warm: WarmZygotes
    group: PlacementGroup
    driver: Process


@dataclass(frozen=True)
class Process:
    """A process of some node of the cluster."""

    node_id: str
    pid: int
    start: str

    @classmethod
    def this(cls) -> Process:
        me = identity()
        return cls(ray.get_runtime_context().get_node_id(), me["pid"], me["start"])

    def is_alive(self) -> bool:
        """Asked on its own node."""
        return is_same(self.pid, self.start)


class NodeAgentAhead(NodeAgent):
    """The actor: a node agent like any other from its adoption on. Ray's title of the process is its
    class."""

    def __init__(self, keeper: Any, keeper_process: Process) -> None:
        self._keeper = keeper
        self._build = Build.here()
        self._group: PlacementGroup | None = None
        self._speaks = False
        self._heard_s = time.monotonic()
        threading.Thread(
            target=self._end_with, args=(keeper_process,), name="keeper's end", daemon=True
        ).start()

    def is_free(self) -> bool:
        """Whether no run has it."""
        return self._group is None

    def adopt(self, adoption: Adoption) -> bool:
        """Be the agent of a run from here on; False where another has it, or its code is not this one."""
        if self._group is not None or adoption.build != self._build:
            return False
        self._group = adoption.group
        self._speaks = adoption.node_index == 0  # whatever ranks it gets then
        self._heard_s = time.monotonic()
        threading.Thread(
            target=self._end_with_run, args=(adoption.group, adoption.driver), name="run's end", daemon=True
        ).start()
        self._keeper.agent_taken.remote()
        super().__init__(
            adoption.assignment, adoption.node_index, adoption.warm, place=_place, own_process=True
        )
        self._heard_s = time.monotonic()
        return True

    def release(self, group: PlacementGroup) -> None:
        """End, if this run has it after all: it was adopted too late."""
        if self._group is not None and self._group.id == group.id:
            os._exit(0)

    def poll(self) -> Encoded:
        self._heard_s = time.monotonic()
        return super().poll()

    def report(self) -> dict[str, Any]:
        """As every agent's, and {} where no run has it or where another one speaks for the run."""
        return super().report() if self._speaks else {}

    def _end_with(self, keeper: Process) -> None:
        while self._group is None:
            if not keeper.is_alive():
                os._exit(1)
            time.sleep(_KEEPER_LOOK_S)

    def _end_with_run(self, group: PlacementGroup, driver: Process) -> None:
        """Ranks, writers and zygotes end with us."""
        ended = _EndOf(driver)
        looked_s = time.monotonic()
        while not ended.within(_SILENT_S):
            now_s = time.monotonic()
            if now_s - self._heard_s < _SILENT_S and now_s - looked_s < _LOOK_S:
                continue
            looked_s = now_s
            if _is_removed(group):
                break
        os._exit(1)


class _EndOf:
    """The end of a process, as soon as it comes where that is of this node."""

    def __init__(self, process: Process) -> None:
        self._poll: select.poll | None = None
        if process.node_id != ray.get_runtime_context().get_node_id():
            return
        try:
            descriptor = os.pidfd_open(process.pid)
        except OSError:  # another namespace's number, or it has ended: the placement group will tell
            return
        if not process.is_alive():  # another process has its number by now
            os.close(descriptor)
            return
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)

    def within(self, wait_s: float) -> bool:
        """Waits so long at most."""
        if self._poll is None:
            time.sleep(wait_s)
            return False
        return bool(self._poll.poll(wait_s * 1000))


def _is_removed(group: PlacementGroup) -> bool:
    """Ray removes the placement group of a driver that is gone."""
    try:
        return bool(placement_group_table(group).get("state", "REMOVED") == "REMOVED")
    except Exception:  # noqa: BLE001 - the control store does not answer; with it gone the raylet ends, and we
        return False


def _place() -> Place:
    return Place(ray.get_runtime_context().get_node_id(), str(ray.util.get_node_ip_address()))


class SpareAgents:
    """Keeps one of a node; part of the node's keeper, which is ``keeper``."""

    def __init__(self, keeper: Any) -> None:
        self._keeper = keeper
        self._me = Process.this()
        self._spare: Any = None
        self._due_s = time.monotonic() + REFILL_S  # the run that asked for a keeper comes first
        self._lock = threading.Lock()
        self._closed = threading.Event()
        threading.Thread(target=self._watch, name="spare agent", daemon=True).start()

    def wait_ready(self, timeout_s: float) -> list[str]:
        """Have one, and wait for it; what went wrong, in words."""
        with self._lock:
            spare = self._spare = self._spare or self._start()
        try:
            ray.get(spare.is_free.remote(), timeout=timeout_s)
        except RayError as error:
            return [f"no agent ahead of the next run: {str(error).splitlines()[0]}"]
        return []

    def taken(self) -> None:
        """A run has it."""
        with self._lock:
            self._spare, self._due_s = None, time.monotonic() + REFILL_S

    def close(self) -> None:
        """End it; one that a run has is the run's."""
        self._closed.set()
        with self._lock:
            if self._spare is not None:
                ray.kill(self._spare)
                self._spare = None

    def _watch(self) -> None:
        tick = 0
        while not self._closed.wait(_TICK_S):
            tick += 1
            with self._lock:
                if self._spare is None and time.monotonic() >= self._due_s and not self._closed.is_set():
                    self._try_start()
                spare = self._spare
            if spare is not None and tick % _LOOK_AFTER_TICKS == 0 and (due_s := _gone(spare)) is not None:
                with self._lock:
                    if self._spare is spare:
                        self._spare, self._due_s = None, time.monotonic() + due_s

    def _try_start(self) -> None:
        try:
            self._spare = self._start()
        except Exception:  # noqa: BLE001 - runs go on without; Ray may be on its way down
            self._due_s = time.monotonic() + _FAILED_S

    def _start(self) -> Any:
        return (
            ray.remote(NodeAgentAhead)
            .options(
                name=f"{_prefix(self._me.node_id)} {secrets.token_hex(4)}",
                namespace=NAMESPACE,
                lifetime="detached",
                num_cpus=0,
                max_restarts=0,
                scheduling_strategy=NodeAffinitySchedulingStrategy(self._me.node_id, soft=False),
            )
            .remote(self._keeper, self._me)
        )


def _gone(spare: Any) -> float | None:
    """After how long another is to be started in its place; None where it is there, as far as is known."""
    try:
        return None if ray.get(spare.is_free.remote(), timeout=1.0) else REFILL_S
    except GetTimeoutError:
        return None
    except RayError:
        return _FAILED_S


def _prefix(node_id: str) -> str:
    return f"{SPARE} {node_id[:12]}"


def adopted(
    wanted: Mapping[int, str], assignment: Assignment, warm: WarmZygotes, group: PlacementGroup
) -> dict[int, Any]:
    """The spare agents that are the run's from here on, by index; ``wanted`` has the node of each.

    Where there is none, where another run was faster and where it is not well, nothing is there for the
    index.
    """
    there = [name for name in list_named_actors() if name.startswith(SPARE)] if wanted else []
    if not there:
        return {}
    build, driver = Build.of(assignment.expected), Process.this()
    asked: dict[int, tuple[Any, Any]] = {}
    for index, node_id in wanted.items():
        name = next((name for name in there if name.startswith(_prefix(node_id))), None)
        if name is None:
            continue
        try:
            agent = ray.get_actor(name, namespace=NAMESPACE)
        except ValueError:  # it ended at this moment
            continue
        adoption = Adoption(build, assignment, index, warm, group, driver)
        asked[index] = agent, agent.adopt.remote(adoption)
    answers = [answer for _, answer in asked.values()]
    if answers:
        ray.wait(answers, num_returns=len(answers), timeout=_ADOPT_S)
    return {index: agent for index, (agent, answer) in asked.items() if _took(agent, answer, group)}


def _took(agent: Any, answer: Any, group: PlacementGroup) -> bool:
    try:
        return bool(ray.get(answer, timeout=0))
    except RayActorError:
        return False
    except RayError:  # too late, or it failed: one of another version may not know what it is told
        agent.release.remote(group)  # comes after the adoption, if that is still done
        return False
