"""How long a rank works by itself between two steps, and not together with the others."""

from __future__ import annotations

import functools
import os
import threading
import time


class OwnTime:
    """Seconds of the host's clock, less what was spent in a `pause`; pauses may be nested.

    Nor does the time count in which the thread that made it was ready to run and had no processor: on a
    machine that is shared one rank or another always has to wait, and none of them is slow for that.

    `pause` may be used as a context, or ended by `resume`.
    """

    def __init__(self) -> None:
        self._schedstat = _open_schedstat(threading.get_native_id())
        self._boundary_s = self._now_s()
        self._pauses = 0
        self._paused_at_s = 0.0
        self._paused_s = 0.0

    def _now_s(self) -> float:
        return time.perf_counter() - self._queued_s()

    def _queued_s(self) -> float:
        """How long the thread has waited for a processor so far; 0 where the kernel does not count it."""
        if self._schedstat is None:
            return 0.0
        try:
            return int(os.pread(self._schedstat, 100, 0).split()[1]) / 1e9
        except (OSError, ValueError, IndexError):  # the script has closed what it did not open
            self._schedstat = None
            return 0.0

    def pause(self) -> OwnTime:
        if self._pauses == 0:
            self._paused_at_s = self._now_s()
        self._pauses += 1
        return self

    def resume(self) -> None:
        self._pauses -= 1
        if self._pauses == 0:
            self._paused_s += self._now_s() - self._paused_at_s

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_raised: object) -> None:
        self.resume()

    def take(self) -> float:
        """What has come together since the last call, and begin anew."""
        now = self._now_s()
        if self._pauses:
            self._paused_s += now - self._paused_at_s
            self._paused_at_s = now
        local_time_s = now - self._boundary_s - self._paused_s
        self._boundary_s, self._paused_s = now, 0.0
        return max(0.0, local_time_s)


@functools.cache  # all that measure a thread read one descriptor
def _open_schedstat(_thread_id: int) -> int | None:
    """Kept open for the thread that asks: it is read several times a step."""
    try:
        return os.open("/proc/thread-self/schedstat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
