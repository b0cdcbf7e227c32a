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

from orchestrator import papers
from orchestrator.processes import is_same, start_of

_PREFIX = "orchestrator-zygotes-"
_OWNER = "owner.json"


@dataclass(frozen=True)
class _Owner:
    """A process; ``pid_namespace`` is where its number means it."""

    pid: int
    start: str
    pid_namespace: str

    @classmethod
    def this(cls) -> _Owner:
        return cls(os.getpid(), start_of(), _pid_namespace())

    def has_ended(self) -> bool:
        """False where it cannot be known: a container may share the folder of another."""
        if self.pid_namespace != _pid_namespace():
            return False
        try:
            return not is_same(self.pid, self.start)
        except OSError:
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
