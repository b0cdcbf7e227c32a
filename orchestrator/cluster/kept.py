"""The cluster that ``up`` keeps, on record for later runs of the same user on the same machine. Imports no Ray."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

_PROBE_TIMEOUT_S = 2.0


@dataclass(frozen=True)
class KeptCluster:
    """``head_pid`` is the ``ray start`` that ``up`` ran, None for a cluster that it only joined;
    ``head_created_unix_s`` tells it from a later process with the same number."""

    address: str
    dashboard_url: str | None
    session_dir: str | None
    head_pid: int | None
    head_created_unix_s: float | None
    since_unix_s: float
    idle_timeout_s: float

    @property
    def ours(self) -> bool:
        """Whether ``up`` started Ray there, so that ``down`` stops it."""
        return self.head_pid is not None

    def head(self) -> psutil.Process | None:
        """The process of our ``ray start``, if it is alive."""
        try:
            process = psutil.Process(self.head_pid)
            same = abs(process.create_time() - (self.head_created_unix_s or 0.0)) < 1.0
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None

    def answers(self) -> bool:
        """Whether it is there: its head runs, where that is ours, and something listens at its address."""
        if self.ours and self.head() is None:
            return False
        host, _, port = self.address.rpartition(":")
        try:
            socket.create_connection((host, int(port)), _PROBE_TIMEOUT_S).close()
        except OSError:
            return False
        return True


def state_dir() -> Path:
    """``orchestrator`` below the user's state directory (XDG Base Directory Specification)."""
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(home) / "orchestrator"


def find() -> KeptCluster | None:
    """The cluster on record, whether or not it still answers; an unreadable record is none."""
    try:
        return KeptCluster(**json.loads((state_dir() / "cluster.json").read_text()))
    except (OSError, ValueError, TypeError):
        return None


def record(kept: KeptCluster) -> None:
    """Write the record whole or not at all."""
    folder = state_dir()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    beside = folder / f".cluster.{os.getpid()}.tmp"
    beside.write_text(json.dumps(asdict(kept), indent=2) + "\n")
    beside.replace(folder / "cluster.json")


def forget() -> None:
    """Remove the record."""
    (state_dir() / "cluster.json").unlink(missing_ok=True)
