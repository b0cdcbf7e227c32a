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


def atomic_write(
    path: Path, content: str | bytes, mode: int = 0o644, *, durable: bool = True, beside: str | None = None
) -> Path:
    """Write a file whole or not at all: beside its place, then renamed. A reader sees the old content or the
    new one.

    Args:
        path: Where it is to be; a link in its place is replaced and not followed.
        content: All of it.
        mode: Its permissions from the first byte on, less what the umask takes.
        durable: Whether content and name are on the disk when this returns, to outlive a loss of power.
        beside: The name that it has until it is whole, for a folder in which what a crash leaves has to be
            known and is taken over by the next write. None is one that nobody else can have made.
    """
    partial = path.with_name(beside or f".{path.name}.{secrets.token_hex(8)}")
    fresh = os.O_TRUNC if beside else os.O_EXCL
    try:
        flags = os.O_WRONLY | os.O_CREAT | fresh | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(partial, flags, mode), "wb") as stream:
            stream.write(content if isinstance(content, bytes) else content.encode())
            stream.flush()
            if durable:
                os.fsync(stream.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    if durable:
        sync(path.parent)
    return path


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk when this returns."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
