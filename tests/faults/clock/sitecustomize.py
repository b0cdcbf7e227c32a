"""On PYTHONPATH of a run: its wall clock is set back as soon as the file that CLOCK_SET_BACK names is there.

The machine's own clock cannot be set here. Every Python process of the run imports this before all else.
"""

import os
import time
from collections.abc import Callable

BACK_S = 3600.0


def _setting_back(true_time: Callable[[], float], path: str) -> Callable[[], float]:
    def told_time() -> float:
        return true_time() - (BACK_S if os.path.exists(path) else 0.0)

    return told_time


if "CLOCK_SET_BACK" in os.environ:
    time.time = _setting_back(time.time, os.environ["CLOCK_SET_BACK"])
