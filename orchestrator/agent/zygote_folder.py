"""The folder in which a pool of zygotes keeps their logs, and what a pool that was killed has left of it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

import psutil

from orchestrator import papers

_PREFIX = "orchestrator-zygotes-"
_OWNER = "owner.json"
# Of the two clocks by which a process's start may have been told.
_SAME_START_S = 1.0


@dataclass(frozen=True)
class _Owner:
    """A process; ``pid_namespace`` is where its number means it."""

    pid: int
    started_unix_s: float
    pid_namespace: str

    @classmethod
    def this(cls) -> _Owner:
        return cls(os.getpid(), psutil.Process().create_time(), _pid_namespace())

    def has_ended(self) -> bool:
        """False where it cannot be known: a container may share the folder of another."""
        if self.pid_namespace != _pid_namespace():
            return False
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started_unix_s) < _SAME_START_S
            return not same or process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True
        except psutil.Error:
            return False


def make() -> Path:
    """A folder for our user alone that names this process; those of processes that have ended are removed."""
    for left in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        if _is_left(left):
            shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    (folder / _OWNER).write_text(json.dumps(dataclasses.asdict(_Owner.this())))
    return folder


def _is_left(folder: Path) -> bool:
    with contextlib.suppress(OSError, ValueError):
        seen = folder.lstat()
        if stat.S_ISDIR(seen.st_mode) and seen.st_uid == os.geteuid():
            return papers.made(_Owner, papers.read_object(folder / _OWNER)).has_ended()
    return False


def _pid_namespace() -> str:
    return os.readlink("/proc/self/ns/pid")
