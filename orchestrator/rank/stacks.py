"""A rank's Python stacks, for whoever asks, whatever the rank is doing.

`faulthandler` writes them, and it walks through threads that must not move meanwhile. So a thread of the rank
that holds the interpreter's lock answers the question, which comes through the rank's link. Where that thread
cannot get the lock, because native code keeps it, nobody else runs Python either, and a signal is answered
without the lock. (Without it, and beside a thread that does run, one answer in nine was a crash.)

The answer goes into memory of the rank's own: a file without a name, so that there is nothing to tidy up
after ranks that were never asked, and a full disk loses no answer. The agent reads it through the rank's
descriptors, as long as the rank lives.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import faulthandler
import json
import os
import signal
from typing import Any

from orchestrator.rank import collectives
from orchestrator.rank.stop_signals import ignore

# Real-time: scripts and libraries use SIGUSR1 and SIGUSR2 for purposes of their own.
SIGNAL = signal.SIGRTMIN + 13
FILE_NAME = "orchestrator-stacks"
GROUPS_MARK = "Process groups: "  # before a line of JSON, after the stacks of a thread's answer
_NOEXEC_SEAL = 8  # MFD_NOEXEC_SEAL; the os module does not name it


class Answers:
    """The rank's end: `write` answers a question that came through the link."""

    def __init__(self) -> None:
        """Answer signals from now on. Raises OSError where the kernel gives no such file."""
        try:
            self._descriptor = os.memfd_create(FILE_NAME, os.MFD_CLOEXEC)
        except PermissionError:
            # vm.memfd_noexec=2 refuses one that could be executed; older kernels do not know the flag
            self._descriptor = os.memfd_create(FILE_NAME, os.MFD_CLOEXEC | _NOEXEC_SEAL)
        # What `unregister` leaves behind: a question that was on its way must not kill, as the default does.
        ignore(SIGNAL)
        faulthandler.register(SIGNAL, file=self._descriptor, all_threads=True, chain=False)

    def write(self) -> None:
        faulthandler.dump_traceback(file=self._descriptor, all_threads=True)
        groups_seen: dict[str, Any] = {}
        with contextlib.suppress(Exception):  # the stacks are worth more than what torch can tell beside them
            groups_seen = {name: dataclasses.asdict(group) for name, group in collectives.groups().items()}
        os.write(
            self._descriptor, f"{GROUPS_MARK}{json.dumps(groups_seen, separators=(',', ':'))}\n".encode()
        )


def stop_answering_at_exit() -> None:
    """Called before anything else registers with `atexit`, and so the last to run: an interpreter that is
    taken apart then has no threads to walk through, and an answer of `faulthandler` would be a crash."""
    atexit.register(faulthandler.unregister, SIGNAL)


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
