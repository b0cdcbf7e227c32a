"""Drivers forked from a process that has imported what a driver needs, for whoever starts many of them.

A driver spends most of its time until its first word to Ray on imports. A host has done them, connected to
nothing and started no thread; what it forks is a process as any other that `python -m MODULE` is, in a
session of its own. Where a host cannot serve (it is gone, or our code has changed on the disk since), it is
replaced for the next driver and this one is started as usual, as is one while the host still imports.
``cli/driver_host.py`` is the other side.

| who ends | what follows |
|---|---|
| the caller | the host, by the end of its channel; the drivers go on |
| the host | the drivers go on; the next one is started as usual, and a new host with it |
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

HOST = "orchestrator.cli.driver_host"
# A fork takes milliseconds; one whose machine is busy is not waited for longer. Imports take some seconds.
_ANSWER_S = 10.0
# The host's first word.
READY = b"ready"
# Of a message; the words of a command line may be as long as Linux allows for all of them.
MOST_BYTES = 1 << 22


@dataclass(frozen=True)
class DriverWords:
    """What is started: a module with its arguments, the folder, and variables on top of the caller's."""

    module: str
    words: Sequence[str]
    cwd: str
    environment: Mapping[str, str]


@dataclass(frozen=True)
class Forked:
    """The host's answer; no process where it does not fork any more, and why."""

    pid: int | None
    why: str = ""


class StartedDriver:
    """A driver under way."""

    def __init__(self, pid: int, ended: int | None, process: subprocess.Popen[bytes] | None = None) -> None:
        """``ended`` is a descriptor by which the kernel tells of its end; None where it has ended, or where
        ``process`` tells."""
        self.pid = pid
        self._ended = ended
        self._process = process

    @property
    def is_forked(self) -> bool:
        """Whether a host had the imports done for it."""
        return self._process is None

    def alive(self) -> bool:
        """Whether it runs."""
        return not self.wait(0.0)

    def wait(self, timeout_s: float) -> bool:
        """Whether it has ended, or does within this time."""
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout_s)
            return self._process.poll() is not None
        if self._ended is not None:
            if not _is_readable(self._ended, timeout_s):
                return False
            self.close()
        return True

    def close(self) -> None:
        """Watch it no longer; it goes on."""
        if self._ended is not None:
            os.close(self._ended)
            self._ended = None


def _is_readable(of: int | socket.socket, timeout_s: float) -> bool:
    """Unlike ``select.select`` for descriptors of any number."""
    poll = select.poll()
    poll.register(of, select.POLLIN)
    return bool(poll.poll(timeout_s * 1000))


def spawned(
    module: str, words: Sequence[str], cwd: Path, log: int, environment: Mapping[str, str] | None = None
) -> StartedDriver:
    """One with an interpreter of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, *words],
        cwd=cwd,
        env=os.environ | dict(environment or {}),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    return StartedDriver(process.pid, None, process)


class DriverHost:
    """Starts drivers whose runs attach to the Ray at ``address``; one that goes elsewhere would find Ray's
    settings for this one in its process. ``patience_s``: how long a driver waits for the imports of a host
    that has just been started."""

    def __init__(self, address: str, patience_s: float = _ANSWER_S) -> None:
        self._address, self._patience_s = address, patience_s
        self._channel: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._ready = False
        self._begin()

    def start(
        self, module: str, words: Sequence[str], cwd: Path, log: int, **environment: str
    ) -> StartedDriver:
        """Start ``python -m module words`` with what it prints in the file ``log``. Raises ``OSError`` where
        no process can be started."""
        if self._is_ready():
            forked = self._ask(DriverWords(module, list(words), str(cwd), environment), log)
            if forked is not None:
                return forked
            self._replace()
        return spawned(module, words, cwd, log, environment)

    def close(self) -> None:
        """End the host; what it has forked goes on."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _replace(self) -> None:
        self.close()
        self._begin()

    def _is_ready(self) -> bool:
        """Whether it has done its imports; one that has ended before is replaced."""
        if self._channel is None:
            self._replace()
            return False
        if not self._ready and _is_readable(self._channel, self._patience_s):
            with contextlib.suppress(OSError):
                self._ready = self._channel.recv(MOST_BYTES) == READY
            if not self._ready:
                self._replace()
        return self._ready

    def _begin(self) -> None:
        self._ready = False
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", HOST, str(its.fileno()), self._address],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    pass_fds=(its.fileno(),),
                    start_new_session=True,
                )
            except OSError:  # there will be none, and drivers are started as usual
                ours.close()
                return
        ours.settimeout(_ANSWER_S)
        self._channel = ours

    def _ask(self, wanted: DriverWords, log: int) -> StartedDriver | None:
        if self._channel is None:
            return None
        try:
            socket.send_fds(self._channel, [json.dumps(asdict(wanted)).encode()], [log])
            told, fds, _, _ = socket.recv_fds(self._channel, MOST_BYTES, 1)
            answer = Forked(**json.loads(told))
        except (OSError, ValueError):  # it is gone, does not answer, or the words are too long for a message
            return None
        if answer.pid is None:
            return None
        return StartedDriver(answer.pid, fds[0] if fds else None)
