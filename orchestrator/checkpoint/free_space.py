"""How much may still be put into a folder: on a disk what is free there, in memory what the node has left for
us."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_IN_MEMORY = frozenset({"tmpfs", "ramfs", "devtmpfs", "hugetlbfs"})
_MEMINFO = Path("/proc/meminfo")
_CGROUP_OF_US = Path("/proc/self/cgroup")
_CGROUPS = Path("/sys/fs/cgroup")
# Ray ends workers of a node that uses 95% of its memory (RAY_memory_usage_threshold).
_SHORT_SHARE = 0.08


def room_bytes(directory: Path) -> int:
    """What may still be taken there, bytes: of a file system in memory no more than memory and limits
    leave."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return room(fd)[0]
    finally:
        os.close(fd)


def room(fd: int) -> tuple[int, int]:
    """Bytes that may still be taken in the file system that holds `fd`, and the error number for one more.

    A file system in memory promises by its size what the node may not have, and a control group kills
    whoever takes more than its limit: there the least of the three counts.
    """
    space = os.fstatvfs(fd)
    limits = []
    if space.f_blocks:  # one without a limit of its own says 0
        limits.append((space.f_bavail * space.f_frsize, errno.ENOSPC))
    if not limits or _is_in_memory(fd):
        limits += [(bytes_left, errno.ENOMEM) for bytes_left in _memory_left()]
    return min(limits)


def capacity_bytes(directory: Path) -> int:
    """What may be taken there at most, bytes, were nothing else there: of a file system in memory no more
    than the memory that the node, or a limit, gives us. Raises OSError."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        space = os.fstatvfs(fd)
        in_memory = _is_in_memory(fd)
    finally:
        os.close(fd)
    sizes = [space.f_blocks * space.f_frsize] if space.f_blocks else []
    return min([*sizes, _memory_bytes()]) if in_memory or not sizes else min(sizes)


def memory_is_short() -> bool:
    """Whether so little of the node's memory is left to us that somebody may soon be killed for it."""
    return min(_memory_left()) < _SHORT_SHARE * _memory_bytes()


def _memory_bytes() -> int:
    """All memory that we could have."""
    total = next(line for line in _MEMINFO.read_text().splitlines() if line.startswith("MemTotal:"))
    has = int(total.split()[1]) * 1024
    limit = cgroup_limit(_CGROUPS, _CGROUP_OF_US.read_text()) if _CGROUP_OF_US.exists() else None
    return has if limit is None else min(has, limit)


def _is_in_memory(fd: int) -> bool:
    """By the mount: numbers of devices are not those of the mount on some disks (btrfs)."""
    info = dict(
        line.split(":", 1) for line in Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines() if ":" in line
    )
    mount = info["mnt_id"].strip()
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        if fields[0] == mount:
            return fields[fields.index("-") + 1] in _IN_MEMORY
    return True  # mounts that nobody sees are the kernel's own, as that of memfd_create


def _memory_left() -> list[int]:
    available = next(line for line in _MEMINFO.read_text().splitlines() if line.startswith("MemAvailable:"))
    left = [int(available.split()[1]) * 1024]
    limited = cgroup_left(_CGROUPS, _CGROUP_OF_US.read_text()) if _CGROUP_OF_US.exists() else None
    return left if limited is None else [*left, limited]


def cgroup_left(root: Path, membership: str) -> int | None:
    """What the control groups of a process leave it, bytes; None without a limit.

    `root` is where they are mounted, `membership` the text of `/proc/PID/cgroup`. Every group above
    has a say. The cache of files counts as used there, but the kernel gives it up first: it is room.
    """
    left: list[int] = []
    for group, names in _groups_of(root, membership):
        try:
            allowed = (group / names.limit).read_text().strip()
            used = int((group / names.usage).read_text())
            stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        except OSError:
            continue
        if allowed != "max":
            left.append(max(0, int(allowed) - used + sum(int(stat.get(name, 0)) for name in names.cache)))
    return min(left, default=None)


def cgroup_limit(root: Path, membership: str) -> int | None:
    """The least limit of the control groups of a process, bytes; None without one."""
    limits: list[int] = []
    for group, names in _groups_of(root, membership):
        with contextlib.suppress(OSError):
            allowed = (group / names.limit).read_text().strip()
            limits += [int(allowed)] if allowed != "max" else []
    return min(limits, default=None)


class _Names(NamedTuple):
    """The files of a control group's memory controller, and what of its use is the cache of files."""

    limit: str
    usage: str
    cache: tuple[str, str]


_SECOND = _Names("memory.max", "memory.current", ("inactive_file", "active_file"))
_FIRST = _Names(
    "memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file")
)


def _groups_of(root: Path, membership: str) -> Iterator[tuple[Path, _Names]]:
    """The folders of the groups that have a say, from the process's own up, and what their files are
    called."""
    for line in membership.splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            top, names = root, _SECOND
        elif "memory" in controllers.split(","):
            top, names = root / "memory", _FIRST
        else:
            continue
        # In a container the path is sometimes the host's, which is not there; the top is then our own.
        below = Path(path.lstrip("/"))
        for group in (top / below, *(top / parent for parent in below.parents)):
            yield group, names
