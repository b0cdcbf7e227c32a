"""What the node's own counters say: processor quotas, links of its NICs, faults in the kernel's log."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from orchestrator.check.reports import Figure, What

_CGROUPS = Path("/sys/fs/cgroup")
_SYS = Path("/sys/class")
KERNEL_LOG = Path("/dev/kmsg")
# "NVRM: Xid (PCI:0000:3b:00): 79, pid=1234, GPU has fallen off the bus."
_XID = re.compile(r"NVRM: Xid \(PCI:([0-9a-fA-F:.]+)\): (\d+)")
# XIDs of programs and not of hardware: a fault of theirs does not make a GPU bad (NVIDIA's XID catalogue).
_OF_PROGRAMS = frozenset({13, 31, 43, 45, 68, 69})
_MOST_LINES = 20_000


class Periods:
    """Of the processor quota of this process's control group: how often it held its processes back."""

    def __init__(self, root: Path = _CGROUPS, own: Path = Path("/proc/self/cgroup")) -> None:
        self._files = list(_cpu_stats(root, own))
        self._before = [_periods(file) for file in self._files]

    def throttled(self) -> float:
        """The share of the periods since this was made, of the group that was held back most; 0 without a
        quota."""
        after = [_periods(file) for file in self._files]
        shares = [
            (held - held_before) / (all_ - all_before)
            for (all_before, held_before), (all_, held) in zip(self._before, after, strict=True)
            if all_ > all_before
        ]
        return max(shares, default=0.0)


def _cpu_stats(root: Path, own: Path) -> Iterable[Path]:
    """Of this process's group and of those above it: version 2 has one tree, version 1 one for the
    processor."""
    for line in own.read_text().splitlines() if own.exists() else []:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        tree = root / controllers if controllers else root
        place = Path(path.lstrip("/"))
        yield from (file for way in (place, *place.parents) if (file := tree / way / "cpu.stat").is_file())


def _periods(file: Path) -> tuple[int, int]:
    try:
        stat = dict(line.split() for line in file.read_text().splitlines())
    except (OSError, ValueError):
        return 0, 0
    return int(stat.get("nr_periods", 0)), int(stat.get("nr_throttled", 0))


def link_downs(sys: Path = _SYS) -> list[Figure]:
    """How often the link of each NIC went down since the machine started: InfiniBand's own counter, and the
    carrier of every Ethernet that is hardware."""
    found = []
    for port in sorted(sys.glob("infiniband/*/ports/*")):
        downs = _number(port / "counters" / "link_downed")
        if downs is not None:
            found.append(Figure(What.LINK_DOWNS, downs, device=f"{port.parts[-3]}:{port.name}"))
    for device in sorted(sys.glob("net/*")):
        downs = _number(device / "carrier_down_count")
        if downs is not None and (device / "device").exists():
            found.append(Figure(What.LINK_DOWNS, downs, device=device.name))
    return found


def _number(file: Path) -> float | None:
    try:
        return float(file.read_text())
    except (OSError, ValueError):
        return None


def kernel_log(path: Path = KERNEL_LOG) -> list[str]:
    """The lines that the kernel still has; none where they may not be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return []
    lines: list[str] = []
    try:
        while len(lines) < _MOST_LINES:
            try:
                record = os.read(descriptor, 8192)
            except BrokenPipeError:  # what was to be read next has been written over
                continue
            if not record:
                break
            lines += record.decode(errors="replace").splitlines()
    except OSError:  # all of it has been read
        pass
    finally:
        os.close(descriptor)
    return lines


def xids(lines: Iterable[str], of_programs: bool = False) -> dict[str, int]:
    """The newest XID of hardware, or one that a program causes, by the GPU's place on the PCI bus, e.g.
    ``0000:3b:00``."""
    found = {}
    for line in lines:
        match = _XID.search(line)
        if match is not None and (int(match[2]) in _OF_PROGRAMS) == of_programs:
            found[match[1].lower()] = int(match[2])
    return found
