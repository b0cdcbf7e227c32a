"""Servers on loopback that tests start, and that never outlive them."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil

from tests.support.processes import end

START_S = 120.0
STOP_S = 30.0


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


class Service:
    """A server in a session of its own that says what it does into a file."""

    def __init__(
        self, command: list[str], folder: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.log = folder / f"{Path(command[0]).name}.{time.monotonic_ns()}.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip

    def until(self, ready: Callable[[], bool], timeout_s: float = START_S) -> None:
        """Wait for what it is to do; it must be alive all the while."""
        deadline_s = time.monotonic() + timeout_s
        while not ready():
            assert self.process.poll() is None, f"{self.process.args} ended:\n{self.log.read_text()[-4000:]}"
            assert time.monotonic() < deadline_s, (
                f"{self.process.args} is not ready:\n{self.log.read_text()[-4000:]}"
            )
            time.sleep(0.1)

    def close(self, by: signal.Signals = signal.SIGTERM) -> None:
        """Ask it to end; what is left of it and of its children after a while is killed."""
        family: list[psutil.Process] = []
        with contextlib.suppress(psutil.Error):
            # not another of that number: nobody has waited for it yet
            server = psutil.Process(self.process.pid)
            family = [*server.children(recursive=True), server]
        if self.process.poll() is None:
            self.process.send_signal(by)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_S)
        _, left = psutil.wait_procs(family, timeout=5)
        end(*left)
        self.process.wait()


def unprivileged(user: str) -> list[str]:
    """A command's beginning by which root runs it as this user; others run it as they are."""
    if os.geteuid() != 0:
        return []
    return ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"]
