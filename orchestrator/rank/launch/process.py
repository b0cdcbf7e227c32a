"""A rank as its launcher sees it: the same contract, however the process was made."""

from __future__ import annotations

import abc
import contextlib
import os
import signal
import socket
import time

from orchestrator.installation import PACKAGE
from orchestrator.rank.messages import MOST_LINE_BYTES, Message, Unknown, decode
from orchestrator.rank.spec import RankSpec

_READ_BYTES = 1 << 16
# Far more than the kernel holds back of one that has ended.
_AT_ONCE_BYTES = 8 << 20
# Our package is put where `import` looks for the moment of its own import only. By `-c`, and not
# by `-m` or as a file: then nothing but one frame of ours lies beneath the script.
_BOOT = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); from {package} import {name}; del sys.path[0];"
    " {name}.main()"
)


class RankProcess(abc.ABC):
    """A started rank. Not for use by several threads at once.

    `exit_reason` is set when the rank was lost with what had started it (its zygote), and says how.
    """

    def __init__(self, spec: RankSpec, pid: int, agent_end: AgentEnd) -> None:
        self.spec = spec
        self.pid = pid
        self.exit_reason: str | None = None
        self._agent_end = agent_end
        self._status: int | None = None

    def messages(self) -> list[Message | Unknown]:
        """What the rank has said since the last call; never waits.

        The last messages of a rank that has ended are there once `poll` has told its status.
        """
        return self._agent_end.messages()

    @property
    def garbled(self) -> int:
        """How many lines came that were no messages: from the script itself, which has the descriptor too."""
        return self._agent_end.garbled

    def poll(self) -> int | None:
        """Exit status, negative for the signal that ended the rank; None while it runs.

        When the rank is over, so is every other process of its group.
        """
        if self._status is None:
            self._status = self._ended()
            if self._status is not None:
                self._agent_end.close_lifeline()
        return self._status

    def wait(self, timeout_s: float) -> int | None:
        """`poll` until the rank has ended, or `timeout_s` are over."""
        deadline = time.monotonic() + timeout_s
        while self.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        return self._status

    def signal(self, signum: int) -> None:
        """Send a signal to the rank's process group: the rank, its workers, their children."""
        if self.poll() is None:
            kill_group(self.pid, signum)

    def ask_stacks(self) -> None:
        """Have the rank write down its Python stacks, as soon as a thread of it can: `rank.stacks` tells
        where."""
        self._agent_end.ask()

    def kill(self) -> None:
        self.signal(signal.SIGKILL)

    def close(self) -> None:
        """Let go of the rank's lifeline: a rank that still runs is killed by that."""
        self._agent_end.close()

    @property
    def closed(self) -> bool:
        """Whether nothing is held open for it: it has ended and been heard out, or was closed."""
        return self._agent_end.closed

    @abc.abstractmethod
    def _ended(self) -> int | None:
        """Exit status, if the process has one by now. The process id stays ours until then."""


class AgentEnd:
    """The agent's ends of what ties a rank to it; `rank_fds` are the rank's (messages, lifeline)."""

    def __init__(self) -> None:
        self._socket, self._rank_socket = socket.socketpair()
        self._rank_lifeline_fd, self._lifeline_fd = os.pipe2(os.O_CLOEXEC)
        self._socket.setblocking(False)
        self._partial = b""
        self.garbled = 0

    @property
    def rank_fds(self) -> tuple[int, int]:
        return self._rank_socket.fileno(), self._rank_lifeline_fd

    def close_rank_fds(self) -> None:
        """Once the rank has its own copies: the ends of the streams must be seen here."""
        self._rank_socket.close()
        os.close(self._rank_lifeline_fd)

    def messages(self) -> list[Message | Unknown]:
        """Of a rank that says more than can be read, a part; a later call goes on there."""
        messages: list[Message | Unknown] = []
        left_bytes = _AT_ONCE_BYTES
        while self._socket.fileno() >= 0 and left_bytes > 0:
            try:
                read = self._socket.recv(_READ_BYTES)
            except BlockingIOError:
                break
            except ConnectionResetError:
                read = b""
            if not read:
                self._socket.close()
                break
            left_bytes -= len(read)
            *whole, partial = (self._partial + read).split(b"\n")
            self._partial = partial[: MOST_LINE_BYTES + 1]  # enough to see that it is too long
            for line in whole:
                message = decode(line)
                if message is None:
                    self.garbled += 1
                else:
                    messages.append(message)
        return messages

    def ask(self) -> None:
        with contextlib.suppress(OSError):  # it has ended, or is still to read earlier questions
            self._socket.send(b"?")

    def close_lifeline(self) -> None:
        if self._lifeline_fd >= 0:
            os.close(self._lifeline_fd)
            self._lifeline_fd = -1

    def close(self) -> None:
        self._socket.close()
        self.close_lifeline()

    @property
    def closed(self) -> bool:
        return self._socket.fileno() < 0 and self._lifeline_fd < 0


def kill_group(pid: int, signum: int = signal.SIGKILL) -> None:
    """Signal a process group that may have ended already."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signum)


def boot_command(python: str, module: str, *args: str) -> list[str]:
    """Command line that runs `main` of one of this package's modules, given by its whole name."""
    package, _, name = module.rpartition(".")
    return [python, "-c", _BOOT.format(package=package, name=name), str(PACKAGE.parent), *args]
