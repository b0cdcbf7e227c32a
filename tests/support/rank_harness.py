"""What the tests of `orchestrator.rank` share: environments, scripts as text, and waiting."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from orchestrator.rank.launch.launcher import Launcher, RankProcess, ZygoteLauncher
from orchestrator.rank.messages import Message, Unknown
from orchestrator.rank.spec import RankSpec
from orchestrator.vocabulary import ProgramKind
from tests.support.ports import free_port
from tests.support.texts import text_so_far

TIMEOUT_S = 60.0
_Kind = TypeVar("_Kind")


def environment(**more: str) -> dict[str, str]:
    """A small complete environment: nothing of the developer's shell can make a test pass."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
    return {**kept, "LANG": "C.UTF-8", "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "2", **more}


def wait_until(condition: Callable[[], bool], timeout_s: float = TIMEOUT_S) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def is_gone(pid: int) -> bool:
    """Whether a process has ended; one that only waits for its parent to ask counts as ended."""
    try:
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


def shared_owner(path: Path, preload: Sequence[str], **env: str) -> ZygoteLauncher:
    """The owner of a zygote that others reach at `path`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()
        return ZygoteLauncher(environment(**env), preload, listener=listener)


def _hear_signals() -> None:
    """As from a terminal: a shell that starts the tests in the background has them ignore these."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)


@dataclass
class Outcome:
    status: int | None
    output: str
    messages: list[Message | Unknown]

    def of(self, kind: type[_Kind]) -> list[_Kind]:
        return [message for message in self.messages if isinstance(message, kind)]


class Bench:
    """Starts scripts as ranks in a folder of the test's own."""

    def __init__(self, launcher: Launcher, folder: Path, env: dict[str, str]) -> None:
        self.launcher = launcher
        self.folder = folder
        self.env = env
        self.started: list[RankProcess] = []

    def write(self, text: str, name: str = "script.py") -> str:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return str(path)

    def spec(
        self,
        script: str,
        *args: str,
        rank: int = 0,
        world_size: int = 1,
        stop_signals: Sequence[int] = (),
        kind: ProgramKind = ProgramKind.SCRIPT,
        module: str | None = None,
        **env: str,
    ) -> RankSpec:
        return RankSpec(
            rank=rank,
            local_rank=rank,
            world_size=world_size,
            title=f"orchestrator rank {rank}/{world_size} test-run",
            script=script,
            args=list(args),
            cwd=str(self.folder),
            env={**self.env, **env},
            log_path=str(self.folder / f"rank{rank}.log"),
            stop_signals=list(stop_signals),
            kind=kind.value,
            module=module,
        )

    def start(self, script: str, *args: str, **about: Any) -> RankProcess:
        rank = self.launcher.start(self.spec(script, *args, **about))
        self.started.append(rank)
        return rank

    def start_world(self, script: str, *args: str, world_size: int = 2, **env: str) -> list[RankProcess]:
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(world_size)}
        return [
            self.start(
                script,
                *args,
                rank=rank,
                world_size=world_size,
                **{**where, "RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(world_size)},
                **env,
            )
            for rank in range(world_size)
        ]

    def log(self, rank: int = 0) -> str:
        return text_so_far(self.folder / f"rank{rank}.log")

    def finish(self, rank: RankProcess) -> Outcome:
        messages: list[Message | Unknown] = []
        deadline = time.monotonic() + TIMEOUT_S
        while rank.poll() is None and time.monotonic() < deadline:
            messages += rank.messages()
            time.sleep(0.005)
        messages += rank.messages()
        return Outcome(rank.poll(), self.log(rank.spec.rank), messages)

    def run(self, script: str, *args: str, **about: Any) -> Outcome:
        return self.finish(self.start(script, *args, **about))

    def shows(self, text: str, rank: int = 0) -> bool:
        return wait_until(lambda: text in self.log(rank), TIMEOUT_S)

    def plain(self, script: str, *args: str, options: Sequence[str] = ("-u",)) -> Outcome:
        """The same by `python script.py`; unbuffered, so that both streams show in order."""
        done = subprocess.run(
            [sys.executable, *options, script, *args],
            cwd=self.folder,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
            preexec_fn=_hear_signals,
        )
        return Outcome(done.returncode, done.stdout, [])

    def clear(self) -> None:
        for rank in self.started:
            rank.kill()
            rank.wait(10)
            rank.close()
