"""The ranks of one attempt on one node: heard, watched, stopped. Nothing here blocks."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from orchestrator import papers
from orchestrator.agent.assignment import Assignment
from orchestrator.agent.check.evidence import Evidence
from orchestrator.agent.gather import Gather, part_of
from orchestrator.agent.hang_stacks import Frame, keep, main_thread
from orchestrator.agent.log_bound import LogBounds
from orchestrator.agent.log_reader import LogReader, line_part, tail
from orchestrator.agent.log_transfer import LogSender
from orchestrator.agent.look import Looks
from orchestrator.agent.messages import (
    EngineTold,
    LinePrinted,
    OpBuilding,
    Part,
    RankExited,
    RankMute,
    RankPhases,
    RankRaised,
    RanksOverdue,
    RanksSeen,
    RankTracked,
    Remark,
)
from orchestrator.agent.rank_errors import fault_of, first_line, one_line
from orchestrator.agent.script_parts import script_part
from orchestrator.agent.snapshots import NodeSnapshots
from orchestrator.agent.watchdog import EXIT, Watchdog
from orchestrator.errors import NodeMismatch
from orchestrator.events import Fault
from orchestrator.rank.launch.launcher import Launcher, RankProcess
from orchestrator.rank.messages import (
    EngineMade,
    FileSaved,
    Heartbeat,
    Loaded,
    MemoryPeak,
    Message,
    OpBuildBegun,
    OpBuildEnded,
    OptimizerFollowed,
    PhaseBegun,
    PhaseEnded,
    ProbeFailed,
    Saved,
    ScriptFailed,
    StacksUnavailable,
    Staged,
    StepTaken,
    TokensCounted,
    Tracked,
    TrackedElsewhere,
    Unknown,
)
from orchestrator.rank.spec import RankSpec

_TAIL_LINES = 20
_STACK_LINES = 40
# An operation that is compiled already is loaded in less.
_BUILD_TOLD_AFTER_S = 3.0
_BARS_EVERY_S = 1.0
# Lines of a rank that one poll passes on.
MOST_LINES = 100


@dataclass
class _Build:
    """An operation is loaded, and compiled, as it takes so long, once that is ``told``."""

    op: str
    since_s: float
    told: bool = False


@dataclass
class _Watched:
    """One rank of the current attempt."""

    process: RankProcess
    log: LogReader
    phase: str = "start"
    step: int = 0
    error: ScriptFailed | None = None
    status: int | None = None
    garbled_told: bool = False
    dropped: int = 0  # values that its script logged to MLflow and that had no room
    dropped_told: int = 0
    silent: bool = False  # of its steps: what tells of them has failed
    building: _Build | None = None
    bars: str = ""  # the state of progress bars that was told last, and when
    bars_s: float = -math.inf
    unknown: set[str] = field(default_factory=set)  # kinds of messages that it has been remarked for


class NodeRanks:
    """One per agent; its medians of how long things take outlive the attempts."""

    def __init__(self, assignment: Assignment) -> None:
        self.assignment = assignment
        self.sender: LogSender | None = None
        self.snapshots: NodeSnapshots | None = None
        self._ranks: list[_Watched] = []
        self.launcher: Launcher | None = None
        self._gather = Gather(assignment.ranks.per_node)
        self._remarks: list[str] = []
        self._bounds = LogBounds(assignment.launch.log_max_bytes, self._remarks.append)
        limits = assignment.recovery
        self._watchdog = Watchdog(
            limits.hang_factor, limits.hang_floor_s, limits.hang_timeout_cold_s, assignment.last_step
        )
        self._evidence = Evidence()
        self._kill_due_s: float | None = None
        self._killed_s: float | None = None
        self._last_overdue: tuple[list[int], bool] | None = None
        self._looks = Looks()
        self._kept_stacks: dict[int, list[Frame]] = {}

    @property
    def step(self) -> int:
        return max((rank.step for rank in self._ranks), default=0)

    @property
    def pids(self) -> list[int]:
        return [rank.process.pid for rank in self._alive()]

    def check_gone(self, attempt: int) -> None:
        """Raises :class:`NodeMismatch` when ranks are still alive."""
        if self._alive():
            raise NodeMismatch(f"attempt {attempt} cannot start: ranks of an older one are still alive")

    def start(self, specs: Sequence[RankSpec], launcher: Launcher) -> None:
        """Start the ranks of an attempt."""
        self._gather = Gather(self.assignment.ranks.per_node)
        self._kill_due_s = self._killed_s = None
        self._last_overdue, self._looks, self._kept_stacks = None, Looks(), {}
        self._watchdog.new_attempt()
        self._evidence = Evidence()
        self.launcher = launcher
        self._ranks = []
        for spec in specs:
            Path(spec.log_path).touch()
            if self.sender is not None:
                self.sender.follow(Path(spec.log_path).name)
            self._ranks.append(_Watched(launcher.start(spec), LogReader(Path(spec.log_path))))

    def poll(self) -> list[Part]:
        """Everything that happened since the last call."""
        now_s = time.monotonic()
        parts: list[Part] = []
        for rank in self._ranks:
            parts += self._listen(rank, now_s)
        if self.snapshots is not None and self.launcher is not None:
            parts += self.snapshots.poll(self.launcher)
        if self.sender is not None:
            ended = {rank.log.path.name for rank in self._ranks if rank.status is not None}
            parts = self.sender.parts(ended) + parts  # a log is there when an exit names it
        parts += self._bound_logs()
        parts += self._overdue(now_s) + self._stacks(now_s)
        if self._kill_due_s is not None and now_s >= self._kill_due_s:
            self.kill()
        if self._ranks:
            parts.append(RankPhases([rank.phase for rank in self._alive()]))
        return parts

    def stop(self, grace_s: float) -> None:
        """SIGTERM now, SIGKILL to what is left after ``grace_s`` (at a later poll).

        SIGTERM goes to the rank alone: its data loaders must live on while it saves.
        """
        for rank in self._alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(rank.process.pid, signal.SIGTERM)
        self._kill_due_s = time.monotonic() + grace_s

    def kill(self) -> None:
        """SIGKILL every rank and its children."""
        self._kill_due_s = None
        self._killed_s = time.monotonic()
        for rank in self._alive():
            rank.process.kill()

    def ask_stacks(self) -> None:
        """Have every rank write down where it is; a later poll has the answers."""
        alive = {rank.process.spec.rank: rank for rank in self._alive()}
        leaving = [number for number, rank in alive.items() if rank.phase == EXIT]
        self._looks.begin({number: rank.process for number, rank in alive.items()}, leaving)

    def _bound_logs(self) -> list[Part]:
        """After they have been read, so that hardly ever is something left out that nobody has seen."""
        for rank in self._ranks:
            begin = self._bounds.hold(rank.log.path)
            rank.log.skip(begin)
            if self.sender is not None:
                self.sender.skip(rank.log.path.name, begin)
        parts: list[Part] = [Remark(text) for text in self._remarks]
        self._remarks.clear()
        return parts

    def _alive(self) -> list[_Watched]:
        return [rank for rank in self._ranks if rank.status is None]

    def _overdue(self, now_s: float) -> list[Part]:
        """Ranks that make no progress, told when that changes; and those that do not die."""
        alive = self._alive()
        if self._killed_s is not None:
            if not alive or now_s - self._killed_s < self.assignment.recovery.sigkill_timeout_s:
                return []
            return [self._outlived(rank) for rank in alive]
        overdue = self._watchdog.overdue(now_s, [rank.process.spec.rank for rank in alive])
        state = [one.rank for one in overdue], len(overdue) == len(alive)
        if state == self._last_overdue:
            return []
        self._last_overdue = state
        return [RanksOverdue(state[1], overdue)]

    def _outlived(self, rank: _Watched) -> Part:
        """It is stuck in the kernel or a driver: whatever it holds, this node cannot be used any more."""
        rank.status = -signal.SIGKILL
        error = f"outlived SIGKILL by {self.assignment.recovery.sigkill_timeout_s:g} s"
        return replace(self._exit_part(rank, rank.status), error=error, fault=Fault.NODE, node_unusable=True)

    def _stacks(self, now_s: float) -> list[Part]:
        """What the ranks answered, once they have, kept beside their logs."""
        found = self._looks.poll(now_s)
        if found is None:
            return []
        texts, seen = found
        ranks = {rank.process.spec.rank: rank.process.spec for rank in self._ranks}
        paths = {rank: Path(spec.log_path).with_suffix(".stacks") for rank, spec in ranks.items()}
        if self.sender is not None:
            for path in paths.values():
                self.sender.follow(path.name)
        stacks = {rank: main_thread(text) for rank, text in texts.items()}
        news = {rank: texts[rank] for rank, stack in stacks.items() if self._kept_stacks.get(rank) != stack}
        self._kept_stacks |= stacks
        keep(news, paths, f"--- no progress; stacks of {time.strftime('%Y-%m-%d %H:%M:%S')} ---")
        answers = [
            replace(
                one,
                gpu=self.assignment.ranks.gpu_name(ranks[one.rank].local_rank),
                stack=[str(frame) for frame in stacks[one.rank]][:_STACK_LINES],
                path=str(paths[one.rank]) if texts[one.rank] else ranks[one.rank].log_path,
            )
            for one in seen
        ]
        return [RanksSeen(answers)]

    def _listen(self, rank: _Watched, now_s: float) -> list[Part]:
        if rank.status is not None:
            return []
        # The status first: whatever a rank said or printed before it died is then read for certain.
        status = rank.process.poll()
        parts: list[Part] = []
        for message in rank.process.messages():
            self._watchdog.heard(rank.process.spec.rank, message, now_s)
            if part := self._receive(rank, message, now_s):
                parts.append(part)
        parts += _long_build(rank.building, now_s)
        if rank.process.garbled and not rank.garbled_told:
            rank.garbled_told = True
            self._remarks.append(
                f"rank {rank.process.spec.rank} said something that is no message, which is left out: its"
                " script, or a child of it, writes to a descriptor that it did not open"
            )
        read_bytes = rank.log.read_bytes
        lines = rank.log.lines() if status is None else rank.log.rest()
        if rank.log.read_bytes != read_bytes:
            self._watchdog.printed(rank.process.spec.rank, now_s)
        if len(lines) > MOST_LINES:
            on_host = f" on {socket.gethostname()}" if self.sender is not None else ""
            kept = "the first and last lines of all" if self._bounds.left_out(rank.log.path) else "all"
            left_out = (
                f"… {len(lines) - MOST_LINES:,} lines left out here; {kept} are in {rank.log.path}{on_host}"
            )
            lines = [*lines[: MOST_LINES // 2], left_out, *lines[-MOST_LINES // 2 :]]
        # After an error the lines are its traceback, which comes with the exit.
        if rank.process.spec.rank == 0 and rank.error is None:
            parts += [line_part(line) for line in lines] + _bars(rank, now_s)
        if status is not None:
            rank.status = status
            if rank.dropped > rank.dropped_told:
                self._tell_dropped(rank)
            parts.append(self._exit_part(rank, status))
        return parts

    def _receive(self, rank: _Watched, message: Message | Unknown, now_s: float) -> Part | None:
        number = rank.process.spec.rank
        match message:
            case Heartbeat(phase=phase) | PhaseBegun(phase) | PhaseEnded(phase):
                rank.phase = phase
            case StepTaken(step):
                rank.step, rank.phase = step, "step"
                return self._gather.add(part_of(number, message))
            case EngineMade():
                return EngineTold(message) if number == 0 else None
            case MemoryPeak():
                return self._gather.add(part_of(number, message))
            case Saved(step=step) | Staged(step=step) | Loaded(step=step):
                rank.step = step
                if isinstance(message, Staged) and self.snapshots is not None and self.launcher is not None:
                    self.snapshots.saved(number, message, self.launcher)
                return self._gather.add(part_of(number, message))
            case ScriptFailed():
                rank.error = message
                return RankRaised(number)
            case ProbeFailed():
                return self._probe_failed(rank, message)
            case Tracked():
                return self._tracked(rank, message)
            case TrackedElsewhere(uri):
                self._remarks.append(
                    f"rank {number}'s script sends MLflow to {first_line(uri)}, an address of its own: what"
                    " it logs there is not in this run"
                )
            case OptimizerFollowed() | FileSaved() | TokensCounted():
                return script_part(number, message)
            case OpBuildBegun(op):
                rank.building = _Build(op, now_s)
            case OpBuildEnded(op, seconds):
                build, rank.building = rank.building, None
                return OpBuilding(op, seconds) if build is not None and build.told else None
            case StacksUnavailable(why):
                self._remarks.append(
                    f"rank {number} cannot tell where it is, should it hang: {first_line(why)}"
                )
            case Unknown(kind) if kind not in rank.unknown:
                rank.unknown.add(kind)
                self._remarks.append(
                    f"rank {number} said {papers.short(kind)}, which this version does not know"
                )
        return None

    def _tracked(self, rank: _Watched, tracked: Tracked) -> Part:
        rank.dropped += tracked.dropped
        if rank.dropped > 2 * rank.dropped_told:  # a flood is told of in a few lines
            self._tell_dropped(rank)
        # A script that writes to the descriptor itself may have said anything.
        metrics = {name: [p for p in points if len(p) == 3] for name, points in tracked.metrics.items()}
        return RankTracked(rank.process.spec.rank, metrics, tracked.params, tracked.tags)

    def _tell_dropped(self, rank: _Watched) -> None:
        rank.dropped_told = rank.dropped
        self._remarks.append(
            f"rank {rank.process.spec.rank}'s script logs to MLflow faster than it can be taken: so far"
            f" {rank.dropped:,} values are left out"
        )

    def _probe_failed(self, rank: _Watched, failed: ProbeFailed) -> Part | None:
        """Its steps are not waited for any more."""
        if rank.silent:
            return None
        rank.silent = True
        self._gather.excuse()
        return RankMute(rank.process.spec.rank, failed.where, first_line(failed.message))

    def _exit_part(self, rank: _Watched, status: int) -> RankExited:
        spec, error = rank.process.spec, rank.error
        killed = status == -signal.SIGKILL and self._killed_s is None
        return RankExited(
            rank=spec.rank,
            gpu=self.assignment.ranks.gpu_name(spec.local_rank),
            status=status,
            step=rank.step,
            time=time.time(),
            error=(one_line(error) if error is not None else "") or rank.process.exit_reason,
            fault=Fault.MEMORY if killed and self._evidence.memory_ran_out() else fault_of(error),
            evidence=self._evidence.of(spec.local_rank) if status else {},
            log_tail=tail(Path(spec.log_path), _TAIL_LINES) if status else [],
            log_path=spec.log_path,
        )


def _bars(rank: _Watched, now_s: float) -> list[Part]:
    """The newest state of its progress bars, now and then."""
    state = rank.log.bars()
    if state == rank.bars or (state and now_s - rank.bars_s < _BARS_EVERY_S):
        return []
    rank.bars, rank.bars_s = state, now_s
    return [LinePrinted(state, fleeting=True)]


def _long_build(build: _Build | None, now_s: float) -> list[Part]:
    if build is None or build.told or now_s - build.since_s < _BUILD_TOLD_AFTER_S:
        return []
    build.told = True
    return [OpBuilding(build.op, None)]
