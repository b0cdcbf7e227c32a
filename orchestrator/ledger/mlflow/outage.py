"""What is said about MLflow being away: once when it lasts, and once when it is over."""

from __future__ import annotations

import time
from collections.abc import Callable

# A server that is started anew is no news.
TELL_AFTER_S = 15.0
MAX_CHARACTERS = 300


class Outage:
    """From the first failure to the next success. ``last_error`` stays, for what is said in the end."""

    def __init__(
        self,
        say: Callable[[str], None],
        tell_after_s: float = TELL_AFTER_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._say, self._tell_after_s, self._clock = say, tell_after_s, clock
        self.last_error = ""
        self._since_s: float | None = None
        self._said = ""

    def failed(self, error: Exception, at_once: bool = False) -> None:
        """One more failure; ``at_once`` when only a person can mend it, who then reads all of it."""
        text = " ".join(str(error).split()) or type(error).__name__
        self.last_error = text if at_once else text[:MAX_CHARACTERS]
        now_s = self._clock()
        self._since_s = now_s if self._since_s is None else self._since_s
        if self._said or not (at_once or now_s - self._since_s >= self._tell_after_s):
            return
        self._said = self.last_error
        self._say(f"{self.last_error}; tried again until it works, the journal keeps everything")

    def over(self) -> None:
        """A success."""
        if self._said and self._since_s is not None:
            self._say(f"written again after {self._clock() - self._since_s:.0f} s")
        self._since_s, self._said, self.last_error = None, "", ""
