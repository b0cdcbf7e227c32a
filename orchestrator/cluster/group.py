"""The worker group on Ray: one placement group bundle and one agent actor per node."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from orchestrator.agent.assignment import Assignment
from orchestrator.agent.launchers import WarmZygotes
from orchestrator.agent.log_bound import LogBounds
from orchestrator.agent.log_transfer import LogWriter
from orchestrator.agent.messages import Part
from orchestrator.checkpoint.commits import Restore
from orchestrator.cluster.attempt import Attempt
from orchestrator.cluster.checkpoints import ALL_ATTEMPTS, Checkpoints
from orchestrator.cluster.hangs import HangWatch
from orchestrator.cluster.nodes import Node, Nodes
from orchestrator.cluster.ray_errors import death, error_of, reason
from orchestrator.cluster.stragglers import StragglerWatch
from orchestrator.errors import ClusterError
from orchestrator.events import (
    AttemptEnded,
    AttemptStarted,
    CheckpointSaved,
    Event,
    Fault,
    NodeDraining,
    Outcome,
    RankLost,
    ResourcesGranted,
)

_TICK_S = 0.2
# So long a restart waits for a first checkpoint to get its name.
_FIRST_NAME_S = 120.0


class RayWorkerGroup:
    """Implements :class:`~orchestrator.supervise.worker_group.WorkerGroup`; ``ray`` is initialised already.

    ``notice`` is told what is waited for, and what nodes remark on the way, once.
    """

    def __init__(
        self,
        assignment: Assignment,
        nodes: int,
        wait_for_resources_s: float,
        start_timeout_s: float,
        notice: Callable[[str], None] = lambda _text: None,
        lent: WarmZygotes | None = None,
        wait_for_node_s: float | None = None,
        taken_up: str = "",
    ) -> None:
        self.assignment = assignment
        self._node_count = nodes
        self._start_timeout_s = start_timeout_s
        again_s = wait_for_resources_s if wait_for_node_s is None else wait_for_node_s
        self._nodes = Nodes(
            assignment, nodes, wait_for_resources_s, again_s, start_timeout_s, notice, lent, taken_up
        )
        self._checkpoints = Checkpoints(assignment, self._nodes)
        self._notice = notice
        self._remarked: set[str] = set()
        bounds = LogBounds(assignment.log_max_bytes, lambda text: self._remark("this machine", text))
        self._logs = LogWriter(Path(assignment.run_dir) / "logs", bounds)
        self._attempt: Attempt | None = None
        self._starting: list[Any] = []
        self._start_deadline_s = 0.0
        self._generation_stopped = False
        self._hangs: HangWatch | None = None
        self._overdue: dict[int, Part] = {}
        self._ended: AttemptEnded | None = None
        self._unsaved: RankLost | None = None
        self._events: list[Event] = []
        self._tidy_below = ALL_ATTEMPTS

    def acquire(self, cancelled: Callable[[], bool]) -> ResourcesGranted:
        """Hold all nodes, start an agent on each and compare it with the plan."""
        return self._nodes.acquire(cancelled)

    def start(
        self, attempt: int, restore_before: int | None = None, skip_batches: Sequence[int] = ()
    ) -> AttemptStarted:
        """Start a generation of ranks; a node whose agent was lost gets a new one first."""
        for broken in self._attempt.broken if self._attempt else ():
            self._nodes.quarantine(broken)
        self._nodes.replace_lost(attempt)
        self._events += self._nodes.wait_for_space()
        restore = self._restore(attempt, restore_before)
        head = self._nodes.all[0]
        port = self._nodes.ask(head, "free_port")
        # One node needs no network: loopback works whatever its interfaces and firewall are.
        address = "127.0.0.1" if self._node_count == 1 else head.address
        names = [node.name for node in self._nodes.all]
        told = self.assignment
        stragglers = StragglerWatch(told.straggler_factor, told.straggler_steps, told.straggler_after_s)
        self._attempt = Attempt(attempt, names, told.ranks_per_node, told.gpu_name, stragglers)
        self._overdue = {}
        self._hangs = HangWatch(
            attempt, names, told.hang_evidence_s, told.hang_after_s, lambda: self._nodes.tell("ask_stacks")
        )
        self._generation_stopped, self._ended, self._unsaved = False, None, None
        self._starting = self._nodes.tell("start", attempt, address, port, list(skip_batches))
        self._start_deadline_s = time.monotonic() + self._start_timeout_s
        origin = (restore.step, restore.source) if restore else (None, None)
        return AttemptStarted(attempt, address, port, self.assignment.world_size, *origin)

    def poll(self) -> list[Event]:
        """What the nodes said since the last call; waits a tick at most."""
        attempt = self._attempt
        if attempt is None or (attempt.ended and self._ended is None):
            return []
        events, self._events = self._events, []
        events += self._look_for_drains(attempt)
        if not self._all_started(attempt):
            return events + self._settled(attempt)
        events += self._hear(attempt)
        now_s = time.monotonic()
        events += self._look_into_hang(attempt, now_s)
        if not self._generation_stopped and attempt.must_stop(now_s):
            self._generation_stopped = True
            self._nodes.tell("stop", self.assignment.kill_grace_s)
        return events + self._checkpoints.poll(now_s) + self._settled(attempt)

    def abort(self) -> None:
        """End the attempt as failed, for a reason that the caller knows."""
        if self._attempt is not None and not self._attempt.ended:
            self._attempt.fail()
            self._generation_stopped = True
            self._nodes.tell("kill")

    def quarantine(self, node: str) -> None:
        """Take no more of this node."""
        self._nodes.quarantine(node)

    def stop(self, grace_s: float) -> None:
        """Ask every rank to end, and kill those that are left after ``grace_s``."""
        if self._starting:  # no rank has begun, so there is nothing to wait for
            self.kill()
            return
        if self._attempt is not None:
            self._attempt.stopping = True
        self._nodes.tell("stop", grace_s)

    def kill(self) -> None:
        """Kill without asking. The agents die, and their ranks die with them, whatever they are doing."""
        if self._attempt is not None:
            self._attempt.stopping = True
        self._checkpoints.forget()
        for node in self._nodes.all:
            ray.kill(node.agent)

    def close(self) -> None:
        """Leave nothing behind: no rank, zygote, agent or placement group."""
        self._nodes.close()

    def _restore(self, attempt: int, before: int | None) -> Restore | None:
        """Choose what to go on from and have it laid out."""
        if not self.assignment.snapshots:
            return None
        restore = self._checkpoints.choose(before, _FIRST_NAME_S, self._listen_between)
        self._events += self._checkpoints.told()
        self._checkpoints.lay_out(restore)
        self._checkpoints.snapshots.started(attempt, restore)
        self._checkpoints.tidy(self._tidy_below)  # only now it is known which files are still on their way
        self._tidy_below = attempt + 1
        return restore

    def _listen_between(self) -> list[Event]:
        """Hear the writers while no rank runs."""
        events: list[Event] = []
        for node in self._nodes.all:
            for part in self._nodes.ask(node, "poll"):
                if part["kind"] == "log":
                    self._logs.keep(part)
                events += self._checkpoints.hear(node, part, time.monotonic())
        time.sleep(_TICK_S)
        return events + self._checkpoints.poll(time.monotonic())

    def _settled(self, attempt: Attempt) -> list[Event]:
        """The end of an attempt that went well waits until what was staged is committed."""
        events: list[Event] = []
        for event in attempt.settle(time.monotonic()):
            if isinstance(event, AttemptEnded) and event.outcome is not Outcome.FAILED:
                self._ended = event
            else:
                events.append(event)
        if self._unsaved is not None:
            events += [self._unsaved, AttemptEnded(attempt.number, Outcome.FAILED, attempt.step)]
            self._ended = self._unsaved = None
        if self._ended is not None and not self._checkpoints.busy():
            self._checkpoints.tidy_up()
            events.append(self._ended)
            self._ended = None
        return events

    def _look_for_drains(self, attempt: Attempt) -> list[Event]:
        """An attempt that ends anyway is not told: the next one begins without those nodes."""
        if attempt.failing or attempt.stopping or attempt.ended:
            return []
        new = self._nodes.newly_draining()
        return [
            NodeDraining(attempt.number, node.name, attempt.step, left_s and round(left_s, 3))
            for node, left_s in new
        ]

    def _look_into_hang(self, attempt: Attempt, now_s: float) -> list[Event]:
        """Ranks wait for each other: it is looked into when all that are left make no progress."""
        if attempt.failing or attempt.stopping or self._hangs is None:
            return []
        events = self._hangs.poll(self._overdue, attempt.step, now_s)
        for cause in events:
            if isinstance(cause, RankLost):
                attempt.blame(cause, now_s)
                self._generation_stopped = True
                self._nodes.tell("kill")
        return [event for event in events if not isinstance(event, RankLost)]

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

    def _hear(self, attempt: Attempt) -> list[Event]:
        events: list[Event] = []
        for node, parts in self._hear_nodes(attempt):
            for part in parts:
                now_s = time.monotonic()
                match part["kind"]:
                    case "log":
                        self._logs.keep(part)
                    case "remark":
                        self._remark(node.name, part["text"])
                    case "overdue":
                        self._overdue[node.index] = part
                    case "stacks":
                        if self._hangs is not None:
                            self._hangs.hear(node.index, part)
                    case "durable" | "unwritten" | "snapshot_held" | "snapshot_freed" | "snapshot_unstaged":
                        events += self._checkpoints.hear(node, part, now_s)
                    case _:
                        events += attempt.hear(node.index, part, now_s)
        for event in events:
            if isinstance(event, CheckpointSaved):
                self._checkpoints.saved(event, time.monotonic())
        return events

    def _remark(self, name: str, text: str) -> None:
        """What many nodes say alike is said once."""
        if text not in self._remarked:
            self._remarked.add(text)
            self._notice(f"{name}: {text}")

    def _hear_nodes(self, attempt: Attempt) -> list[tuple[Node, list[Part]]]:
        for node in self._nodes.all:
            if node.polling is None and not node.lost:
                node.polling, node.asked_s = node.agent.poll.remote(), time.monotonic()
        under_way = {node.polling: node for node in self._nodes.all if node.polling is not None}
        if not under_way:
            return []
        ready, silent = ray.wait(list(under_way), num_returns=len(under_way), timeout=_TICK_S)
        heard = []
        for answer in ready:
            node, under_way[answer].polling = under_way[answer], None
            try:
                heard.append((node, ray.get(answer)))
            except RayTaskError as error:
                raise ClusterError(f"{node.name}: its agent failed: {reason(error)}") from None
            except RayActorError as error:
                self._lose(node, death(error), attempt)
        for answer in silent:
            node = under_way[answer]
            if time.monotonic() - node.asked_s > self.assignment.agent_timeout_s:
                node.polling, node.silent = None, True
                self._nodes.end(node)
                self._lose(
                    node, f"its agent did not answer for {self.assignment.agent_timeout_s:g} s", attempt
                )
        return heard

    def _lose(self, node: Node, how: str, attempt: Attempt) -> None:
        node.lost, now_s = how, time.monotonic()
        if self._ended is not None and self._ended.outcome is Outcome.FINISHED and self._checkpoints.busy():
            self._unsaved = self._lost_at_the_end(node, how, attempt, now_s)
        self._checkpoints.forget()
        attempt.lose_node(node.index, how, now_s, silent_s=now_s - node.asked_s)

    def _lost_at_the_end(self, node: Node, how: str, attempt: Attempt, now_s: float) -> RankLost:
        """All ranks have done their work, and the last of it was in the memory of this node."""
        return RankLost(
            attempt=attempt.number,
            rank=node.index * self.assignment.ranks_per_node,
            node=node.name,
            gpu="the whole node",
            exit_status=-signal.SIGKILL,
            step=attempt.step,
            reason="lost before the last checkpoint was on the disk",
            error=how,
            fault=Fault.NODE,
            detected_s=round(now_s - node.asked_s, 3),
        )
