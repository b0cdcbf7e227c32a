"""The processes of a node that measure, one for each GPU: torch is imported in them, and not in Ray's
worker."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any, TypeVar

from orchestrator.agent.localize import interface_of, interfaces
from orchestrator.errors import ClusterError
from orchestrator.papers import PaperError
from orchestrator.rank.check.messages import LINES, Failed, Ready

_Answer = TypeVar("_Answer")
_LEAVE_S = 2.0
# That its output has ended says that it ends; with what status is known once torch has let go of everything.
_END_S = 30.0


class ProgramError(ClusterError):
    """A process that measures could not be started, or has not answered; the message says why."""


class Program:
    """One of them. ``gpu`` is its index, None for a processor core."""

    def __init__(self, address: str, gpu: int | None) -> None:
        self.gpu = gpu
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        words = [sys.executable, "-m", "orchestrator.rank.check.program", address]
        self._process = subprocess.Popen(
            [*words, *([] if gpu is None else [str(gpu)])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, **_environment(address)},
            start_new_session=True,
        )

    def ready(self) -> Ready:
        """Wait until it has imported torch. Raises :class:`ProgramError`."""
        return self._read(Ready)

    def ask(self, message: Any, kind: type[_Answer]) -> _Answer:
        """Its answer. Raises :class:`ProgramError`."""
        stream = self._process.stdin
        assert stream is not None
        try:
            stream.write(LINES.encode(message))
            stream.flush()
        except OSError:
            raise ProgramError(self._why_ended()) from None
        return self._read(kind)

    def _read(self, kind: type[_Answer]) -> _Answer:
        stream = self._process.stdout
        assert stream is not None
        line = stream.readline()
        if not line:
            raise ProgramError(self._why_ended())
        try:
            answer = LINES.decode(line)
        except PaperError as error:
            raise ProgramError(f"an answer that cannot be read: {error}") from None
        if isinstance(answer, Failed):
            raise ProgramError(answer.why)
        if not isinstance(answer, kind):
            raise ProgramError(f"it answered {type(answer).__name__} and not {kind.__name__}")
        return answer

    def _why_ended(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_S)
        self._errors.seek(0)
        last = self._errors.read().decode(errors="replace").strip().splitlines()[-1:]
        return (
            f"the process that measures has ended ({self._process.returncode}): {''.join(last) or 'no word'}"
        )

    def close(self) -> None:
        """End it: at the end of its input by itself, else by a signal."""
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            with contextlib.suppress(OSError):
                stream.close()
        try:
            self._process.wait(_LEAVE_S)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._errors.close()


def at_once(programs: Sequence[Program], work: Callable[[Program], _Answer]) -> list[_Answer]:
    """What each of them answers; they work beside each other."""
    with ThreadPoolExecutor(max_workers=len(programs)) as pool:
        return list(pool.map(work, programs))


def _environment(address: str) -> dict[str, str]:
    """The interface that joins the nodes, where nobody has named another."""
    try:
        name = interface_of(address, interfaces())
    except ValueError:
        return {}
    wanted = {"GLOO_SOCKET_IFNAME": name, "NCCL_SOCKET_IFNAME": name}
    return {key: value for key, value in wanted.items() if key not in os.environ}
