"""A lock that a process holds for as long as it lives, while others look whether it does."""

from __future__ import annotations

import fcntl
import time
from typing import IO

# Whoever looks whether the lock is held holds it himself, for less than a millisecond.
_TRIES, _TRY_S = 20, 0.05


def taken(lock: IO[str]) -> bool:
    """Hold it until the file is closed; false where another process does."""
    for _ in range(_TRIES):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError:
            time.sleep(_TRY_S)
    return False


def is_held(lock: IO[bytes]) -> bool:
    """Whether a process holds it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except OSError:
        return True
