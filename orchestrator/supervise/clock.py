"""The real clock; tests bring their own."""

from __future__ import annotations

import time


class SystemClock:
    """Monotonic time and real sleep."""

    def now_s(self) -> float:
        """Seconds on the monotonic clock."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait; a signal handler may run meanwhile, and the wait goes on after it."""
        time.sleep(seconds)
