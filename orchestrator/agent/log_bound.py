"""Logs that stay within a bound while they are written: what lies between their first and last lines is left
out.

A rank appends to its log by a descriptor that it inherited and its children have too. So the file can be
neither replaced nor shortened without losing lines, and whoever reads along must find the rest at the same
offsets. What is left out becomes a hole: the file keeps its length, and the disk gets the blocks back. A hole
reads as zero bytes. So each begins with a line that says what it is and ends with the end of a line, and
there are many small ones rather than a large one, which ``grep -a`` would take for one line and hold in
memory.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_FALLOC_FL_KEEP_SIZE, _FALLOC_FL_PUNCH_HOLE = 0x1, 0x2
# The first lines tell how a run was set up: more of them than this is no beginning any more.
_MOST_HEAD_BYTES = 4 * 1024 * 1024
# Of one hole. Making one of this size takes milliseconds.
_MOST_HOLE_BYTES = 64 * 1024 * 1024
# So far the end of a line is looked for.
_LINE_BYTES = 4096
# What a disk gives at a time. Some claim to give megabytes, which is what they like to be asked for: so much
# of a bound is believed.
_BLOCK_BYTES, _BLOCK_SHARE = 4096, 64
LEAST_BYTES = _BLOCK_BYTES * _BLOCK_SHARE


@dataclass
class _Holes:
    """What is left out of one log: all between ``begin`` and ``end``, but for a block on both sides of each
    hole."""

    begin: int = 0
    end: int = 0
    count: int = 0


class LogBound:
    """Keeps one log within ``most_bytes``: an eighth of them (4 MiB at most) of its beginning, at least
    half of them of its end.

    What is counted is what was printed, not what the file system says it takes: that may compress, allocate
    ahead, or tell late.
    """

    def __init__(self, path: Path, most_bytes: int) -> None:
        self.path = path
        self.most_bytes = max(most_bytes, LEAST_BYTES)
        self._head_bytes = min(self.most_bytes // 8, _MOST_HEAD_BYTES)
        self._hole_bytes = min(self.most_bytes // 4, _MOST_HOLE_BYTES)
        self._block_bytes = _BLOCK_BYTES
        self._holes = _Holes()

    @property
    def end(self) -> int:
        """Where the last hole ends: what is before is left out, or the beginning. 0 while nothing is left
        out."""
        return self._holes.end

    def hold(self) -> None:
        """Leave out as much as is too much. Raises ``OSError`` where the file system cannot do that."""
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return
        if status.st_size < self._holes.end:  # somebody emptied it
            self._holes = _Holes()
        if self._kept(status.st_size) <= self.most_bytes:
            return
        self._block_bytes = min(max(status.st_blksize, _BLOCK_BYTES), self.most_bytes // _BLOCK_SHARE)
        # Not by the rank's descriptor, with which everything is written to the end.
        fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        try:
            while self._kept(status.st_size) > self.most_bytes:
                self._leave_out(fd)
        finally:
            os.close(fd)

    def _kept(self, size: int) -> int:
        """Bytes on the disk, the blocks around the holes in full."""
        return size - (self._holes.end - self._holes.begin) + self._around(self._holes.count)

    def _around(self, count: int) -> int:
        return 2 * self._block_bytes * count

    def _leave_out(self, fd: int) -> None:
        """Another hole behind the last one, or, where what is around them takes an eighth of the bound, one
        for all."""
        holes = self._holes
        if not holes.count:
            begin = self._end_of_head(fd)
            grown = _Holes(begin, begin, 1)
        elif self._around(holes.count + 1) > self.most_bytes // 8:
            begin = holes.begin
            grown = _Holes(begin, begin, 1)
        else:
            begin = holes.end
            grown = _Holes(holes.begin, begin, holes.count + 1)
        grown.end = _line_after(fd, max(holes.end, grown.begin) + self._hole_bytes)
        left_out = f"{grown.end - begin:,} bytes of this log are left out here ({self._key})"
        notice = f"[orchestrator] {left_out}\n".encode()
        if begin and os.pread(fd, 1, begin - 1) != b"\n":
            notice = b"\n" + notice
        _punch(fd, begin + len(notice), grown.end - 1)
        self._holes = grown
        # Both where something has been before, so that a full disk is no obstacle.
        os.pwrite(fd, notice, begin)
        os.pwrite(fd, b"\n", grown.end - 1)

    def _end_of_head(self, fd: int) -> int:
        """Where the last line that is whole in the beginning ends; in the midst of one that is very long."""
        window = os.pread(fd, _LINE_BYTES, self._head_bytes - _LINE_BYTES)
        return self._head_bytes - _LINE_BYTES + (window.rfind(b"\n") + 1 or _LINE_BYTES)

    @property
    def _key(self) -> str:
        return f"launch.log_max_bytes={self.most_bytes}"


class LogBounds:
    """All logs of a process's care, bounded alike; None and 0 are no bound. ``notice`` is told when the first
    one reaches it, and, once, where that cannot be helped."""

    def __init__(self, most_bytes: int | None, notice: Callable[[str], None]) -> None:
        self.most_bytes = most_bytes
        self._notice = notice
        self._bounds: dict[Path, LogBound] = {}
        self._told: set[str] = set()

    def left_out(self, path: Path) -> bool:
        """Whether there is a part of this one that nobody finds in it any more."""
        return path in self._bounds and self._bounds[path].end > 0

    def hold(self, path: Path) -> int:
        """Bound this one; the offset before which there is nothing to be read any more."""
        if not self.most_bytes:
            return 0
        bound = self._bounds.setdefault(path, LogBound(path, self.most_bytes))
        try:
            bound.hold()
        except OSError as error:
            self._tell(
                f"logs in {path.parent} grow beyond launch.log_max_bytes={self.most_bytes}: nothing can be"
                f" left out of them there ({error.strerror}); watch that disk, or choose a run_root on"
                " another file system"
            )
        if bound.end:
            self._tell(
                f"logs have reached launch.log_max_bytes={self.most_bytes}: from here on what lies between"
                " their first and last lines is left out of them"
            )
        return bound.end

    def _tell(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self._notice(text)


def _line_after(fd: int, offset: int) -> int:
    """Where the first line that begins there or soon after does; else the offset itself."""
    return offset + os.pread(fd, _LINE_BYTES, offset).find(b"\n") + 1


def _punch(fd: int, begin: int, end: int) -> None:
    """Free what is on the disk of a part of a file, which then reads as zeros. Raises ``OSError``."""
    libc = ctypes.CDLL(None, use_errno=True)
    offset = ctypes.c_int64
    libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, offset, offset)
    while libc.fallocate(fd, _FALLOC_FL_PUNCH_HOLE | _FALLOC_FL_KEEP_SIZE, begin, end - begin) != 0:
        number = ctypes.get_errno()
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))
