"""What ranks have printed, read from their logs: whole lines, without what was left out of a log that reached
its bound, while it is written or afterwards."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from orchestrator import papers
from orchestrator.errors import RunDirectoryError
from orchestrator.text import clean, plural, ranges

_NAME = re.compile(r"attempt-(\d+)\.rank-(\d+)\.log")
_AT_ONCE_BYTES = 1 << 18
# Of what has no end of a line: binary data, or progress that is drawn over.
_LONGEST_LINE_BYTES = 1 << 16
POLL_S = 0.3


@dataclass(frozen=True, order=True)
class RankLog:
    """The log of one rank in one attempt."""

    attempt: int
    rank: int
    path: Path


def rank_logs(run_dir: Path) -> list[RankLog]:
    """All that are there, by attempt and rank. Raises :class:`RunDirectoryError` where it cannot be read."""
    found: list[RankLog] = []
    folder = run_dir / "logs"
    try:
        with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
            for entry in entries:
                if named := _NAME.fullmatch(entry.name):
                    found.append(RankLog(int(named[1]), int(named[2]), Path(entry.path)))
    except OSError as error:
        raise RunDirectoryError(f"{folder}: cannot be read: {error.strerror}") from None
    return sorted(found)


def chosen_logs(run_dir: Path, rank: int, attempt: int | None) -> list[RankLog]:
    """A rank's logs, oldest first: of one attempt, or of all.

    Raises :class:`RunDirectoryError` where there is none.
    """
    there = rank_logs(run_dir)
    if not there:
        raise RunDirectoryError(
            f"{run_dir / 'logs'}: no rank has printed anything yet; --follow waits for it"
        )
    ours = [log for log in there if log.rank == rank and attempt in (None, log.attempt)]
    if not ours:
        known = sorted({log.rank for log in there if attempt in (None, log.attempt)})
        if not known:
            attempts = ranges(log.attempt for log in there)
            raise RunDirectoryError(f"{run_dir / 'logs'}: no logs of attempt {attempt}; there are {attempts}")
        raise RunDirectoryError(
            f"{run_dir / 'logs'}: no log of rank {rank}; there {'is' if len(known) == 1 else 'are'}"
            f" {plural(len(known), 'rank')}: {ranges(known)}"
        )
    return ours


class Lines:
    """The lines of one log from its beginning on; what is left out of it is passed over without being
    read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._rest = b""

    def read(self) -> list[str]:
        """The next whole lines, cleaned; empty where there are none yet.

        Raises :class:`RunDirectoryError` for a log that cannot be read.
        """
        whole: list[bytes] = []
        try:
            with papers.open_plain(self._path) as file:
                while not whole and (data := self._next(file.fileno())):
                    # around a hole there are zeros on the disk too
                    *whole, self._rest = (self._rest + data.replace(b"\0", b"")).split(b"\n")
                    while len(self._rest) > _LONGEST_LINE_BYTES:
                        whole.append(self._rest[:_LONGEST_LINE_BYTES])
                        self._rest = self._rest[_LONGEST_LINE_BYTES:]
        except (OSError, papers.PaperError) as error:
            why = getattr(error, "strerror", None) or error
            raise RunDirectoryError(f"{self._path}: cannot be read: {why}") from None
        return [_shown(line) for line in whole]

    def rest(self) -> list[str]:
        """A last line without its end."""
        rest, self._rest = self._rest, b""
        return [_shown(rest)] if rest else []

    def _next(self, fd: int) -> bytes:
        size = os.fstat(fd).st_size
        if size < self._offset:  # somebody emptied it
            self._offset, self._rest = 0, b""
        at = _data_from(fd, self._offset, size)
        data = os.pread(fd, _AT_ONCE_BYTES, at)
        self._offset = at + len(data)
        return data


def last_lines(log: RankLog, count: int) -> Iterator[str]:
    """The last so many of a log, or all for 0."""
    lines = Lines(log.path)
    if count:
        kept = _newest(lines, count)
        kept.extend(lines.rest())
        yield from kept
        return
    while some := lines.read():
        yield from some
    yield from lines.rest()


def followed(
    run_dir: Path,
    rank: int,
    count: int,
    goes_on: Callable[[], bool],
    new_attempt: Callable[[RankLog], None],
) -> Iterator[str]:
    """A rank's lines as they come, from its newest attempt on, until the run has ended; of those that are
    there already the last ``count``, or all for 0. ``new_attempt`` is told before the lines of each."""
    log: RankLog | None = None
    lines: Lines | None = None
    while True:
        lives = goes_on()  # asked before reading: what was written last is then read
        while lines is not None and (some := lines.read()):
            yield from some
        ours = [each for each in rank_logs(run_dir) if each.rank == rank]
        later = [each for each in ours if log is None or each.attempt > log.attempt]
        if later:
            if lines is not None:
                yield from lines.rest()
            first, log = log is None, later[-1] if log is None else later[0]
            lines = Lines(log.path)
            new_attempt(log)
            if first and count:
                yield from _newest(lines, count)
            continue
        if not lives:
            if lines is not None:
                yield from lines.rest()
            return
        time.sleep(POLL_S)


def _newest(lines: Lines, count: int) -> deque[str]:
    kept: deque[str] = deque(maxlen=count)
    while some := lines.read():
        kept.extend(some)
    return kept


def _data_from(fd: int, offset: int, size: int) -> int:
    """Where there is something after ``offset``: holes are what was left out."""
    if offset >= size:
        return offset
    try:
        return os.lseek(fd, offset, os.SEEK_DATA)
    except OSError as error:
        # nothing but a hole up to the end, or a file system that knows of none
        return size if error.errno == errno.ENXIO else offset


def _shown(line: bytes) -> str:
    return clean(line.decode(errors="replace"))
