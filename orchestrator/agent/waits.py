"""What a process waits for, as the kernel sees it: which system call its main thread is in, and on what.

`/proc/PID/syscall` names call and arguments to whoever may trace the process, which an agent may do with its
ranks. Where it is not allowed, `/proc/PID/wchan` names the function of the kernel that it sleeps in; where
both are hidden, nothing is known, and nothing is concluded from it.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import stat
import struct
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path


class Wait(StrEnum):
    """Completes the sentence "rank 3 …"."""

    COMPUTES = "computes"
    LOCK = "waits for a lock"
    PIPE = "waits for a pipe"
    WORKERS = "waits for its worker processes"
    CALL = "waits in a call that nothing ends"
    CHILD = "waits for a child process"
    TIMER = "sleeps"
    TERMINAL = "waits for a terminal"
    SOCKET = "waits for a connection"
    FILE_LOCK = "waits for a lock on a file"
    DISK = "waits for a disk or a device"
    STOPPED = "is stopped by a signal"
    DEBUGGER = "is held by a debugger"
    GONE = "is gone"
    UNKNOWN = "waits"


# Numbers differ by processor: x86_64, aarch64.
_CALLS = {
    Wait.TIMER: ((35, 230), (101, 115)),  # nanosleep, clock_nanosleep
    Wait.CHILD: ((61, 247), (260, 95)),  # wait4, waitid
    Wait.LOCK: ((202, 449, 220), (98, 449, 192)),  # futex, futex_waitv, semtimedop
    Wait.CALL: ((34, 130, 128), (133, 137)),  # pause, rt_sigsuspend, rt_sigtimedwait
    Wait.FILE_LOCK: ((73, 72), (32, 25)),  # flock, fcntl (which waits for nothing else)
    Wait.SOCKET: ((42, 43, 288, 44, 45, 46, 47, 299), (203, 202, 242, 206, 207, 211, 212, 243)),
}
# read, write and their kin: on the first argument
_READS = ((0, 1, 19, 20, 17, 18), (63, 64, 65, 66, 67, 68))
_POLLS = ((7, 271), (73,))  # poll, ppoll: an array of descriptors in the process's memory
_EPOLLS = ((232, 281, 441), (22, 441))
_MACHINES = {"x86_64": 0, "aarch64": 1}
_WCHAN = (
    (Wait.TIMER, re.compile(r"nanosleep")),
    (Wait.CHILD, re.compile(r"^do_wait|wait_consider|kernel_wait")),
    (Wait.LOCK, re.compile(r"futex")),
    (Wait.PIPE, re.compile(r"pipe_")),
    (Wait.SOCKET, re.compile(r"^sk_|inet_|unix_stream|skb_|tcp_")),
    (Wait.TERMINAL, re.compile(r"^n_tty|tty_")),
    (Wait.FILE_LOCK, re.compile(r"flock|locks_|posix_lock")),
    (Wait.CALL, re.compile(r"sigsuspend|^do_sys_pause|^__do_sys_pause|sigtimedwait")),
)
_MOST_POLLED = 1024


def wait_of(pid: int) -> Wait:
    """What the main thread of a process does or waits for now."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return Wait.GONE
    if _field(status, "TracerPid") != "0":
        return Wait.DEBUGGER
    match _field(status, "State")[0]:
        case "R":
            return Wait.COMPUTES
        case "T" | "t":
            return Wait.STOPPED
        case "D":
            return Wait.DISK
        case "Z" | "X":
            return Wait.GONE
    return _by_call(pid) or _by_kernel_function(pid)


def _field(status: str, name: str) -> str:
    return next(line.partition(":")[2].strip() for line in status.splitlines() if line.startswith(f"{name}:"))


def _by_call(pid: int) -> Wait | None:
    """None where it cannot be seen."""
    machine = _MACHINES.get(platform.machine())
    try:
        words = Path(f"/proc/{pid}/syscall").read_text().split()
    except OSError:
        return None
    if machine is None or not words or words[0] in ("running", "-1"):
        return Wait.COMPUTES if words[:1] == ["running"] else None
    number, arguments = int(words[0]), [int(word, 16) for word in words[1:]]
    for wait, calls in _CALLS.items():
        if number in calls[machine]:
            return wait
    if number in _READS[machine]:
        return _of_descriptors(pid, [arguments[0]])
    if number in _POLLS[machine]:
        return _of_descriptors(pid, _polled(pid, arguments[0], arguments[1]))
    if number in _EPOLLS[machine]:
        return _of_descriptors(pid, _in_epoll(pid, arguments[0]))
    return Wait.UNKNOWN


def _by_kernel_function(pid: int) -> Wait:
    with contextlib.suppress(OSError):
        name = Path(f"/proc/{pid}/wchan").read_text()
        return next((wait for wait, pattern in _WCHAN if pattern.search(name)), Wait.UNKNOWN)
    return Wait.UNKNOWN


def _polled(pid: int, address: int, count: int) -> list[int]:
    """The descriptors of an array of ``struct pollfd``."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/mem", "rb") as memory:
        memory.seek(address)
        data = memory.read(8 * min(count, _MOST_POLLED))
        return [fd for fd, _events, _revents in struct.iter_unpack("=ihh", data)]
    return []


def _in_epoll(pid: int, descriptor: int) -> list[int]:
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{pid}/fdinfo/{descriptor}").read_text().splitlines()
        return [int(line.split()[1]) for line in lines if line.startswith("tfd:")]
    return []


def _of_descriptors(pid: int, descriptors: Iterable[int]) -> Wait:
    """What a wait for several is a wait for; a connection among them is what may bring an answer from
    elsewhere."""
    kinds = {_kind(pid, descriptor) for descriptor in descriptors}
    order = (Wait.SOCKET, Wait.TERMINAL, Wait.UNKNOWN, Wait.PIPE, Wait.LOCK)
    return next((wait for wait in order if wait in kinds), Wait.UNKNOWN if not kinds else kinds.pop())


def _kind(pid: int, descriptor: int) -> Wait:
    path = f"/proc/{pid}/fd/{descriptor}"
    try:
        target = os.readlink(path)
        mode = os.stat(path).st_mode
    except OSError:
        return Wait.UNKNOWN
    if target.startswith("socket:"):
        return Wait.PIPE if _is_local(pid, target) else Wait.SOCKET
    if stat.S_ISFIFO(mode):
        return Wait.PIPE
    if stat.S_ISCHR(mode):
        return Wait.TERMINAL if re.match(r"/dev/(pts|tty|console)", target) else Wait.UNKNOWN
    if target.startswith("anon_inode:[eventfd]"):
        return Wait.LOCK
    return Wait.DISK if stat.S_ISREG(mode) else Wait.UNKNOWN


def _is_local(pid: int, target: str) -> bool:
    """Whether a socket is one between processes of this machine, as `multiprocessing` uses for its pipes."""
    inode = target.removeprefix("socket:[").rstrip("]")
    with contextlib.suppress(OSError), open(f"/proc/{pid}/net/unix") as table:
        return any(line.split()[6:7] == [inode] for line in table)
    return False
