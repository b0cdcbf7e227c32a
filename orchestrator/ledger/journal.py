"""The journal: an append-only file of records on the driver, one line of JSON each.

It is the truth of a run. A record is on the disk before :meth:`Journal.append` returns, so whatever
is derived from the journal (the bill, MLflow, gauges) can be rebuilt after any crash. The only
damage that a crash can do is a torn last line, which was never acknowledged: readers leave it out
and the next writer cuts it off. Anything else raises :class:`JournalError`.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from orchestrator import papers
from orchestrator.errors import JournalError, RunDirectoryError
from orchestrator.events import Event, Record
from orchestrator.files import NO_SPACE, sync
from orchestrator.ledger.record_lines import line_of, record_of, time_after

# The driver looks at its ranks every tenth of a second; a millisecond is more than it knows.
CLOCK_DIGITS = 3
# A wall clock that is slewed this far is as good as one that is not; one that is set is believed.
SLEWED_S = 0.05


@dataclass(frozen=True)
class Mark:
    """A place in a journal: behind ``last``, whose line ends at ``offset`` bytes."""

    offset: int
    last: Record


class Journal:
    """The one writer of a journal; opening an existing file continues its numbers and its clock.

    ``clock`` gives monotonic seconds, ``wall`` seconds since 1970. The time during which no writer
    had the file open is not part of ``elapsed_s``. Raises :class:`RunDirectoryError` when the file
    cannot be written or another process is writing it, :class:`JournalError` when it is damaged. What is
    before the mark ``after`` is not read again: whoever gives it has done so.
    """

    def __init__(
        self,
        path: Path | str,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        after: Mark | None = None,
    ) -> None:
        self.path = Path(path)
        self._clock, self._wall = clock, wall
        self._fd = _open_exclusively(self.path)
        try:
            last, self._size = self._last_record(after)
            os.ftruncate(self._fd, self._size)
            os.fsync(self._fd)
            sync(self.path.parent)
        except BaseException:
            os.close(self._fd)
            raise
        self._last = last
        self._seq = last.seq + 1 if last else 0
        self._elapsed_s = last.elapsed_s if last else 0.0
        self._origin_s = clock() - self._elapsed_s

    def append(self, event: Event) -> Record:
        """The event with its place and time; a durable one is on the disk when this returns.

        An event that is not durable is stamped with the number that the next durable one will get,
        and is not written.
        """
        return self.append_many([event])[0]

    def append_many(self, events: Iterable[Event]) -> list[Record]:
        """Like :meth:`append` for events observed together: one time for all, and one fsync."""
        elapsed_s = self.now_s
        time_unix_s = self._time_unix_s(elapsed_s)
        records: list[Record] = []
        lines: list[str] = []
        seq, last = self._seq, self._last
        for event in events:
            record = Record(seq, elapsed_s, time_unix_s, event)
            records.append(record)
            if event.durable:
                lines.append(line_of(record, last) + "\n")
                seq, last = seq + 1, record
        if lines:
            self._write("".join(lines).encode())
        self._seq, self._last, self._elapsed_s = seq, last, elapsed_s
        return records

    @property
    def now_s(self) -> float:
        """The run's own clock at this moment, as the next record will have it."""
        return max(self._elapsed_s, round(self._clock() - self._origin_s, CLOCK_DIGITS))

    def close(self) -> None:
        """Let go of the file; closing twice is allowed."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _time_unix_s(self, elapsed_s: float) -> float:
        """The wall clock; told by the run's own since the last record while they agree, and need not be kept
        then."""
        now_s = round(self._wall(), CLOCK_DIGITS)
        if self._last is None:
            return now_s
        expected_s = time_after(self._last, elapsed_s)
        return expected_s if abs(expected_s - now_s) <= SLEWED_S else now_s

    def _last_record(self, after: Mark | None) -> tuple[Record | None, int]:
        tail = Tail(self.path, after)
        while tail.read():
            pass
        return tail.last, tail.offset

    def _write(self, data: bytes) -> None:
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._fd, rest) :]
            os.fsync(self._fd)
        except OSError as error:
            # Half a line in the middle would make the whole journal unreadable later.
            os.ftruncate(self._fd, self._size)
            raise RunDirectoryError(f"cannot write the journal {self.path}: {error.strerror}") from error
        self._size += len(data)


def disk_is_full(error: RunDirectoryError) -> bool:
    """Whether an append failed for want of space, so that it may be tried again."""
    cause = error.__cause__
    return isinstance(cause, OSError) and cause.errno in NO_SPACE


class Digest(Protocol):
    """What :mod:`hashlib` makes."""

    def update(self, data: memoryview, /) -> object: ...


class Tail:
    """Reads a journal that another process may be writing; never returns a torn record.

    ``offset`` is the number of bytes read as whole records so far, ``last`` the newest of them. It begins at
    the mark ``after``, if one is given. ``digest`` is updated with all that was read.
    """

    READ_BYTES = 1 << 20
    # A rank's last lines, or the names of ten thousand nodes, are far below it.
    LINE_BYTES = 16 << 20

    def __init__(self, path: Path | str, after: Mark | None = None, digest: Digest | None = None) -> None:
        self.path = Path(path)
        self.offset = after.offset if after else 0
        self.last = after.last if after else None
        self._digest = digest

    def read(self) -> list[Record]:
        """The next whole records, at most about a megabyte of them; empty when there are none (yet).

        A missing file reads as empty: the writer may not have created it. Raises
        :class:`JournalError` with line number and reason on anything but a torn last line.
        """
        records: list[Record] = []
        want_bytes = self.READ_BYTES
        while not records:
            data = self._bytes_from_offset(want_bytes)
            if len(data) == want_bytes and b"\n" not in data:
                if want_bytes > self.LINE_BYTES:
                    raise self._damage(f"is longer than {self.LINE_BYTES:,} bytes")
                want_bytes *= 2  # one line is longer than the whole read
                continue
            records = self._parse(data)
            break
        return records

    def _bytes_from_offset(self, count: int) -> bytes:
        try:
            with papers.open_plain(self.path) as file:
                size = file.seek(0, os.SEEK_END)
                if size < self.offset:
                    raise JournalError(
                        f"{self.path} shrank from {self.offset} to {size} bytes while it was read"
                    )
                file.seek(self.offset)
                return file.read(count)
        except FileNotFoundError:
            return b""
        except (OSError, papers.PaperError) as error:
            why = getattr(error, "strerror", None) or error
            remedy = "mend that, or move it away to start a new run"
            raise JournalError(f"{self.path} cannot be read: {why}; {remedy}") from None

    def _parse(self, data: bytes) -> list[Record]:
        lines = data.split(b"\n")
        records: list[Record] = []
        begin = self.offset
        for index, line in enumerate(lines[:-1]):
            try:
                body = papers.json_of(line)
            except papers.PaperError as error:
                if isinstance(error, papers.NotJsonError) and index == len(lines) - 2 and not lines[-1]:
                    break  # a last line that is no JSON is torn too: its blocks never reached the disk
                raise self._damage(str(error).removeprefix("it ")) from error
            if not isinstance(body, dict):
                raise self._damage("is not a JSON object")
            try:
                record = record_of(body, self.last)
            except papers.PaperError as error:
                raise self._damage(f"is not a record ({error})") from error
            except (ValueError, KeyError, TypeError) as error:
                raise self._damage(f"is not a record ({type(error).__name__}: {error})") from error
            self._check_order(record)
            self.last = record
            self.offset += len(line) + 1
            records.append(record)
        if self._digest is not None:
            self._digest.update(memoryview(data)[: self.offset - begin])
        return records

    def _check_order(self, record: Record) -> None:
        expected = self.last.seq + 1 if self.last else 0
        if record.seq != expected:
            raise self._damage(f"has seq {record.seq} where {expected} was expected")
        if self.last and record.elapsed_s < self.last.elapsed_s:
            raise self._damage(f"has elapsed_s {record.elapsed_s}, less than {self.last.elapsed_s} before it")

    def _damage(self, reason: str) -> JournalError:
        # every line is a record, and they are numbered without gaps
        line = self.last.seq + 2 if self.last else 1
        reason = papers.one_line(reason)
        return JournalError(f"{self.path}, line {line}: {reason}; move the file away to start a new run")


def replay(path: Path | str) -> Iterator[Record]:
    """All whole records from the first to the last that is there now."""
    reader = Tail(path)
    while records := reader.read():
        yield from records


def tail(
    path: Path | str,
    stop: Callable[[], bool],
    poll_s: float = 0.2,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Sequence[Record]]:
    """Groups of new whole records as they come, until ``stop()`` and nothing is left to read."""
    reader = Tail(path)
    while True:
        stopping = stop()
        if records := reader.read():
            yield records
        elif stopping:
            return
        else:
            sleep(poll_s)


def _open_exclusively(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise RunDirectoryError(f"cannot write the journal {path}: {error.strerror}") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        raise RunDirectoryError(
            f"{path} is being written by another live run; stop it or choose another run_dir"
        ) from error
    return fd
