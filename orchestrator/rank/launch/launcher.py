"""Starts ranks: by exec, or by fork from a zygote. One contract: `start(spec)` and `close()`."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from typing import IO, Protocol

from orchestrator.errors import RankStartError
from orchestrator.rank.launch.fork_client import ForkingLauncher
from orchestrator.rank.launch.process import AgentEnd, RankProcess, boot_command, kill_group
from orchestrator.rank.launch.shared_zygote import SharedZygote
from orchestrator.rank.launch.zygote_owner import (
    DEFAULT_PRELOAD,
    PreloadFailedError,
    ZygoteLauncher,
    listening_zygote,
)
from orchestrator.rank.spec import RankSpec

__all__ = [
    "DEFAULT_PRELOAD",
    "ExecLauncher",
    "ForkingLauncher",
    "Launcher",
    "PreloadFailedError",
    "RankProcess",
    "RankStartError",
    "SharedZygote",
    "ZygoteLauncher",
    "listening_zygote",
]
CLOSE_TIMEOUT_S = 5.0


class Launcher(Protocol):
    def start(self, spec: RankSpec) -> RankProcess:
        """Start one rank. Raises RankStartError."""

    def close(self) -> None:
        """Kill what still runs, and let go of everything."""


class ExecLauncher:
    """Starts each rank as a new interpreter: seconds of imports, no zygote needed."""

    def __init__(self, python: str | None = None) -> None:
        self._python = python or sys.executable
        self._started: list[_ExecRank] = []

    def start(self, spec: RankSpec) -> RankProcess:
        ends = AgentEnd()
        messages_fd, lifeline_fd = ends.rank_fds
        try:
            # The environment goes the usual way; the rest not by the command line, which everybody can read.
            with open(spec.log_path, "ab") as log, _in_memory(replace(spec, env={}).to_json()) as spec_file:
                given = (messages_fd, lifeline_fd, spec_file.fileno())
                process = subprocess.Popen(
                    boot_command(self._python, "orchestrator.rank.runner", *map(str, given)),
                    env=spec.env,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=given,
                    start_new_session=True,
                )
        except OSError as error:
            ends.close()
            raise RankStartError(
                f"rank {spec.rank} could not be started: {error}; check the interpreter {self._python!r} "
                f"and the folder of the log {spec.log_path!r}"
            ) from error
        finally:
            ends.close_rank_fds()
        rank = _ExecRank(spec, process, ends)
        self._started = [*(other for other in self._started if not other.closed), rank]
        return rank

    def close(self) -> None:
        for rank in self._started:
            rank.kill()
        for rank in self._started:
            rank.wait(CLOSE_TIMEOUT_S)
            rank.close()
        self._started.clear()


def _in_memory(text: str) -> IO[bytes]:
    """An open file without a name that reads so, from its beginning."""
    file = os.fdopen(os.memfd_create("rank"), "w+b")
    file.write(text.encode())
    file.seek(0)
    return file


class _ExecRank(RankProcess):
    def __init__(self, spec: RankSpec, process: subprocess.Popen[bytes], agent_end: AgentEnd) -> None:
        super().__init__(spec, process.pid, agent_end)
        self._process = process

    def _ended(self) -> int | None:
        # Kill what it left behind before it is reaped: until then the group's number cannot be reused.
        try:
            if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                return None
        except ChildProcessError:  # somebody else in this process waits for any child
            return self._process.poll()
        kill_group(self.pid)
        return self._process.wait()
