"""Names of signals in a configuration, and their numbers."""

from __future__ import annotations

import signal
from collections.abc import Iterable

from orchestrator.errors import ConfigError, near_miss

# All that a job manager or an administrator may be set to send. The rest mean something of their own.
POSSIBLE = ("TERM", "HUP", "USR1", "USR2", "QUIT", "XCPU", "URG")


def stop_numbers(names: Iterable[str]) -> list[int]:
    """Those of `recovery.stop_signals`. Raises :class:`ConfigError` for a name that is none of them."""
    numbers = []
    for name in names:
        bare = str(name).upper().removeprefix("SIG")
        if bare not in POSSIBLE:
            others = ", ".join(POSSIBLE)
            raise ConfigError(f"recovery.stop_signals={name}: not one of {others}{near_miss(bare, POSSIBLE)}")
        numbers.append(int(signal.Signals[f"SIG{bare}"]))
    return numbers
