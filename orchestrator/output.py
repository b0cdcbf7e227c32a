"""Standard output and error that no training depends on: closed, broken, full or of few characters; and that
tell no secret and give a terminal no orders but our own.

What a run prints is for people; the journal has everything. So whoever reads it may go (``| head -1``, a
terminal that was closed), and the run goes on with the exit code that it earns.
"""

from __future__ import annotations

import errno
import io
import os
import re
import sys
from typing import Any, TextIO

from orchestrator.errors import OrchestratorError
from orchestrator.redact import redact_text

# Nobody reads any more, and nobody will.
_GONE = {errno.EPIPE, errno.EIO, errno.ENXIO, errno.ECONNRESET}
# There may be space again later.
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


# Escape sequences, whole: of colours and the cursor (CSI), of titles, links and the clipboard (OSC), the
# rest.
_ESCAPE = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c)?|\x9b[0-?]*["
    r" -/]*[@-~]|\x1b[ -~]?"
)
# Control characters of both sets, and those that make a text read otherwise than it is written.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
# What Rich needs to draw: colours, erasing, moving and hiding the cursor.
_OURS = re.compile(r"\x1b\[(?:[0-9;]*[mKJABCDGH]|\?25[hl])")


def without_controls(text: str) -> str:
    """A text that did not come from us, without what a terminal would obey; new lines and tabs stay."""
    return _CONTROL.sub("", _ESCAPE.sub("", text)) if _CONTROL.search(text) else text


def _for_a_terminal(text: str) -> str:
    """Whatever was forgotten to be cleaned: no more than what draws."""
    parts, at = [], 0
    for ours in _OURS.finditer(text):
        parts += [_obeying_nothing(text[at : ours.start()]), ours[0]]
        at = ours.end()
    return "".join([*parts, _obeying_nothing(text[at:])])


def _obeying_nothing(text: str) -> str:
    return "\r".join(map(without_controls, text.split("\r")))


class OutputLost(OrchestratorError):
    """What was asked for was worked out, and is not there."""


class _Output(io.FileIO):
    """A descriptor of ours to write to; what cannot be written is lost without a word."""

    outlives_full_disks = False

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno in _FULL and not _Output.outlives_full_disks:
                _to_nowhere(self.fileno())  # the interpreter tries once more when it ends
                raise OutputLost(
                    f"what is printed cannot be written: {error.strerror}; print to another place"
                ) from None
            if error.errno not in _GONE | _FULL:
                raise
            if error.errno in _GONE:
                _to_nowhere(self.fileno())
            return memoryview(data).nbytes


class _Told(io.TextIOWrapper):
    """The last place that everything passes, whoever printed it."""

    def write(self, text: str, /) -> int:
        super().write(_for_a_terminal(redact_text(text)))
        return len(text)


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
    return _Told(
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
