"""Where benchmarks start their commands: a home of its own, one environment for all, nothing left behind."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

BIN = Path(sys.executable).parent
MARK = "BENCHMARK_GROUND"
KEPT = ("PATH", "LANG", "LD_LIBRARY_PATH", "CUDA_HOME", "CUDA_VISIBLE_DEVICES", "VIRTUAL_ENV")
TIMEOUT_S, END_TIMEOUT_S, POLL_S = 600.0, 30.0, 0.02
REST_PERCENT, REST_TIMEOUT_S = 10.0, 10.0


@dataclass(frozen=True)
class Ground:
    """A folder and an environment. Whatever is started here carries the ground's mark in its environment."""

    folder: Path
    env: dict[str, str]

    @property
    def folder_inside(self) -> Path:
        """The folder as the commands see it."""
        return self.folder

    def popen(self, command: Sequence[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
        """Start a command, the leader of a process group, in the ground's folder and environment."""
        return subprocess.Popen(
            list(command),
            cwd=self.folder,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )

    def run(self, command: Sequence[str]) -> float:
        """Run a command to its end; returns when it was started, in Unix seconds. Raises RuntimeError."""
        with self.started(command) as (process, begin_unix_s):
            try:
                status = process.wait(TIMEOUT_S)
            except subprocess.TimeoutExpired:
                raise RuntimeError(
                    f"{' '.join(command)} did not end in {TIMEOUT_S:g} s: {self.said()}"
                ) from None
        if status:
            raise RuntimeError(f"{' '.join(command)} ended with {status}: {self.said()}")
        return begin_unix_s

    @contextmanager
    def started(
        self, command: Sequence[str], log_name: str = "command.log"
    ) -> Iterator[tuple[subprocess.Popen[bytes], float]]:
        """A command under way; at the end it is stopped as Ctrl-C would."""
        with (self.folder / log_name).open("wb") as log:
            begin_unix_s = time.time()
            process = self.popen(command, log)
        try:
            yield process, begin_unix_s
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGINT)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(END_TIMEOUT_S)
            if process.poll() is None:
                process.kill()
                process.wait()

    def said(self, log_name: str = "command.log", most: int | None = 3000) -> str:
        """The last characters that a command has printed so far, `most` of them or all."""
        text = (self.folder / log_name).read_text(errors="replace")
        return text if most is None else text[-most:]

    def processes(self) -> list[psutil.Process]:
        """All that run with this ground's mark, whoever started them."""
        mine = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get(MARK) == self.env[MARK] and process.status() != psutil.STATUS_ZOMBIE:
                    mine.append(process)
        return mine

    def ended(self) -> None:
        """Wait until nothing that was started here runs any more."""
        wait_for(lambda: not self.processes(), "the end of all that was started", END_TIMEOUT_S)

    def rest(self) -> None:
        """Wait until the processors have had little to do for half a second; not for ever."""
        deadline = time.monotonic() + REST_TIMEOUT_S
        while psutil.cpu_percent(interval=0.5) > REST_PERCENT and time.monotonic() < deadline:
            pass

    def clear(self) -> None:
        """Kill what is left of the ground's processes, each by its number."""
        while mine := self.processes():
            for process in mine:
                with suppress(psutil.Error):
                    process.kill()
            psutil.wait_procs(mine, END_TIMEOUT_S)


@contextmanager
def ground(threads: int = 1, device: str = "cpu") -> Iterator[Ground]:
    """A ground whose processes and files are gone at the end. `threads` are those of OpenMP in each rank."""
    folder = Path(tempfile.mkdtemp(prefix="bench-"))  # short: Ray has its sockets below it
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    env = kept | {
        "PATH": f"{BIN}{os.pathsep}{kept.get('PATH', os.defpath)}",
        "HOME": str(folder / "home"),
        "RAY_TMPDIR": str(folder / "ray"),
        "RAY_USAGE_STATS_ENABLED": "0",
        # Every Ray here asks for a token, as the one that a plain ray.init starts does.
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "DS_ACCELERATOR": device,
        "OMP_NUM_THREADS": str(threads),
        MARK: secrets.token_hex(8),
    }
    (folder / "home").mkdir()
    (folder / "ray").mkdir()
    here = Ground(folder, env)
    try:
        yield here
    finally:
        here.clear()
        shutil.rmtree(folder, ignore_errors=True)


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float = TIMEOUT_S) -> None:
    """Look every 20 ms. Raises RuntimeError when it does not come true."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what} did not come within {timeout_s:g} s")
        time.sleep(POLL_S)
