"""``STATE_DIR/wake``: a socket by which whoever has written something into the queue wakes its daemon.

The daemon looks by itself, too, only later: nobody waits for a daemon that is down or busy, and a word that
is lost costs a moment.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NAME = "wake"


def wake(folder: Path) -> None:
    """Tell the daemon, if there is one, that there is something new."""
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as caller,
        _address_in(folder) as address,
    ):
        caller.setblocking(False)
        caller.sendto(b"!", address)


class Alarm:
    """The daemon's end; one at a time has it, as one leads."""

    def __init__(self, folder: Path) -> None:
        """Where the file system takes no sockets there are no words, and waiting takes its whole time."""
        self._socket: socket.socket | None = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        try:
            (folder / NAME).unlink(missing_ok=True)  # of a daemon that was killed
            with _address_in(folder) as address:
                self._socket.bind(address)
        except OSError:
            self.close()

    def wait(self, timeout_s: float) -> bool:
        """Whether somebody has called by then; what several have said meanwhile is one call."""
        if self._socket is None:
            time.sleep(timeout_s)
            return False
        if not select.select([self._socket], [], [], timeout_s)[0]:
            return False
        with contextlib.suppress(BlockingIOError):
            while True:
                self._socket.recv(1)
        return True

    def close(self) -> None:
        """Nobody is heard any more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


@contextmanager
def _address_in(folder: Path) -> Iterator[str]:
    """A path to a socket may have a hundred bytes, and the folder's own may be longer."""
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{NAME}"
    finally:
        os.close(descriptor)
