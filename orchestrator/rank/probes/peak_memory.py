"""The most memory that a rank has taken, told now and then.

Of a GPU: the peak of what torch has reserved, and what is in use there beside it now, that is the context and
the communicators' buffers. Of a processor's rank: its own private pages at their peak. A forked rank shares
what the zygote has imported with it, so its resident set counts pages twice; and its share of them (PSS)
depends on how many ranks there are. Slots that checkpoints are staged in are the node's memory and not the
rank's.

`VmHWM` is that peak of the resident set, from which what is shared now is taken. Reading it walks the page
tables, some milliseconds per gigabyte, so a thread does it, after steps 1, 2, 4, 8, … of an attempt: memory
hardly grows once all of them, optimizer included, have been through a step or two.
"""

from __future__ import annotations

import _thread
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

_PROC = Path("/proc/self")


class PeakMemory:
    """Of one rank; `tell` gets the step and the bytes, or None where they could not be had, from any
    thread."""

    def __init__(self, tell: Callable[[int, int | None], None]) -> None:
        self._tell = tell
        self._steps = 0

    def step_done(self, step: int, device: Any) -> None:
        """After each step of an attempt, with the device (as torch names it) that the rank computes on."""
        self._steps += 1
        if self._steps & (self._steps - 1):
            return
        if device is not None and device.type == "cuda":
            try:
                self._tell(step, device_peak_bytes(device))
            except RuntimeError:  # what is wrong with the device is the script's to find out
                self._tell(step, None)
        else:
            _thread.start_new_thread(self._look, (step,))

    def _look(self, step: int) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            peak_bytes = private_peak_bytes()
        except (OSError, ValueError, KeyError):  # an older kernel, or a sandbox that hides it
            peak_bytes = None
        self._tell(step, peak_bytes)


def device_peak_bytes(device: Any) -> int:
    """Bytes of an NVIDIA or AMD GPU that this process alone computes on."""
    import torch

    free, total = torch.cuda.mem_get_info(device)
    beside: int = max(0, total - free - torch.cuda.memory_reserved(device))
    return int(torch.cuda.max_memory_reserved(device) + beside)


def private_peak_bytes(proc: Path = _PROC) -> int:
    """Bytes of memory that would have come free at its peak, had the process then ended; shared memory left
    out.

    Raises OSError, ValueError and KeyError where the kernel does not tell (Linux 5.4 does).
    """
    now, peak = _kilobytes(proc / "smaps_rollup"), _kilobytes(proc / "status")
    private = now["Private_Clean"] + now["Private_Dirty"]
    # A page of shared memory that one other process has mapped counts half in PSS, one that none has, in
    # full.
    slots = max(0, 2 * now["Pss_Shmem"] - peak["RssShmem"])
    return 1024 * (private - slots + max(0, peak["VmHWM"] - now["Rss"]))


def _kilobytes(path: Path) -> dict[str, int]:
    lines = (line.split() for line in path.read_text().splitlines() if line.endswith(" kB"))
    return {words[0].rstrip(":"): int(words[1]) for words in lines}
