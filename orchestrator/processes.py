"""By what a process is known again: its number, and when it began.

The kernel gives numbers again. When a process began it tells in clock ticks since the machine was started,
which stays what it is; as a time of day it would be another after each step of the clock, and a driver that
computes would be taken for one that is gone.
"""

from __future__ import annotations

from pathlib import Path

import psutil

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
# In /proc/PID/stat after the name, which may hold blanks and brackets: the state is the third of all fields,
# when it began the 22nd (proc_pid_stat(5)).
_STATE, _STARTTIME = 0, 19
_DEAD = ("Z", "X", "x")


def start_of(pid: int | None = None) -> str:
    """When a process began, this one unless told: the start of the machine, and clock ticks since then.

    Raises ``OSError`` where there is none of that number.
    """
    return f"{_boot_id()}/{_stat('self' if pid is None else str(pid))[_STARTTIME]}"


def is_same(pid: int, start: str) -> bool:
    """Whether the process with this number is the one that began then, and has not ended.

    Raises ``OSError`` where that cannot be known.
    """
    try:
        fields = _stat(str(pid))
    except (FileNotFoundError, ProcessLookupError):
        return False
    return fields[_STATE] not in _DEAD and f"{_boot_id()}/{fields[_STARTTIME]}" == start


def same_process(pid: int, start: str) -> psutil.Process | None:
    """It, if it is the one that began then, and has not ended. Raises ``OSError`` as :func:`is_same`."""
    try:
        found = psutil.Process(pid)
    except psutil.NoSuchProcess:
        return None
    return found if is_same(pid, start) else None


def _stat(pid: str) -> list[str]:
    return Path("/proc", pid, "stat").read_text(errors="replace").rpartition(")")[2].split()


def _boot_id() -> str:
    """Nothing where the kernel does not tell, as in a sandbox: the ticks have to do then."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""
