"""The files by which a job's driver is known, whoever started it, in the queue's folder on this machine's
disk.

::

    STATE_DIR/drivers/RUN.start    what the newest is to do: {epoch, words, …}
    STATE_DIR/drivers/RUN.lock     held by the driver for as long as it lives: {epoch, pid, start, …}
    STATE_DIR/drivers/RUN.end      how the newest that ended by itself ended: {epoch, code}
    STATE_DIR/logs/RUN.log         what its drivers print, and RUN.log.1 what they printed before that

A driver takes the lock first and asks the books then whether its start is still meant: a daemon that writes
down otherwise looks at the lock after that, so that one of them sees the other. What a driver that was
killed leaves in the lock's file means nothing, since nobody holds it. Its words come from the daemon, which
knows what the fleet file said last that could be taken.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

import psutil

from orchestrator import papers
from orchestrator.dispatch.codec import made, plain
from orchestrator.dispatch.locks import is_held, taken
from orchestrator.dispatch.seen import DriverEnd
from orchestrator.files import atomic_write, make_folder, open_no_link
from orchestrator.processes import same_process, start_of

_MOST_BYTES = 4096
_SAME_S = 1.0
# The words of a command line may be as long as Linux allows for all of them.
_MOST_START_BYTES = 4 << 20


@dataclass(frozen=True)
class DriverOrder:
    """What a driver is to do: the words of our own command line, with the token in this file where its Ray
    has one of its own. What stands in the first ``journal_bytes`` of the run's journal others have said."""

    epoch: int
    words: tuple[str, ...]
    token_file: str = ""
    journal_bytes: int = 0


@dataclass(frozen=True)
class Holder:
    """The driver that holds a lock: a process, and the epoch that it was started for. ``start`` is when the
    process began as `processes` has it; a driver of an earlier version has told the time of day alone, which
    serves until the clock steps."""

    epoch: int
    pid: int
    created_unix_s: float = 0.0
    start: str = ""

    def process(self) -> psutil.Process | None:
        """Itself, and no later process with its number."""
        try:
            if self.start:
                return same_process(self.pid, self.start)
            found = psutil.Process(self.pid)
            return found if abs(found.create_time() - self.created_unix_s) < _SAME_S else None
        except (psutil.Error, OSError):
            return None


class DriverFiles:
    """Those of one run. The lock is let go when the process ends."""

    def __init__(self, state_dir: Path, run_name: str) -> None:
        self._lock = state_dir / "drivers" / f"{run_name}.lock"
        self._end = state_dir / "drivers" / f"{run_name}.end"
        self._start = state_dir / "drivers" / f"{run_name}.start"
        self.log = state_dir / "logs" / f"{run_name}.log"

    def take(self, epoch: int) -> IO[str] | None:
        """Hold the lock; None where another process does."""
        make_folder(self._lock.parent)
        lock = open_no_link(self._lock, "a+")
        if not taken(lock):
            lock.close()
            return None
        me = psutil.Process()
        holder = Holder(epoch, me.pid, me.create_time(), start_of())
        lock.truncate(0)
        lock.write(json.dumps(asdict(holder)))
        lock.flush()
        return lock

    def held(self) -> tuple[bool, Holder | None]:
        """Whether somebody holds the lock, and who, where that is known: a lock that cannot be looked at may
        be held."""
        try:
            lock = papers.open_plain(self._lock)
        except (FileNotFoundError, NotADirectoryError, papers.PaperError):
            return False, None
        except OSError:
            return True, None
        with lock:
            if not is_held(lock):
                return False, None
            try:
                holder = papers.made(Holder, papers.json_of(lock.read(_MOST_BYTES)))
            except (ValueError, TypeError):  # it is about to write that
                return True, None
        return True, holder if holder.process() is not None else None

    def write_order(self, order: DriverOrder) -> None:
        """For the next driver; nobody waits for it to be on the disk, as each start writes it."""
        make_folder(self._start.parent)
        atomic_write(self._start, json.dumps(plain(order)), 0o600, durable=False)

    def order(self, epoch: int) -> DriverOrder | None:
        """What the driver of that epoch is to do; None where that was not said."""
        try:
            found = made(DriverOrder, papers.read_object(self._start, _MOST_START_BYTES))
        except (OSError, ValueError):
            return None
        return found if found.epoch == epoch else None

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
