"""Logs of processes that go on for months, kept bounded: what is written to a log goes on, and what stood in
it is beside it as ``.1`` until that is replaced in turn."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

MOST_BYTES = 16 << 20


def keep_bounded(log: Path, most_bytes: int = MOST_BYTES) -> None:
    """Who writes to it appends, through a descriptor that it got long ago: so it is copied and made empty
    rather than renamed. What is written in between is lost."""
    with contextlib.suppress(OSError):  # a disk that is full, or a log that is gone: it is tried again
        descriptor = os.open(log, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(descriptor, "r+b") as stream:
            if os.fstat(stream.fileno()).st_size <= most_bytes:
                return
            before = log.with_name(f"{log.name}.1")
            before.unlink(missing_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            with os.fdopen(os.open(before, flags, 0o600), "wb") as kept:
                shutil.copyfileobj(stream, kept)
            stream.truncate(0)
