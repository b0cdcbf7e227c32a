"""The node agent: owns its node's GPUs, starts and watches its ranks, speaks for them.

Written without Ray, so that a test can hold one in its hand; ``group.py`` makes it an actor.
Nothing here blocks: the driver polls, and what is due (SIGKILL after SIGTERM) happens then.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.cluster.assignment import Assignment, base_environment, rank_specs
from orchestrator.cluster.gather_logs import LogSender, sender_of
from orchestrator.cluster.launching import WarmZygotes, as_important_as_others, forking_launcher, standing_in
from orchestrator.cluster.logs import LogReader, line_part, tail
from orchestrator.cluster.merge import Gather, Part, checkpoint_part, step_part
from orchestrator.cluster.on_node import differences, interfaces, leave_mark, on_node, remove_mark, sees_mark
from orchestrator.cluster.sampling import Sampler
from orchestrator.errors import NodeMismatch
from orchestrator.hardware import local_gpus
from orchestrator.rank.launcher import ExecLauncher, ForkingLauncher, Launcher, RankProcess

AGENT = "orchestrator agent"
_TAIL_LINES = 20
# Lines of a rank that one poll passes on.
MOST_LINES = 100


@dataclass
class _Watched:
    """One rank of the current attempt."""

    process: RankProcess
    log: LogReader
    phase: str = "start"
    step: int = 0
    error: dict[str, Any] = field(default_factory=dict)
    status: int | None = None


class NodeAgent:
    """One per node of the run."""

    def __init__(self, assignment: Assignment, node_index: int, warm: WarmZygotes | None = None) -> None:
        as_important_as_others()
        self.assignment = assignment
        self.node_index = node_index
        self._warm = warm
        self._zygote_remark: str | None = None
        self._since_unix_s = time.time()
        self._launcher: Launcher | None = None
        self._ranks: list[_Watched] = []
        self._gather = Gather(assignment.ranks_per_node)
        self._sampler = Sampler(assignment.sample_every_s, [gpu.uuid for gpu in local_gpus()])
        self._kill_due_s: float | None = None
        self._sender: LogSender | None = None

    def describe(self) -> dict[str, Any]:
        """Who this node is, and what about it differs from the plan; the zygote imports meanwhile."""
        told: dict[str, Any] = {"host": socket.gethostname(), "address": _address()}
        try:
            self.assignment = on_node(self.assignment, os.getcwd(), interfaces(), told["address"])
        except ValueError as error:
            return {**told, "problems": [str(error)]}
        self._sender = sender_of(self.assignment)
        if self._sender is not None:
            self._sender.follow(self._zygote_log().name)
        self._ready_launcher()
        try:
            problems = differences(self.assignment)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is said by name on the driver
            problems = [str(error)]
        return {**told, "problems": problems, "remark": self._zygote_remark}

    def report(self) -> dict[str, Any]:
        """The run, for those who look at the cluster; the fields of :class:`~orchestrator.cluster.overview.LiveRun`."""
        told = self.assignment
        return {
            "name": told.run,
            "nodes": told.world_size // told.ranks_per_node,
            "ranks": told.world_size,
            "unit": told.unit,
            "usd_per_gpu_hour": told.usd_per_gpu_hour,
            "since_unix_s": self._since_unix_s,
            "step": max((rank.step for rank in self._ranks), default=0),
            "run_dir": told.run_dir,
        }

    def mark_checkpoints(self) -> str:
        """Leave a mark in the checkpoint directory, for the other nodes to look for."""
        return leave_mark(Path(self.assignment.checkpoint_dir))

    def sees_checkpoints(self, mark: str) -> bool:
        """Whether the checkpoint directory here is the one that has the mark."""
        return sees_mark(Path(self.assignment.checkpoint_dir), mark)

    def unmark_checkpoints(self, mark: str) -> None:
        """Take the mark away again."""
        remove_mark(Path(self.assignment.checkpoint_dir), mark)

    def free_port(self) -> int:
        """A TCP port that was free a moment ago, for rank 0's rendezvous."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            return int(probe.getsockname()[1])

    def start(self, attempt: int, master_addr: str, master_port: int) -> None:
        """Start this node's ranks of an attempt. Raises :class:`NodeMismatch` when ranks are still alive."""
        if any(rank.status is None for rank in self._ranks):
            raise NodeMismatch(f"attempt {attempt} can not start: ranks of an older one are still alive")
        specs = rank_specs(self.assignment, self.node_index, attempt, master_addr, master_port)
        self._gather = Gather(self.assignment.ranks_per_node)
        self._kill_due_s = None
        launcher = self._launcher = self._standing(self._ready_launcher())
        self._ranks = []
        for spec in specs:
            Path(spec.log_path).touch()
            if self._sender is not None:
                self._sender.follow(Path(spec.log_path).name)
            self._ranks.append(_Watched(launcher.start(spec), LogReader(Path(spec.log_path))))

    def poll(self) -> list[Part]:
        """Everything that happened on this node since the last call."""
        parts: list[Part] = []
        for rank in self._ranks:
            parts += self._listen(rank)
        if self._sender is not None:
            ended = {rank.log.path.name for rank in self._ranks if rank.status is not None}
            parts = self._sender.parts(ended) + parts  # a log is there when an exit names it
        sample = self._sampler.sample()
        if sample is not None:
            parts.append({"kind": "sample", "metrics": sample})
        if self._kill_due_s is not None and time.monotonic() >= self._kill_due_s:
            self.kill()
        if self._ranks:
            parts.append({"kind": "phases", "phases": [r.phase for r in self._ranks if r.status is None]})
        return parts

    def stop(self, grace_s: float) -> None:
        """SIGTERM now, SIGKILL to what is left after ``grace_s`` (at a later poll).

        SIGTERM goes to the rank alone: its data loaders must live on while it saves.
        """
        for rank in self._ranks:
            if rank.status is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(rank.process.pid, signal.SIGTERM)
        self._kill_due_s = time.monotonic() + grace_s

    def kill(self) -> None:
        """SIGKILL every rank and its children."""
        self._kill_due_s = None
        for rank in self._ranks:
            if rank.status is None:
                rank.process.kill()

    def close(self) -> None:
        """Kill ranks, end the zygote."""
        self.kill()
        if self._launcher is not None:
            self._launcher.close()
            self._launcher = None

    def _zygote_log(self) -> Path:
        return Path(self.assignment.run_dir) / "logs" / f"zygote.node-{self.node_index}.log"

    def _listen(self, rank: _Watched) -> list[Part]:
        if rank.status is not None:
            return []
        # The status first: whatever a rank said or printed before it died is then read for certain.
        status = rank.process.poll()
        parts = [part for message in rank.process.messages() if (part := self._hear(rank, message))]
        lines = rank.log.lines() if status is None else rank.log.rest()
        if len(lines) > MOST_LINES:
            on_host = f" on {socket.gethostname()}" if self._sender is not None else ""
            left_out = f"… {len(lines) - MOST_LINES:,} lines left out here; all are in {rank.log.path}{on_host}"
            lines = [*lines[: MOST_LINES // 2], left_out, *lines[-MOST_LINES // 2 :]]
        # After an error the lines are its traceback, which comes with the exit.
        if rank.process.spec.rank == 0 and not rank.error:
            parts += [line_part(line) for line in lines]
        if status is not None:
            rank.status = status
            parts.append(self._exit_part(rank, status))
        return parts

    def _hear(self, rank: _Watched, message: dict[str, Any]) -> Part | None:
        match message:
            case {"kind": "heartbeat" | "phase", "phase": str(phase)}:
                rank.phase = phase
            case {"kind": "step", "step": int(step)}:
                rank.step, rank.phase = step, "step"
                return self._gather.add(step_part(message))
            case {"kind": "save" | "load", "edge": "end", "ok": True, "step": int(step)}:
                rank.step = step
                return self._gather.add(checkpoint_part(message))
            case {"kind": "error"}:
                rank.error = message
                return {"kind": "error"}
        return None

    def _exit_part(self, rank: _Watched, status: int) -> Part:
        spec = rank.process.spec
        return {
            "kind": "exit",
            "rank": spec.rank,
            "gpu": self._gpu_name(spec.local_rank),
            "status": status,
            "step": rank.step,
            "time": time.time(),
            "error": _one_line(rank.error) or rank.process.loss,
            "log_tail": tail(Path(spec.log_path), _TAIL_LINES) if status else [],
            "log_path": spec.log_path,
        }

    def _gpu_name(self, local_rank: int) -> str:
        return f"GPU {local_rank}" if self.assignment.device == "cuda" else f"CPU core {local_rank}"

    def _standing(self, launcher: Launcher) -> Launcher:
        return standing_in(launcher, base_environment(self.assignment), str(self._zygote_log()))

    def _ready_launcher(self) -> Launcher:
        """The launcher of this node; a zygote that died is replaced."""
        if isinstance(self._launcher, ForkingLauncher) and not self._launcher.alive():
            self._launcher.close()
            self._launcher = None
        if self._launcher is None:
            if self.assignment.zygote:
                environment, log_path = base_environment(self.assignment), str(self._zygote_log())
                self._launcher, self._zygote_remark = forking_launcher(environment, self._warm, log_path)
            else:
                self._launcher = ExecLauncher()
        return self._launcher


def _address() -> str:
    """The address under which Ray knows this node; loopback outside Ray."""
    import ray

    return str(ray.util.get_node_ip_address()) if ray.is_initialized() else "127.0.0.1"


def _one_line(error: dict[str, Any]) -> str | None:
    if not error:
        return None
    message = str(error.get("message", "")).strip().splitlines()
    return f"{error.get('type', 'error')}: {message[0] if message else ''}".rstrip(": ")
