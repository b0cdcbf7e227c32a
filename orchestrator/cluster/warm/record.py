"""The cluster that ``up`` keeps, on record for later runs of the same user on the same machine. Imports no
Ray."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

from orchestrator import papers
from orchestrator.errors import ClusterError
from orchestrator.files import atomic_write
from orchestrator.processes import is_same
from orchestrator.trust import why_not_ours

TOKEN = "auth_token"
_PROBE_TIMEOUT_S = 2.0
_STATE, _UID, _LISTENS = 3, 7, "0A"  # of /proc/net/tcp


@dataclass(frozen=True)
class WarmCluster:
    """``head_pid`` is the ``ray start`` that ``up`` ran, None for a cluster that it only joined;
    ``head_start`` tells it from a later process with the same number (see `processes`); of a record of an
    earlier version ``head_created_unix_s`` does, until the clock steps. ``heard_uids`` are the users who
    listened at the address when it was joined, where that is this machine's."""

    address: str
    dashboard_url: str | None
    session_dir: str | None
    head_pid: int | None
    head_created_unix_s: float | None
    since_unix_s: float
    idle_timeout_s: float
    heard_uids: list[int] = field(default_factory=list)
    head_start: str | None = None

    @property
    def ours(self) -> bool:
        """Whether ``up`` started Ray there, so that ``down`` stops it."""
        return self.head_pid is not None

    def head(self) -> psutil.Process | None:
        """The process of our ``ray start``, if it is alive."""
        return self._head_of(lambda uid: uid == os.getuid())

    def head_of_another(self) -> int | None:
        """Whose it is, where the record names the ``ray start`` of another user; None where it does not."""
        if self.head_pid is None or (head := self._head_of(lambda uid: uid != os.getuid())) is None:
            return None
        return int(head.uids().real)

    def _head_of(self, right: Callable[[int], bool]) -> psutil.Process | None:
        try:
            process = psutil.Process(self.head_pid)
            same = self._is_head(process) and right(process.uids().real)
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None

    def _is_head(self, process: psutil.Process) -> bool:
        if self.head_start is not None:
            return is_same(process.pid, self.head_start)
        return abs(process.create_time() - (self.head_created_unix_s or 0.0)) < 1.0

    def is_running(self) -> bool:
        """Whether our head or what it started is there: a record may be older than the last start of the
        machine, and another session have its number."""
        return self.head() is not None or any(map(self._is_ours, psutil.process_iter()))

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            return (
                self.session_dir is not None
                and os.getsid(process.pid) == self.head_pid
                and process.uids().real == os.getuid()
                and any(self.session_dir in word for word in process.cmdline())
            )
        except (psutil.Error, OSError):
            return False

    def answers(self) -> bool:
        """Whether it is there: its head runs, where that is ours, and somebody listens at its address, who is
        no other user than the one that was joined: our token would be shown to whoever took a port that is
        free again."""
        if self.ours and self.head() is None:
            return False
        host, _, port = self.address.rpartition(":")
        if self.heard_uids and not heard_at(self.address) <= set(self.heard_uids):
            return False
        try:
            socket.create_connection((host, int(port)), _PROBE_TIMEOUT_S).close()
        except (OSError, ValueError):  # a host that no name can be made of
            return False
        return True

    def why_cut_off(self) -> str | None:
        """Why nothing can connect to it although it runs; None where something can.

        Ray ends a process that tries, without a word. Its own go on writing their logs, so that the folder
        may be there again, without what was in it.
        """
        if not self.ours or not self.session_dir or Path(self.session_dir, "sockets").is_dir():
            return None
        return (
            f"{self.address}: the folder of its Ray, {self.session_dir}, was deleted under it, and nothing"
            " can connect to it any more"
        )


def heard_at(address: str) -> set[int]:
    """The users who listen at a port of this machine, as the kernel tells it; none for another machine's
    address."""
    host, _, port = address.rpartition(":")
    if host not in {held.address for each in psutil.net_if_addrs().values() for held in each}:
        return set()
    lines = [line.split() for table in ("tcp", "tcp6") for line in _table(table)]
    return {
        int(line[_UID])
        for line in lines
        if line[_STATE] == _LISTENS and int(line[1].rpartition(":")[2], 16) == int(port)
    }


def _table(name: str) -> list[str]:
    try:
        return Path("/proc/net", name).read_text().splitlines()[1:]
    except OSError:  # a kernel without IPv6
        return []


def home() -> Path | None:
    """The user's home; None where nothing says which: no HOME, and a user id that has no entry in passwd."""
    try:
        return Path.home()
    except RuntimeError:
        return None


def state_dir() -> Path | None:
    """``orchestrator`` below the user's state directory (XDG Base Directory Specification), None without a
    home."""
    named = os.environ.get("XDG_STATE_HOME")
    if named:
        return Path(named) / "orchestrator"
    here = home()
    return here / ".local" / "state" / "orchestrator" if here is not None else None


def make_state_dir() -> Path:
    """The same, there and writable. Raises :class:`ClusterError`."""
    folder, why = state_dir(), "HOME is not set, and this user has no entry in passwd"
    if folder is not None:
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if os.access(folder, os.W_OK | os.X_OK):
                return folder
            why = f"{folder} cannot be written"
        except OSError as error:
            why = f"{folder} cannot be made ({error.strerror})"
    raise ClusterError(
        f"no place to keep a cluster on record: {why}; set XDG_STATE_HOME to a folder that you may write, "
        "for later commands too"
    )


def token_path() -> Path | None:
    """The file with the user's token: in Ray's place, or in ours where the home could not be written."""
    here, ours = home(), state_dir()
    places = [here / ".ray" / TOKEN] if here is not None else []
    places += [ours / TOKEN] if ours is not None else []
    for path in places:
        if os.access(path, os.R_OK):
            return path
    return None


def find() -> WarmCluster | None:
    """The cluster on record, whether or not it still answers; one that cannot be read, or that others could
    have written, is none: our token would be shown to whom it names."""
    folder = state_dir()
    if folder is None or not folder.exists() or why_not_ours(folder) is not None:
        return None
    try:
        known = papers.made(WarmCluster, papers.read_object(folder / "cluster.json"))
    except (OSError, ValueError):
        return None
    return known if _can_be(known) else None


def _can_be(cluster: WarmCluster) -> bool:
    """Whether what is on record can be asked for: a port, a process and a time that there can be."""
    port = cluster.address.rpartition(":")[2]
    is_port = port.isascii() and port.isdigit() and len(port) <= 5 and int(port) < 1 << 16
    is_process = cluster.head_pid is None or 0 < cluster.head_pid < 1 << 31
    return (
        is_port
        and is_process
        and 0 <= cluster.since_unix_s < papers.LATEST_UNIX_S
        and cluster.idle_timeout_s > 0
    )


def record(cluster: WarmCluster) -> None:
    """Write the record whole or not at all."""
    folder = make_state_dir()
    atomic_write(folder / "cluster.json", json.dumps(asdict(cluster), indent=2) + "\n", 0o600)


def forget() -> None:
    """Remove the record."""
    if (folder := state_dir()) is not None:
        (folder / "cluster.json").unlink(missing_ok=True)
