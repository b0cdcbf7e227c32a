"""The worker group on Ray: one placement group bundle and one agent actor per node."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from orchestrator.agent.assignment import Assignment
from orchestrator.agent.launchers import WarmZygotes
from orchestrator.agent.log_bound import LogBounds
from orchestrator.agent.log_transfer import LogWriter
from orchestrator.agent.messages import (
    EngineTold,
    FromWriter,
    LogGrown,
    OfRanks,
    Part,
    RanksOverdue,
    RanksSeen,
    Remark,
    ScriptPreloaded,
    Unknown,
    decode,
)
from orchestrator.agent.resumed import Origin
from orchestrator.checkpoint.commits import Earlier, Restore
from orchestrator.cluster.attempt import Attempt
from orchestrator.cluster.checkpoints import ALL_ATTEMPTS, Checkpoints
from orchestrator.cluster.domains import PlacementRules
from orchestrator.cluster.engine_values import planned_values
from orchestrator.cluster.hangs import HangWatch
from orchestrator.cluster.nodes import NO_RULES, Node, Nodes
from orchestrator.cluster.ray_errors import death, error_of, reason
from orchestrator.cluster.remarks import Remarks
from orchestrator.cluster.script_saves import ScriptSaves
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


@dataclass
class UnderWay:
    """All that a group knows of one attempt. It goes with the attempt: the next one begins with nothing of
    it."""

    attempt: Attempt
    hangs: HangWatch
    starting: list[Any]  # answers of agents that have not started their ranks yet
    start_deadline_s: float
    stopped: bool = False  # what is left of its ranks has been told to end
    overdue: dict[int, RanksOverdue] = field(
        default_factory=dict
    )  # by node: which of its ranks make no progress
    ended: AttemptEnded | None = None  # it went well, and is told when all that was staged is committed
    unsaved: RankLost | None = None  # unless a node is lost before that


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
        rules: PlacementRules = NO_RULES,
        earlier: Earlier | None = None,
    ) -> None:
        self.assignment = assignment
        self._node_count = nodes
        self._start_timeout_s = start_timeout_s
        again_s = wait_for_resources_s if wait_for_node_s is None else wait_for_node_s
        self._nodes = Nodes(
            assignment, nodes, wait_for_resources_s, again_s, start_timeout_s, notice, lent, taken_up, rules
        )
        self._checkpoints = Checkpoints(assignment, self._nodes, earlier)
        self._script_saves = ScriptSaves(assignment, self._nodes)
        self._deepspeed = False  # a rank has made an engine
        self._remarks = Remarks(notice)
        bounds = LogBounds(
            assignment.launch.log_max_bytes, lambda text: self._remarks.say(text, "this machine")
        )
        self._logs = LogWriter(Path(assignment.places.run_dir) / "logs", bounds)
        self._now: UnderWay | None = None
        self._events: list[Event] = []  # of between two attempts
        self._tidy_below = ALL_ATTEMPTS

    def acquire(self, cancelled: Callable[[], bool]) -> ResourcesGranted:
        """Hold all nodes, start an agent on each and compare it with the plan."""
        return self._nodes.acquire(cancelled)

    def replace_lost(self, attempt: int) -> list[str]:
        """Hold others in place of nodes that were lost; the names of those that are new to the run."""
        for broken in self._now.attempt.broken if self._now else ():
            self._nodes.quarantine(broken)
        return self._nodes.replace_lost(attempt)

    def start(
        self,
        attempt: int,
        restore_before: int | None = None,
        skip_batches: Sequence[int] = (),
        put_aside: str = "",
    ) -> AttemptStarted:
        """Start a generation of ranks; a node whose agent was lost gets a new one first."""
        self.replace_lost(attempt)
        self._events += self._nodes.wait_for_space()
        restore = self._restore(attempt, restore_before)
        head = self._nodes.all[0]
        port = self._nodes.ask(head, "free_port")
        # One node needs no network: loopback works whatever its interfaces and firewall are.
        address = "127.0.0.1" if self._node_count == 1 else head.address
        names = [node.name for node in self._nodes.all]
        ranks, limits = self.assignment.ranks, self.assignment.recovery
        stragglers = StragglerWatch(limits.straggler_factor, limits.straggler_steps, limits.straggler_after_s)
        if put_aside:
            self._events += self._script_saves.put_aside(put_aside)
        origin, has_earlier = self._origin(attempt, restore, restore_before)
        program = self.assignment.program
        planned = planned_values(program.deepspeed, ranks.world_size)
        self._now = UnderWay(
            Attempt(
                attempt, names, ranks.per_node, ranks.gpu_name, stragglers, planned, program.deepspeed_assumed
            ),
            HangWatch(
                attempt,
                names,
                limits.hang_evidence_s,
                limits.hang_after_s,
                lambda: self._nodes.broadcast("ask_stacks"),
            ),
            starting=self._nodes.broadcast("start", origin, address, port, list(skip_batches)),
            start_deadline_s=time.monotonic() + self._start_timeout_s,
        )
        source = restore.source if restore else None
        alone = restore is not None and self._checkpoints.is_alone(restore)
        return AttemptStarted(
            attempt,
            address,
            port,
            ranks.world_size,
            origin.step,
            source,
            alone,
            origin.checkpoint,
            has_earlier,
        )

    def poll(self) -> list[Event]:
        """What the nodes said since the last call; waits a tick at most."""
        now = self._now
        if now is None or (now.attempt.ended and now.ended is None):
            return []
        events, self._events = self._events, []
        events += self._look_for_drains(now.attempt)
        if not self._all_started(now):
            return events + self._settled(now)
        events += self._receive(now)
        now_s = time.monotonic()
        events += self._look_into_hang(now, now_s)
        if not now.stopped and now.attempt.must_stop(now_s):
            now.stopped = True
            self._nodes.broadcast("stop", self.assignment.recovery.kill_grace_s)
        return events + self._checkpoints.poll(now_s) + self._settled(now)

    def abort(self) -> None:
        """End the attempt as failed, for a reason that the caller knows."""
        if self._now is not None and not self._now.attempt.ended:
            self._now.attempt.fail()
            self._now.stopped = True
            self._nodes.broadcast("kill")

    def quarantine(self, node: str) -> None:
        """Take no more of this node."""
        self._nodes.quarantine(node)

    def stop(self, grace_s: float) -> None:
        """Ask every rank to end, and kill those that are left after ``grace_s``."""
        if self._now is not None:
            if self._now.starting:  # no rank has begun, so there is nothing to wait for
                self.kill()
                return
            self._now.attempt.stopping = True
        self._nodes.broadcast("stop", grace_s)

    def kill(self) -> None:
        """Kill without asking. The agents die, and their ranks die with them, whatever they are doing."""
        if self._now is not None:
            self._now.attempt.stopping = True
        self._checkpoints.forget()
        for node in self._nodes.all:
            ray.kill(node.agent)

    def close(self) -> None:
        """Leave nothing behind: no rank, zygote, agent or placement group."""
        self._nodes.close()

    def _restore(self, attempt: int, before: int | None) -> Restore | None:
        """Choose what to go on from and have it laid out."""
        if not self.assignment.snapshot.enabled:
            return None
        if self._now is not None:
            self._checkpoints.snapshots.heard(self._now.attempt.number, self._now.attempt.step)
        restore = self._checkpoints.choose(before, _FIRST_NAME_S, self._listen_between)
        if attempt > 1:
            self._checkpoints.clear_way(restore)
        self._events += self._checkpoints.take_events()
        self._checkpoints.lay_out(restore)
        self._checkpoints.snapshots.started(attempt, restore)
        self._checkpoints.tidy(self._tidy_below)  # only now it is known which files are still on their way
        self._tidy_below = attempt + 1
        return restore

    def _origin(self, attempt: int, restore: Restore | None, before: int | None) -> tuple[Origin, bool]:
        """From where the script is told to go on: the checkpoint that was chosen or, of a script that has
        made no engine of DeepSpeed's, what it has saved by itself; and whether it has saved one before
        that."""
        if restore is not None:
            return Origin(attempt, restore.save_dir, restore.step), False
        if attempt == 1 or self._deepspeed or not self.assignment.snapshot.enabled:
            return Origin(attempt), False
        newest = self._script_saves.newest(before)
        self._events += newest.put_aside
        return Origin(attempt, newest.path), newest.has_earlier

    def _listen_between(self) -> list[Event]:
        """Hear the writers while no rank runs."""
        events: list[Event] = []
        for node in self._nodes.all:
            for part in decode(self._nodes.ask(node, "poll")):
                if isinstance(part, LogGrown):
                    self._logs.keep(part)
                elif isinstance(part, FromWriter):
                    events += self._checkpoints.receive(node, part, time.monotonic())
        time.sleep(_TICK_S)
        return events + self._checkpoints.poll(time.monotonic())

    def _settled(self, now: UnderWay) -> list[Event]:
        """The end of an attempt that went well waits until what was staged is committed."""
        events: list[Event] = []
        attempt = now.attempt
        for event in attempt.settle(time.monotonic()):
            if isinstance(event, AttemptEnded) and event.outcome is not Outcome.FAILED:
                now.ended = event
            else:
                events.append(event)
        if now.unsaved is not None:
            events += [now.unsaved, AttemptEnded(attempt.number, Outcome.FAILED, attempt.step)]
            now.ended = now.unsaved = None
        if now.ended is not None and not self._checkpoints.busy():
            self._checkpoints.tidy_up(now.ended.outcome is Outcome.FINISHED)
            events.append(now.ended)
            now.ended = None
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

    def _look_into_hang(self, now: UnderWay, now_s: float) -> list[Event]:
        """Ranks wait for each other: it is looked into when all that are left make no progress."""
        attempt = now.attempt
        if attempt.failing or attempt.stopping:
            return []
        events = now.hangs.poll(now.overdue, attempt.step, now_s, attempt.left)
        for cause in events:
            if isinstance(cause, RankLost):
                attempt.blame(cause, now_s)
                now.stopped = True
                self._nodes.broadcast("kill")
        return [event for event in events if not isinstance(event, RankLost)]

    def _all_started(self, now: UnderWay) -> bool:
        if not now.starting:
            return True
        ready, waiting = ray.wait(now.starting, num_returns=len(now.starting), timeout=_TICK_S)
        failed = next((error for answer in ready if (error := error_of(answer)) is not None), None)
        if isinstance(failed, RayTaskError):
            raise ClusterError(f"a node could not start its ranks: {reason(failed)}")
        if waiting and time.monotonic() > now.start_deadline_s and not failed:
            raise ClusterError(f"ranks did not start within launch.start_timeout_s={self._start_timeout_s:g}")
        if waiting and not failed:
            return False
        now.starting = []
        return True

    def _receive(self, now: UnderWay) -> list[Event]:
        events: list[Event] = []
        for node, parts in self._poll_nodes(now):
            for part in parts:
                events += self._dispatch(node, part, now)
        for event in events:
            if isinstance(event, CheckpointSaved):
                self._checkpoints.saved(event, time.monotonic())
        return events

    def _dispatch(self, node: Node, part: Part | Unknown, now: UnderWay) -> list[Event]:
        if isinstance(part, OfRanks):
            self._deepspeed = self._deepspeed or isinstance(part, EngineTold)
            return now.attempt.receive(node.index, part, time.monotonic())
        if isinstance(part, FromWriter):
            return self._checkpoints.receive(node, part, time.monotonic())
        match part:
            case LogGrown():
                self._logs.keep(part)
            case Remark(text):
                self._remarks.say(text, node.name)
            case ScriptPreloaded():
                self._remarks.preloaded(part)
            case RanksOverdue():
                now.overdue[node.index] = part
            case RanksSeen():
                now.hangs.receive(node.index, part)
            case Unknown(kind):
                self._remarks.say(f"its agent said {kind!r}, which this version does not know", node.name)
        return []

    def _poll_nodes(self, now: UnderWay) -> list[tuple[Node, list[Part | Unknown]]]:
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
                heard.append((node, decode(ray.get(answer))))
            except RayTaskError as error:
                raise ClusterError(f"{node.name}: its agent failed: {reason(error)}") from None
            except RayActorError as error:
                self._lose(node, death(error), now)
        for answer in silent:
            node = under_way[answer]
            most_s = self.assignment.recovery.agent_timeout_s
            if time.monotonic() - node.asked_s > most_s:
                node.polling, node.silent = None, True
                self._nodes.end(node)
                self._lose(node, f"its agent did not answer for {most_s:g} s", now)
        return heard

    def _lose(self, node: Node, how: str, now: UnderWay) -> None:
        node.lost, now_s = how, time.monotonic()
        if now.ended is not None and now.ended.outcome is Outcome.FINISHED and self._checkpoints.busy():
            now.unsaved = self._lost_at_the_end(node, how, now.attempt, now_s)
        self._checkpoints.forget()
        now.attempt.lose_node(node.index, how, now_s, silent_s=now_s - node.asked_s)

    def _lost_at_the_end(self, node: Node, how: str, attempt: Attempt, now_s: float) -> RankLost:
        """All ranks have done their work, and the last of it was in the memory of this node."""
        return RankLost(
            attempt=attempt.number,
            rank=node.index * self.assignment.ranks.per_node,
            node=node.name,
            gpu="the whole node",
            exit_status=-signal.SIGKILL,
            step=attempt.step,
            reason="lost before the last checkpoint was on the disk",
            error=how,
            fault=Fault.NODE,
            detected_s=round(now_s - node.asked_s, 3),
        )
