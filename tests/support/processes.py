"""Processes by what they are below and what they are called, cheaply enough to look all the time."""

from __future__ import annotations

import contextlib
import os
import signal
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import psutil

AHEAD = "an agent ahead of the next run"

_known: dict[tuple[int, int], psutil.Process] = {}


def below(*roots: psutil.Process | None) -> list[list[psutil.Process]]:
    """The descendants of each root, by one look at /proc; psutil would take one, and a longer one, for
    each."""
    children: dict[int, list[int]] = defaultdict(list)
    started: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (seen := _parent_and_start(int(name))) is not None:
            children[seen[0]].append(int(name))
            started[int(name)] = seen[1]
    # The number of a process that has ended may be somebody else's by now.
    there = [root is not None and root.is_running() for root in roots]
    return [
        _descendants(root.pid, children, started) if root and is_ else []
        for root, is_ in zip(roots, there, strict=True)
    ]


def _descendants(
    root: int, children: Mapping[int, list[int]], started: Mapping[int, int]
) -> list[psutil.Process]:
    found: list[psutil.Process] = []
    left = [root]
    while left:
        for pid in children.get(left.pop(), ()):
            left.append(pid)
            if (process := _process(pid, started[pid])) is not None:
                found.append(process)
    return found


def title(process: psutil.Process) -> str:
    """Its command line; empty when it has ended. An agent that no run has is told from one that a run has
    adopted, though Ray calls both the same."""
    try:
        called = " ".join(process.cmdline()).strip()
    except psutil.Error:
        return ""
    return AHEAD if called.startswith("ray::NodeAgentAhead") and not _ignores_sigterm(process) else called


def _ignores_sigterm(process: psutil.Process) -> bool:
    """As agents do, who leave it to their driver."""
    try:
        status = Path("/proc", str(process.pid), "status").read_text()
    except OSError:
        return True
    ignored = next(line for line in status.splitlines() if line.startswith("SigIgn:"))
    return bool(int(ignored.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


def running(process: psutil.Process) -> bool:
    """Whether it is there still; one that nobody buries is not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # it ended between the two
        return False


def end(*processes: psutil.Process) -> None:
    """SIGKILL those that are still there.

    psutil's own kill() strikes whoever has the number now, if the process was once found to have ended.
    """
    for process in processes:
        with contextlib.suppress(psutil.Error):
            if process.is_running():
                process.kill()


def _parent_and_start(pid: int) -> tuple[int, int] | None:
    """Fields 4 and 22 of /proc/PID/stat; the name before them may hold spaces and parentheses."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            text = file.read(1024)
    except OSError:
        return None
    fields = text[text.rindex(b")") + 2 :].split(None, 20)
    return int(fields[1]), int(fields[19])


def _process(pid: int, started: int) -> psutil.Process | None:
    """The same object every time: making one reads /proc again."""
    known = _known.get((pid, started))
    if known is None:
        try:
            known = _known[pid, started] = psutil.Process(pid)
        except psutil.Error:
            return None
    return known


def open_segments() -> set[str]:
    """Names in /dev/shm that a process has open or mapped."""
    paths: set[str] = set()
    for process in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):  # it has ended
            maps = Path(f"/proc/{process}/maps").read_text().splitlines()
            paths |= {line[line.index("/dev/shm/") :] for line in maps if "/dev/shm/" in line}
            for descriptor in os.listdir(f"/proc/{process}/fd"):
                with contextlib.suppress(OSError):  # it was closed
                    paths.add(os.readlink(f"/proc/{process}/fd/{descriptor}"))
    return {Path(path).name for path in paths if path.startswith("/dev/shm/")}
