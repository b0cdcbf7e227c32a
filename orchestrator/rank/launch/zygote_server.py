"""Serves a zygote's launchers: forks ranks for them, watches these, and takes them along when a launcher is
gone.

The owner started the zygote, and the zygote ends with it. Others reach it through a listening socket;
what each asked for is its own, and ends with its connection.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from orchestrator.rank import runner
from orchestrator.rank.launch import wire
from orchestrator.rank.launch.process import kill_group
from orchestrator.rank.spec import RankSpec

_PR_SET_PDEATHSIG = 1
# What is meant for the whole run, or typed at a terminal, must not take the ranks away: a zygote ends with
# its owner.
_NOT_OURS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_BURY_TIMEOUT_S = 1.0
# A launcher that stops in the middle of a message must not stop the others.
_MESSAGE_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Forked:
    """Returned in the child: what it has to run."""

    spec: RankSpec
    messages: socket.socket
    lifeline_fd: int


@dataclass(eq=False)
class _Launcher:
    """The other end of a channel, and the ranks that it asked for."""

    channel: socket.socket
    running: dict[int, int] = field(default_factory=dict)  # process id -> id of the request
    ended: set[int] = field(default_factory=set)  # dead, reported, and not yet buried


class Server:
    """`why_not_fork` is asked before every fork: a reason, or None when it is safe."""

    def __init__(
        self,
        owner: socket.socket,
        listener: socket.socket | None,
        ready: dict[str, Any],
        why_not_fork: Callable[[], str | None],
    ) -> None:
        self._listener = listener
        self._ready = ready
        self._why_not_fork = why_not_fork
        self._owner = _Launcher(owner)
        self._launchers = [self._owner]
        self._dying: set[int] = set()  # killed with their launcher, and not yet gone
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def serve(self) -> Forked | None:
        """Serve until the owner is gone. Returns in a child as well: with what it has to run."""
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, _wake_only)
        for number in _NOT_OURS:
            signal.signal(number, signal.SIG_IGN)
        if not self._greet(self._owner):
            return None
        while self._owner in self._launchers:
            ready = select.select(list(self._watched()), [], [])[0]
            if self._wake_read in ready:
                os.read(self._wake_read, 4096)
            self._report_ended()
            if self._listener in ready:
                self._admit()
            for launcher in [one for one in self._launchers if one.channel in ready]:
                forked = self._receive(launcher)
                if forked is not None:
                    return forked
        for launcher in list(self._launchers):
            self._leave(launcher)
        self._await_dying()
        return None

    def _watched(self) -> Iterator[Any]:
        yield self._wake_read
        if self._listener is not None:
            yield self._listener
        yield from (launcher.channel for launcher in self._launchers)

    def _admit(self) -> None:
        """A launcher of the same user; anybody else is shown the door."""
        assert self._listener is not None
        channel, _ = self._listener.accept()
        if wire.peer_uid(channel) != os.getuid():
            channel.close()
            return
        channel.settimeout(_MESSAGE_TIMEOUT_S)
        launcher = _Launcher(channel)
        self._launchers.append(launcher)
        self._greet(launcher)

    def _greet(self, launcher: _Launcher) -> bool:
        return self._answer(launcher, self._ready)

    def _answer(self, launcher: _Launcher, message: dict[str, Any]) -> bool:
        try:
            wire.send(launcher.channel, message)
        except OSError:  # gone, or mute in the middle of a message
            self._leave(launcher)
            return False
        return True

    def _receive(self, launcher: _Launcher) -> Forked | None:
        try:
            received = wire.receive(launcher.channel)
        except OSError:
            received = None
        if received is None:
            self._leave(launcher)
            return None
        return self._handle(launcher, *received)

    def _leave(self, launcher: _Launcher) -> None:
        """A launcher is gone: its ranks go too."""
        if launcher in self._launchers:
            self._launchers.remove(launcher)
            launcher.channel.close()
            for pid in launcher.running:
                kill_group(pid)
            self._dying |= {*launcher.running, *launcher.ended}
            self._bury_dying()

    def _bury_dying(self) -> None:
        self._dying = {pid for pid in self._dying if os.waitpid(pid, os.WNOHANG) == (0, 0)}

    def _await_dying(self) -> None:
        deadline = time.monotonic() + _BURY_TIMEOUT_S  # one stuck in a driver call may never come
        while self._dying and time.monotonic() < deadline:
            self._bury_dying()
            time.sleep(0.005)

    def _handle(self, launcher: _Launcher, request: dict[str, Any], fds: list[int]) -> Forked | None:
        match request["op"]:
            case "bury":
                # Until now the dead leader kept its process id, and with it the group's, from being reused.
                os.waitpid(request["pid"], 0)
                launcher.ended.discard(request["pid"])
            case "usage":
                ranks = sum(len(one.running) for one in self._launchers)
                self._answer(launcher, {"event": "usage", "id": request["id"], "ranks": ranks,
                                      "launchers": len(self._launchers) - 1})  # fmt: skip
            case "fork":
                return self._fork_for(launcher, request, fds)
        return None

    def _fork_for(self, launcher: _Launcher, request: dict[str, Any], fds: list[int]) -> Forked | None:
        messages_fd, lifeline_fd = fds
        try:
            reason, pid = self._why_not_fork(), -1
            if reason is None:
                try:
                    pid = self._fork()
                except OSError as error:  # out of processes, memory or descriptors: no end of what runs
                    reason = f"fork failed: {error}"
            if reason is not None:
                self._answer(launcher, {"event": "refused", "id": request["id"], "reason": reason})
                return None
            if pid == 0:
                spec = RankSpec(**request["spec"])
                return Forked(spec, socket.socket(fileno=os.dup(messages_fd)), os.dup(lifeline_fd))
            launcher.running[pid] = request["id"]
            self._answer(launcher, {"event": "forked", "id": request["id"], "pid": pid})
            return None
        finally:
            os.close(messages_fd)
            os.close(lifeline_fd)

    def _fork(self) -> int:
        """Fork; returns once the child leads a session of its own and will die with us."""
        zygote_pid = os.getpid()
        settled_read, settled_write = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
        if pid == 0:
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != zygote_pid:
                os._exit(1)
            os.setsid()
            signal.set_wakeup_fd(-1)
            runner.reset_signals()
            self._let_go()
            os.close(settled_read)
            os.close(settled_write)
            return 0
        os.close(settled_write)
        os.read(settled_read, 1)  # ends when the child has closed its copy
        os.close(settled_read)
        return pid

    def _let_go(self) -> None:
        """In a child: nothing of the server stays open."""
        for launcher in self._launchers:
            launcher.channel.close()
        if self._listener is not None:
            self._listener.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _report_ended(self) -> None:
        self._bury_dying()
        for launcher in list(self._launchers):
            for pid, request_id in list(launcher.running.items()):
                ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
                if ended is None:
                    continue
                kill_group(pid)  # what a rank leaves behind holds its devices and ports
                status = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
                del launcher.running[pid]
                launcher.ended.add(pid)
                if not self._answer(launcher, {"event": "exit", "id": request_id, "status": status}):
                    break


def _wake_only(_number: int, _frame: object) -> None:
    """The wakeup descriptor does the work; a handler must exist for it to be written to."""
