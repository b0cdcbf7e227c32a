"""File systems with a limit of their own, and somebody else's file that fills them."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path

MB = 1 << 20


class NoDisksError(Exception):
    """This machine lets us mount nothing; the message says why."""


def mount(folder: Path, size_mb: int) -> Path:
    """Make the folder a file system in memory. Raises :class:`NoDisksError`."""
    folder.mkdir(exist_ok=True)
    options = ["-t", "tmpfs", "-o", f"size={size_mb}m", "small", str(folder)]
    done = subprocess.run(["mount", *options], capture_output=True, text=True, check=False)
    if done.returncode:
        raise NoDisksError(f"this machine lets us mount nothing: {done.stderr.strip()}")
    return folder


def unmount(folder: Path) -> None:
    """Also while somebody has a file of it open."""
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path, leaving_bytes: int = 0) -> None:
    """As somebody else's file would."""
    with (disk / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(MB // 8)):
            pass
    os.truncate(disk / "filler", max(0, (disk / "filler").stat().st_size - leaving_bytes))


def free(disk: Path) -> None:
    """As it was before :func:`fill`."""
    (disk / "filler").unlink(missing_ok=True)
