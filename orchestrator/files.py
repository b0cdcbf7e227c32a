"""Files that are written whole or not at all, and opened without following somebody's link."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from pathlib import Path
from typing import IO

# Of an OSError: the disk or the quota is full, and may have room again.
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


def make_folder(path: Path, mode: int = 0o700) -> None:
    """Make a folder of this mode, for its owner alone unless it is said otherwise; one that is there stays as
    it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=mode)


def open_no_link(path: Path, mode: str) -> IO[str]:
    """Open a file to append to, and not what a link in its place leads to."""
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags, 0o644), mode, encoding="utf-8")


def write_whole(path: Path, content: str | bytes, mode: int = 0o644, synced: bool = True) -> Path:
    """Write a file whole or not at all, beside its place and under a name that nobody else can have made;
    ``synced`` when it must be there after a loss of power too."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(beside, flags, mode), "wb") as stream:
            stream.write(content if isinstance(content, bytes) else content.encode())
            stream.flush()
            if synced:
                os.fsync(stream.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    return path
