"""Standard output and error that no training depends on: closed, broken, full or of few characters.

What a run prints is for people; the journal has everything. So whoever reads it may go (``| head -1``, a terminal
that was closed), and the run goes on with the exit code that it earns.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Any, TextIO

from orchestrator.errors import OrchestratorError

# Nobody reads any more, and nobody will.
_GONE = {errno.EPIPE, errno.EIO, errno.ENXIO, errno.ECONNRESET}
# There may be space again later.
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class OutputLost(OrchestratorError):
    """What was asked for was worked out, and is not there."""


class _Output(io.FileIO):
    """A descriptor of ours to write to; what can not be written is lost without a word."""

    outlives_full_disks = False

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno in _FULL and not _Output.outlives_full_disks:
                _to_nowhere(self.fileno())  # the interpreter tries once more when it ends
                raise OutputLost(
                    f"what is printed can not be written: {error.strerror}; print to another place"
                ) from None
            if error.errno not in _GONE | _FULL:
                raise
            if error.errno in _GONE:
                _to_nowhere(self.fileno())
            return memoryview(data).nbytes


def take_over() -> None:
    """Call once, before anything is printed or opened by a program that is all ours."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:  # the next file to be opened would have its number, and what is printed
            _to_nowhere(descriptor)
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115 - as long as the process
    sys.stdout = _patient(sys.stdout, 1, "replace")
    sys.stderr = _patient(sys.stderr, 2, "backslashreplace")


def outlive_full_disks() -> None:
    """From here on what does not fit on the disk that output goes to is left out, and is no error."""
    _Output.outlives_full_disks = True


def _patient(stream: TextIO | None, descriptor: int, errors: str) -> TextIO:
    raw = _Output(descriptor, "w", closefd=False)
    unbuffered = isinstance(stream, io.TextIOWrapper) and stream.write_through
    return io.TextIOWrapper(
        raw if unbuffered else io.BufferedWriter(raw),  # as Python's own with -u
        encoding=stream.encoding if stream is not None else "utf-8",
        errors=errors,
        line_buffering=descriptor == 2 or raw.isatty(),
        write_through=unbuffered,
    )


def _to_nowhere(descriptor: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, descriptor)
    if null != descriptor:
        os.close(null)
