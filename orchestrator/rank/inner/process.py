"""Inside of a rank's program: the probes of a Python process, and its way to the rank."""

from __future__ import annotations

import _thread
import atexit
import json
import os
import socket
from collections.abc import Mapping
from typing import Any

from orchestrator.rank import tracking
from orchestrator.rank.link import Link, Source
from orchestrator.rank.messages import Message
from orchestrator.rank.probes.rank_probes import RankProbes

ACCEPTED = b"+"
# By which a launcher inside of the program tells its own ranks what they are.
NUMBERS = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
_ANSWER_TIMEOUT_S = 5.0


class InnerLink(Link):
    """It leads to the rank, from the first message on, if that hears no other process of its program then."""

    def __init__(self, address: str) -> None:
        super().__init__(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        self._address = address
        self._lock = _thread.allocate_lock()
        self._has_begun = False
        os.register_at_fork(after_in_child=self._forget)

    def send(self, message: Message) -> None:
        if self._is_heard():
            super().send(message)

    def offer(self, source: Source) -> None:
        if self._is_heard():
            super().offer(source)

    def close(self) -> None:
        if self._has_begun:
            super().close()

    def _is_heard(self) -> bool:
        if not self._has_begun and self._open:
            with self._lock:
                if not self._has_begun and self._open:
                    self._open = self._has_begun = self._begin()
        return self._open

    def _begin(self) -> bool:
        try:
            self._socket.settimeout(_ANSWER_TIMEOUT_S)
            self._socket.connect(self._address)
            if self._socket.recv(1) != ACCEPTED:
                return False
            self._socket.settimeout(None)
        except OSError:  # the rank is gone, or in another network namespace
            return False
        _thread.start_new_thread(self._deliver, ())
        return True

    def _forget(self) -> None:
        """In a child: who speaks is its parent."""
        self._open = False
        self._socket.close()


def begin(told: str) -> None:
    """Attach the probes, where this process may speak for the rank. ``told`` is what its listener has put
    into the environment."""
    body: dict[str, Any] = json.loads(told)
    if not _may_speak(body["numbers"], os.environ):
        return
    link = InnerLink(body["address"])
    link.enter("import")
    probes = RankProbes(link)
    if body["tracking"] is not None:
        tracking.offer_to_mlflow(link, body["tracking"])
    atexit.register(_finish, probes, link)
    probes.attach_when_imported()


def _may_speak(numbers: Mapping[str, str | None], environment: Mapping[str, str]) -> bool:
    """Whether it is no worker of a launcher inside of the program, or the first of its node."""
    now = {name: environment.get(name) for name in NUMBERS}
    return now == dict(numbers) or now["LOCAL_RANK"] in (None, "0")


def _finish(probes: RankProbes, link: InnerLink) -> None:
    """Registered before the script's `atexit` handlers, so it runs after them."""
    probes.flush()
    if link.at_heartbeat is not None:
        link.at_heartbeat()
    link.close()
