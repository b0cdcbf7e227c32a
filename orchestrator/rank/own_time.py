"""How long a rank works by itself between two steps, and not together with the others."""

from __future__ import annotations

import time


class OwnTime:
    """Seconds of the host's clock, less what was spent in a `pause`; pauses may be nested.

    `pause` may be used as a context, or ended by `resume`.
    """

    def __init__(self) -> None:
        self._boundary_s = time.perf_counter()
        self._pauses = 0
        self._paused_at_s = 0.0
        self._paused_s = 0.0

    def pause(self) -> OwnTime:
        if self._pauses == 0:
            self._paused_at_s = time.perf_counter()
        self._pauses += 1
        return self

    def resume(self) -> None:
        self._pauses -= 1
        if self._pauses == 0:
            self._paused_s += time.perf_counter() - self._paused_at_s

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_raised: object) -> None:
        self.resume()

    def take(self) -> float:
        """What has come together since the last call, and begin anew."""
        now = time.perf_counter()
        if self._pauses:
            self._paused_s += now - self._paused_at_s
            self._paused_at_s = now
        own_s = now - self._boundary_s - self._paused_s
        self._boundary_s, self._paused_s = now, 0.0
        return max(0.0, own_s)
