"""What a process and all that it has started have done: counters that stand still when nothing happens.

`/proc/PID/io` counts what goes through files and pipes, and not what goes through sockets; the kernel's
socket diagnosis (what `ss -ti` prints) counts the bytes of TCP.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_WANT_TCP_INFO = 1 << 1  # INET_DIAG_INFO - 1


@dataclass(frozen=True)
class Vitals:
    """Sums over a tree of processes. ``cpu_s`` are seconds of a processor, ``io`` bytes and calls through
    files and pipes, ``faults`` pages that came from a disk, ``socket_bytes`` those of TCP in both
    directions."""

    pids: frozenset[int]
    cpu_s: float
    io: int
    faults: int
    files: frozenset[tuple[int, str]]
    socket_bytes: int


@dataclass(frozen=True)
class _Process:
    parent: int
    session: int
    cpu_s: float
    faults: int


def vitals(leaders: Iterable[int], quiet_port: int | None = None) -> dict[int, Vitals]:
    """By the process id of each rank, for itself and its descendants. What is said through ``quiet_port``
    does not count: at the rendezvous ranks ask for each other's state for as long as they live."""
    processes = _processes()
    moved = _tcp_bytes(quiet_port)
    return {
        pid: _of(pids, processes, moved)
        for pid, pids in trees(leaders, processes).items()
        if pid in processes
    }


def trees(
    leaders: Iterable[int], processes: Mapping[int, _Process] | None = None
) -> dict[int, frozenset[int]]:
    """By the process id of each rank, its own and its descendants'."""
    processes = _processes() if processes is None else processes
    return {pid: tree(pid, processes) for pid in leaders}


def tree(leader: int, processes: Mapping[int, _Process]) -> frozenset[int]:
    """A rank leads its session: those whose parent has ended are found by that."""
    children = defaultdict(list)
    for pid, process in processes.items():
        children[process.parent].append(pid)
    found = {pid for pid, process in processes.items() if process.session == leader}
    waiting = [leader, *found]
    while waiting:
        pid = waiting.pop()
        new = [child for child in children[pid] if child not in found]
        found.update(new)
        waiting += new
    return frozenset(found)


def _processes() -> dict[int, _Process]:
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                found[int(name)] = _parse(Path(f"/proc/{name}/stat").read_text())
    return found


def _parse(stat: str) -> _Process:
    """See proc(5); times are those of the process and of its children that it has asked after."""
    fields = stat.rpartition(")")[2].split()
    cpu_s = sum(map(int, fields[11:15])) / _TICKS_PER_S
    return _Process(
        parent=int(fields[1]), session=int(fields[3]), cpu_s=cpu_s, faults=int(fields[9]) + int(fields[10])
    )


def _of(pids: frozenset[int], processes: Mapping[int, _Process], moved: Mapping[str, int]) -> Vitals:
    files = {(pid, link) for pid in pids for link in _links(pid)}
    sockets = {link for _, link in files if link.startswith("socket:")}
    return Vitals(
        pids=pids,
        cpu_s=sum(processes[pid].cpu_s for pid in pids),
        io=sum(map(_io, pids)),
        faults=sum(processes[pid].faults for pid in pids),
        files=frozenset(files),
        socket_bytes=sum(moved.get(link, 0) for link in sockets),
    )


def _links(pid: int) -> list[str]:
    links = []
    with contextlib.suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                links.append(os.readlink(f"/proc/{pid}/fd/{name}"))
    return links


def _io(pid: int) -> int:
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{pid}/io").read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith(("rchar", "wchar", "sysc")))
    return 0


def _tcp_bytes(quiet_port: int | None) -> dict[str, int]:
    """By a socket's name in `/proc/PID/fd`."""
    from pyroute2 import DiagSocket  # half a second, and needed only when a run stands still

    found: dict[str, int] = {}
    with contextlib.suppress(OSError), DiagSocket() as diagnosis:  # a sandbox may refuse it
        diagnosis.bind()
        for family in (socket.AF_INET, socket.AF_INET6):
            for one in diagnosis.get_sock_stats(family=family, extensions=_WANT_TCP_INFO):
                info = one.get_attr("INET_DIAG_INFO")
                if info is not None and quiet_port not in (one["idiag_sport"], one["idiag_dport"]):
                    name = f"socket:[{one['idiag_inode']}]"
                    found[name] = int(info["tcpi_bytes_acked"]) + int(info["tcpi_bytes_received"])
    return found
