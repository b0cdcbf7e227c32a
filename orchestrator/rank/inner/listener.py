"""The rank's own end: it hears the process inside of its program that trains, and says the same to the
agent."""

from __future__ import annotations

import _thread
import json
import os
import secrets
import signal
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.rank.inner.process import ACCEPTED, NUMBERS
from orchestrator.rank.launch.wire import peer_uid
from orchestrator.rank.link import FLUSH_TIMEOUT_S, Link
from orchestrator.rank.messages import MOST_LINE_BYTES, Heartbeat, Unknown, decode

VARIABLE = "ORCHESTRATOR_INNER"
HOOK = Path(__file__).resolve().parent / "hook"


class Listener:
    """Hears one process at a time: who comes first speaks for the rank until it has ended."""

    def __init__(self, link: Link, tracking: Mapping[str, Any] | None) -> None:
        self._link, self._tracking = link, tracking
        # A name that lies in no folder, so that nothing is left of it.
        self._address = f"\0orchestrator-rank-{secrets.token_hex(16)}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(self._address)
        self._socket.listen()
        self._hears = False

    def environment(self) -> dict[str, str]:
        """That of the program: the rank's own, and what leads the Python processes inside of it here."""
        found = os.environ.get("PYTHONPATH")
        told = {
            "address": self._address,
            "numbers": {name: os.environ.get(name) for name in NUMBERS},
            "tracking": self._tracking,
        }
        return {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(HOOK), found] if found else [str(HOOK)]),
            VARIABLE: json.dumps(told),
        }

    def start(self) -> None:
        _thread.start_new_thread(self._accept, ())

    def finish(self) -> None:
        """Pass on the last that the program has said, now that it has ended; not what it has left behind."""
        deadline = time.monotonic() + FLUSH_TIMEOUT_S
        while self._hears and time.monotonic() < deadline:
            time.sleep(0.01)

    def _accept(self) -> None:
        # Signals belong to the main thread, which waits for the program.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while True:
            try:
                connection, _address = self._socket.accept()
            except OSError:
                return
            if self._hears or peer_uid(connection) != os.geteuid():
                connection.close()
                continue
            self._hears = True
            _thread.start_new_thread(self._hear, (connection,))

    def _hear(self, connection: socket.socket) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        before = self._link.phase
        try:
            connection.sendall(ACCEPTED)
            with connection, connection.makefile("rb") as lines:
                while line := lines.readline(MOST_LINE_BYTES + 1):
                    self._pass_on(line)
        except OSError:
            pass
        # What the program does from here on is as unknown as what it did before.
        self._link.enter(before)
        self._hears = False

    def _pass_on(self, line: bytes) -> None:
        message = decode(line)
        match message:
            case None | Unknown():
                pass
            case Heartbeat(phase=phase, phase_s=phase_s, step=step, progress=progress):
                self._link.phase, self._link.phase_since = phase, time.monotonic() - phase_s
                self._link.step, self._link.progress = step, progress
            case _:
                self._link.send(message)
