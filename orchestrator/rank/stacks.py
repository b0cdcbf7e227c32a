"""A rank's Python stacks, for whoever asks by a signal, whatever the rank is doing.

`faulthandler` answers from native code without the interpreter's lock, so a main thread that waits in a
collective answers as well. It writes into memory of the rank's own: a file without a name, so that there is
nothing to tidy up after ranks that were never asked, and a full disk loses no answer. The agent reads it
through the rank's descriptors, as long as the rank lives.
"""

from __future__ import annotations

import faulthandler
import os
import signal

# Real-time: scripts and libraries use SIGUSR1 and SIGUSR2 for purposes of their own.
SIGNAL = signal.SIGRTMIN + 13
FILE_NAME = "orchestrator-stacks"
_NOEXEC_SEAL = 8  # MFD_NOEXEC_SEAL; the os module does not name it


def answer_when_asked() -> None:
    """Answer from now on. Raises OSError where the kernel gives no such file."""
    try:
        descriptor = os.memfd_create(FILE_NAME, os.MFD_CLOEXEC)
    except PermissionError:  # vm.memfd_noexec=2 refuses one that could be executed; older kernels do not know the flag
        descriptor = os.memfd_create(FILE_NAME, os.MFD_CLOEXEC | _NOEXEC_SEAL)
    faulthandler.register(SIGNAL, file=descriptor, all_threads=True, chain=False)


def answers_of(pid: int) -> str | None:
    """Path of what a rank has answered so far; None when it has ended or answers nobody."""
    folder = f"/proc/{pid}/fd"
    try:
        for name in os.listdir(folder):
            try:
                if os.readlink(f"{folder}/{name}").startswith(f"/memfd:{FILE_NAME}"):
                    return f"{folder}/{name}"
            except FileNotFoundError:  # closed since it was listed
                continue
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        pass
    return None
