"""Logs of nodes that do not share the run directory: sent in pieces, put together in the driver's.

What travels is bounded, whatever ranks print: a log that is far behind jumps to its end and says how
much it left out. The log on the node that wrote it has more, and it and the driver's have the same bound.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Collection
from pathlib import Path

from orchestrator.agent.assignment import Assignment
from orchestrator.agent.localize import sees_mark
from orchestrator.agent.log_bound import LogBounds
from orchestrator.agent.messages import LogGrown
from orchestrator.errors import RunDirectoryError
from orchestrator.files import make_folder

# Of all nodes together, at each poll.
POLL_BYTES = 4 * 1024 * 1024
LEAST_BYTES = 16 * 1024
# How far a log may be behind before it jumps.
BEHIND_BYTES = 1024 * 1024


class LogSender:
    """On a node: what was added to its logs since the last call, at most ``room_bytes`` of all of them."""

    def __init__(self, folder: Path, nodes: int) -> None:
        self.folder = folder
        self.room_bytes = max(LEAST_BYTES, POLL_BYTES // nodes)
        self._offsets: dict[str, int] = {}
        self._passed_bytes: dict[str, int] = {}

    def follow(self, name: str) -> None:
        """Send this log from its present end on."""
        path = self.folder / name
        self._offsets.setdefault(name, path.stat().st_size if path.exists() else 0)

    def skip(self, name: str, offset: int) -> None:
        """Go on from there, if that is ahead: what is before is no more in the file."""
        ahead = offset - self._offsets.get(name, offset)
        if ahead > 0:
            self._passed_bytes[name] = self._passed_bytes.get(name, 0) + ahead
            self._offsets[name] = offset

    def parts(self, ended: Collection[str] = ()) -> list[LogGrown]:
        """A part per log that has grown; those that ``ended`` are sent to their end and then forgotten."""
        parts, room = [], self.room_bytes
        for left, name in zip(range(len(self._offsets), 0, -1), list(self._offsets), strict=True):
            last = name in ended
            share = self.room_bytes if last else room // left
            data = self._take(name, share, behind=share if last else BEHIND_BYTES)
            room = max(0, room - len(data))
            if data:
                parts.append(LogGrown(name, data))
            if last:
                del self._offsets[name]
        return parts

    def _take(self, name: str, room: int, behind: int) -> bytes:
        path, offset = self.folder / name, self._offsets[name]
        try:
            with path.open("rb") as stream:
                waiting = os.fstat(stream.fileno()).st_size - offset
                ahead = waiting - room if waiting > behind else 0
                offset += ahead
                stream.seek(offset)
                data = stream.read(room)
        except FileNotFoundError:
            return b""
        self._offsets[name] = offset + len(data)
        return self._notice(path, ahead) + data

    def _notice(self, path: Path, ahead: int) -> bytes:
        passed = self._passed_bytes.pop(path.name, 0)
        if not passed + ahead:
            return b""
        few = f"all but {passed:,} (launch.log_max_bytes)" if passed else "all"
        where = f"{path} on {socket.gethostname()}"
        return f"\n… {passed + ahead:,} bytes left out here; {few} are in {where} …\n".encode()


def sender_of(assignment: Assignment) -> LogSender | None:
    """For this node's logs, unless the driver sees them by itself. Makes the folder that logs go to."""
    run_dir = Path(assignment.places.run_dir)
    make_folder(run_dir)
    (run_dir / "logs").mkdir(exist_ok=True)
    if assignment.places.run_dir_mark is None or sees_mark(run_dir, assignment.places.run_dir_mark):
        return None
    return LogSender(run_dir / "logs", assignment.ranks.world_size // assignment.ranks.per_node)


class LogWriter:
    """On the driver: adds the parts to logs of the same names, and bounds these as nodes do theirs."""

    def __init__(self, folder: Path, bounds: LogBounds) -> None:
        self.folder = folder
        self._bounds = bounds

    def keep(self, part: LogGrown) -> None:
        """Raises :class:`RunDirectoryError` when the log cannot be written."""
        path = self.folder / Path(part.name).name
        try:
            with path.open("ab") as stream:
                stream.write(part.data)
        except OSError as error:
            raise RunDirectoryError(f"cannot write {path}: {error.strerror}") from None
        self._bounds.hold(path)
