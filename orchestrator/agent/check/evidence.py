"""What a node's counters say that has changed since an attempt began: why one of its ranks may have been
lost."""

from __future__ import annotations

import os
from pathlib import Path

from orchestrator.agent.check import gpu_health
from orchestrator.agent.check.counters import KERNEL_LOG, kernel_log, link_downs
from orchestrator.agent.memory_kills import MemoryKills
from orchestrator.check.reports import Figure, What
from orchestrator.config.hardware import local_gpus

# Those of a GPU that mean something when they have grown, and that nothing but faults makes grow.
_OF_GPU = (What.ECC, What.REMAPS, What.THERMAL, What.PROGRAM_XID, What.XID)


class Evidence:
    """Made when an attempt begins. What the driver or the kernel does not let us read says nothing."""

    def __init__(self, log: Path = KERNEL_LOG) -> None:
        self._memory_kills = MemoryKills()
        self._log = log
        self._position = _newest_line(log) if local_gpus() else -1
        self._before = {_key(one): one.value for one in self._counted([])}

    def memory_ran_out(self) -> bool:
        """Whether the kernel has killed a process for that since this was last asked."""
        return self._memory_kills.new()

    def of(self, local_rank: int) -> dict[str, float]:
        """What is new of the node, and of the GPU of this rank, by the names of figures."""
        gpus = local_gpus()
        gpu = gpus[local_rank].index if local_rank < len(gpus) else None
        log = kernel_log(self._log) if gpus else []
        lines = [line for line in log if _number(line) > self._position]
        found: dict[str, float] = {}
        for one in self._counted(lines):
            new = (
                one.value
                if one.what in (What.XID, What.PROGRAM_XID)
                else one.value - self._before.get(_key(one), 0.0)
            )
            if new > 0 and one.gpu in (None, gpu):
                found[str(one.what)] = max(new, found.get(str(one.what), 0.0))
        return found

    def _counted(self, lines: list[str]) -> list[Figure]:
        """Of all GPUs and NICs. Links and health of a GPU are looked at where there is one."""
        figures, _ = gpu_health.health(lines) if local_gpus() else ([], {})
        return [one for one in figures if one.what in _OF_GPU] + link_downs()


def _key(one: Figure) -> tuple[What, int | None, str]:
    return one.what, one.gpu, one.device


def _number(line: str) -> int:
    """``6,1201,98123456,-;text``: the second is the line's own number, which only grows."""
    parts = line.split(",", 2)
    return int(parts[1]) if len(parts) == 3 and parts[1].isdigit() else -1


def _newest_line(log: Path) -> int:
    if not os.access(log, os.R_OK):
        return -1
    return max((_number(line) for line in kernel_log(log)), default=-1)
