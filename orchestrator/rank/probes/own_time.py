"""How long a rank works by itself between two steps, and not together with the others."""

from __future__ import annotations

import os
import time


class ThreadClock:
    """The host's clock, less the time in which the thread that made it was ready to run and had no processor.

    On a machine that is shared one rank or another always has to wait, and none of them is slow for that.
    """

    def __init__(self) -> None:
        try:  # kept open, since it is read several times a step
            self._schedstat: int | None = os.open("/proc/thread-self/schedstat", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._schedstat = None
        self._queued_before_s = 0.0

    def now_s(self) -> float:
        return time.perf_counter() - self._queued_s()

    def _queued_s(self) -> float:
        """How long the thread has waited for a processor so far; 0 where the kernel does not count it, and
        what it was where it can no longer be read, so that the clock does not jump."""
        if self._schedstat is not None:
            try:
                self._queued_before_s = int(os.pread(self._schedstat, 100, 0).split()[1]) / 1e9
            except (OSError, ValueError, IndexError):  # the script has closed what it did not open
                self._schedstat = None
        return self._queued_before_s


class OwnTime:
    """Seconds of a thread's clock, less what was spent in a `pause`; pauses may be nested.

    `pause` may be used as a context, or ended by `resume`.
    """

    def __init__(self, clock: ThreadClock | None = None) -> None:
        """All that measure one thread are handed one clock of it."""
        self._now_s = (clock or ThreadClock()).now_s
        self._boundary_s = self._now_s()
        self._pauses = 0
        self._paused_at_s = 0.0
        self._paused_s = 0.0

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
