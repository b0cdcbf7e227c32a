"""The files by which a job's driver is known, whoever started it, in the queue's folder on this machine's
disk.

::

    STATE_DIR/drivers/RUN.lock     held by the driver for as long as it lives: {epoch, pid, created_unix_s}
    STATE_DIR/drivers/RUN.end      how the newest that ended by itself ended: {epoch, code}
    STATE_DIR/logs/RUN.log         what its drivers print

A driver takes the lock first and asks the books then whether its start is still meant: a daemon that writes
down otherwise looks at the lock after that, so that one of them sees the other. What a driver that was
killed leaves in the lock's file means nothing, since nobody holds it.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

from orchestrator import papers
from orchestrator.dispatch.locks import is_held, taken
from orchestrator.dispatch.seen import DriverEnd
from orchestrator.files import atomic_write, make_folder, open_no_link

_MOST_BYTES = 4096
_SAME_S = 1.0


@dataclass(frozen=True)
class Holder:
    """The driver that holds a lock: a process, and the epoch that it was started for."""

    epoch: int
    pid: int
    created_unix_s: float

    def process(self) -> psutil.Process | None:
        """Itself, and no later process with its number."""
        try:
            found = psutil.Process(self.pid)
            return found if abs(found.create_time() - self.created_unix_s) < _SAME_S else None
        except psutil.Error:
            return None


class DriverFiles:
    """Those of one run. The lock is let go when the process ends."""

    def __init__(self, state_dir: Path, run_name: str) -> None:
        self._lock = state_dir / "drivers" / f"{run_name}.lock"
        self._end = state_dir / "drivers" / f"{run_name}.end"
        self.log = state_dir / "logs" / f"{run_name}.log"

    def take(self, epoch: int) -> IO[str] | None:
        """Hold the lock; None where another process does."""
        make_folder(self._lock.parent)
        lock = open_no_link(self._lock, "a+")
        if not taken(lock):
            lock.close()
            return None
        me = psutil.Process()
        body = {"epoch": epoch, "pid": me.pid, "created_unix_s": me.create_time()}
        lock.truncate(0)
        lock.write(json.dumps(body))
        lock.flush()
        return lock

    def held(self) -> tuple[bool, Holder | None]:
        """Whether somebody holds the lock, and who, where that is known already."""
        try:
            lock = papers.open_plain(self._lock)
        except (OSError, papers.PaperError):
            return False, None
        with lock:
            if not is_held(lock):
                return False, None
            try:
                holder = papers.made(Holder, papers.json_of(lock.read(_MOST_BYTES)))
            except (ValueError, TypeError):  # it is about to write that
                return True, None
        return True, holder if holder.process() is not None else None

    def write_end(self, epoch: int, code: int) -> None:
        """Said by the driver itself, before it lets go of the lock."""
        atomic_write(self._end, json.dumps({"epoch": epoch, "code": code}))

    def end(self) -> DriverEnd | None:
        try:
            return papers.made(DriverEnd, papers.read_object(self._end, _MOST_BYTES))
        except (OSError, ValueError):
            return None

    def open_log(self) -> int:
        """To append to; whoever gets it closes it."""
        make_folder(self.log.parent)
        return os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
