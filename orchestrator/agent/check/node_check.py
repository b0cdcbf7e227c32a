"""A check of one node: started there by the driver, asked through Ray, gone when the check has ended."""

from __future__ import annotations

import fcntl
import os
import platform
import socket
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from orchestrator.agent import facts
from orchestrator.agent.check import counters, gpu_health, storage
from orchestrator.agent.check.programs import Program, ProgramError, at_once
from orchestrator.check.reports import Figure, NodeReport, What, encode
from orchestrator.config.hardware import local_gpus
from orchestrator.files import open_no_link
from orchestrator.rank.check.messages import Exchange, Exchanged, Measure, Measured

_PACKAGES = ("torch", "deepspeed", "ray", "numpy", "orchestrator")
_SET_FOR_ALL = ("NCCL_", "GLOO_", "FI_", "CUDA_DEVICE_ORDER")


@dataclass(frozen=True)
class Asked:
    """What is measured: for how long each figure, and in which folders."""

    gpu: bool
    seconds: float
    folder: str
    staging: str
    timeout_s: float


class NodeCheck:
    """Measures the node that it runs on. Only one of them at a time: two would slow each other, and both
    would call the node bad."""

    def __init__(self, asked: Asked, address: str) -> None:
        self._asked, self._address = asked, address
        self._programs: list[Program] = []
        self._store_port = 0
        self._lock: IO[str] | None = None

    def hold(self) -> str:
        """Take the node for this check; who has it where another does, "" where it is taken."""
        path = Path(tempfile.gettempdir()) / f"orchestrator-check-{os.geteuid()}"
        try:
            self._lock = open_no_link(path, "a+")
        except OSError as error:
            return f"whoever made {path} ({error.strerror})"
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.seek(0)
            return self._lock.read().strip() or "another process"
        self._lock.truncate(0)
        self._lock.write(f"process {os.getpid()}")
        self._lock.flush()
        return ""

    def clock(self) -> float:
        """Now, by this node's clock."""
        return time.time()

    def measure(self) -> dict[str, Any]:
        """Everything that needs no other node: a :class:`NodeReport` as plain values."""
        figures: list[Figure] = []
        failed: list[tuple[What, str]] = []
        self._try(
            What.DISK,
            lambda: storage.disk(storage.there(self._asked.folder), self._asked.seconds),
            figures,
            failed,
        )
        self._try(
            What.SHM,
            lambda: storage.shared_memory(storage.there(self._asked.staging), self._asked.seconds),
            figures,
            failed,
        )
        periods = counters.Periods()
        versions: dict[str, str] = {}
        self._try(What.MATMUL, lambda: self._computed(versions), figures, failed)
        figures.append(Figure(What.THROTTLED, periods.throttled()))
        figures += counters.link_downs()
        health, driver = gpu_health.health(counters.kernel_log())
        known = {**_facts(), **versions, **driver}
        return encode(NodeReport(socket.gethostname(), (*figures, *health), known, tuple(failed)))

    def _try(
        self,
        what: What,
        look: Callable[[], list[Figure]],
        figures: list[Figure],
        failed: list[tuple[What, str]],
    ) -> None:
        try:
            figures += look()
        except (OSError, ProgramError) as error:
            failed.append((what, str(error)))

    def _computed(self, versions: dict[str, str]) -> list[Figure]:
        """Start the processes that measure, and have them do so: all GPUs at once, as in training."""
        gpus: list[int | None] = list(range(len(local_gpus()))) if self._asked.gpu else [None]
        if not gpus:
            raise ProgramError("no GPU is visible here, and the cluster's configuration has some")
        self._programs = [Program(self._address, gpu) for gpu in gpus]
        ready = at_once(self._programs, lambda program: program.ready())
        self._store_port = ready[0].port
        versions |= ready[0].versions
        seconds = self._asked.seconds
        measured = at_once(self._programs, lambda program: program.ask(Measure(seconds), Measured))
        figures = []
        for gpu, one in zip(gpus, measured, strict=True):
            figures += [
                Figure(What.MATMUL, one.matmul_flops_per_s, gpu),
                Figure(What.MEMORY, one.memory_bytes_per_s, gpu),
            ]
            figures += [Figure(What.GIVEN, one.given)] if gpu is None else []
        if len(gpus) > 1:
            rate = self.exchange(["all_reduce", "inside", self._address, self._store_port, 0, 1])
            figures.append(Figure(What.ALL_REDUCE, rate))
        return figures

    def store_port(self) -> int:
        """Where other nodes find this one's first process; 0 where it has none."""
        return self._store_port

    def exchange(self, told: list[Any]) -> float:
        """With other nodes: the way, a name, the first node's address and port, which node of the group this
        is, and how many there are. Bytes a second, 0 where nothing came through."""
        way, name, host, port, place, nodes = told
        own = len(self._programs)
        if not own:
            return 0.0
        limit_s = self._asked.timeout_s / 4

        def ask(program: Program) -> float:
            rank = place * own + self._programs.index(program)
            message = Exchange(way, name, host, port, rank, nodes * own, own, self._asked.seconds, limit_s)
            try:
                return program.ask(message, Exchanged).bytes_per_s
            except ProgramError:
                return 0.0

        return min(at_once(self._programs, ask))

    def close(self) -> None:
        """Leave no process."""
        for program in self._programs:
            program.close()
        if self._lock is not None:
            self._lock.close()


def _facts() -> dict[str, str]:
    """Versions and settings that have to be the same on all nodes of a run."""
    found = {f"package {name}": facts.package_version(name) for name in _PACKAGES}
    found["python"] = platform.python_version()
    found["orchestrator sha256"] = facts.own_sha256()
    return found | {
        name: value
        for name, value in os.environ.items()
        if name.startswith(_SET_FOR_ALL) and "IFNAME" not in name
    }
