"""Whether the kernel killed a process of this node because memory ran out, and whether Ray would do so before
it."""

from __future__ import annotations

import os
from pathlib import Path

# Counters of the control group that this process is in (version 2, then 1), and of the whole host.
_COUNTERS = (
    (Path("/sys/fs/cgroup/memory.events"), "oom_kill"),
    (Path("/sys/fs/cgroup/memory/memory.oom_control"), "oom_kill"),
    (Path("/proc/vmstat"), "oom_kill"),
)


_MONITOR_OFF = b"RAY_memory_monitor_refresh_ms=0"


def monitor_remark() -> str | None:
    """What there is to say where this process's Ray watches memory: it kills its own workers, so the agent
    with all ranks of the node, and not the rank that grew."""
    parent = Path(f"/proc/{os.getppid()}")
    try:
        is_raylet = parent.joinpath("comm").read_text().strip() == "raylet"
        settings = parent.joinpath("environ").read_bytes().split(b"\0")
    except OSError:
        return None
    if not is_raylet or _MONITOR_OFF in settings:
        return None
    return (
        "Ray's memory monitor is on: when the host's memory runs out, it ends all ranks of the node instead"
        " of the one that grew; start Ray there with RAY_memory_monitor_refresh_ms=0"
    )


class MemoryKills:
    """Notices by the kernel's counters. Others' processes count too where the whole host is short of
    memory."""

    def __init__(self) -> None:
        self._seen = _kills()

    def new(self) -> bool:
        """Whether there was any since the last call."""
        before, self._seen = self._seen, _kills()
        return any(now > then for then, now in zip(before, self._seen, strict=True))


def _kills() -> list[int]:
    return [_count(path, name) for path, name in _COUNTERS]


def _count(path: Path, name: str) -> int:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.split()[:1] == [name]), 0)
