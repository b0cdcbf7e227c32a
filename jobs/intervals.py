"""When to save: after so many steps, after so much time, or as often as failures and saves make best."""

from __future__ import annotations

import math
import re
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

# Llama 3 405B: 419 unexpected interruptions in 54 days on 16,384 GPUs (arXiv 2407.21783, section 3.3.4).
GPU_HOURS_PER_FAILURE = 50_700.0

# `auto` knows the price of a save only after the first one, so that comes early.
FIRST_SAVE_STEPS = 10
FEWEST_STEPS = 5
LONGEST_S = 3600.0

TIME = re.compile(r"(\d+(?:\.\d+)?)\s*(s|min|h)")
SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Every:
    """What --checkpoint_every says: one of the three, or none for a save at the end only."""

    steps: int = 0
    seconds: float = 0.0
    auto: bool = False


def parse_every(text: str) -> Every:
    """`auto`, steps as in `50`, or a time as in `90s`, `10min` and `1.5h`; `0` is never.

    Raises:
        ValueError: anything else; the message is one line that says what to write.
    """
    text = text.strip()
    if text == "auto":
        return Every(auto=True)
    if text.isascii() and text.isdigit():
        return Every(steps=int(text))
    match = TIME.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is neither auto nor steps (50) nor a time (90s, 10min, 2h)")
    seconds = float(match[1]) * SECONDS[match[2]]
    if not seconds:
        raise ValueError(f"{text!r} is no time: write 0 to save at the end only")
    return Every(seconds=seconds)


def usual_mtbf_s(gpus: int) -> float:
    """Mean time between failures of that many GPUs, in seconds, at the rate that Llama 3 met."""
    return GPU_HOURS_PER_FAILURE * 3600 / gpus


def best_interval_s(stall_s: float, mtbf_s: float) -> float:
    """Seconds of training between two saves that lose the least to saving and to redoing steps.

    `stall_s` is what training stands still for a save. Young, "A first order approximation to the optimum
    checkpoint interval", 1974, has sqrt(2 stall mtbf); this is equation 37 of Daly, "A higher order estimate
    of the optimum checkpoint interval for restart dumps", 2006, which also holds where failures are frequent.
    """
    if stall_s >= 2 * mtbf_s:
        return mtbf_s
    ratio = stall_s / (2 * mtbf_s)
    return math.sqrt(2 * stall_s * mtbf_s) * (1 + math.sqrt(ratio) / 3 + ratio / 9) - stall_s


class SaveTimer:
    """Says after which step to save. Fixed steps are arithmetic, the same on every rank; a clock is not, and
    ranks that save one step apart hang, so what `due` says is to be put to a vote."""

    def __init__(
        self, every: Every, mtbf_s: float, step: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.every, self.mtbf_s, self.clock = every, mtbf_s, clock
        self.stalls_s: list[float] = []
        self.saved_step = step
        self.since_s = clock()

    def falls_on(self, step: int) -> bool:
        """Whether a fixed number of steps has passed."""
        return self.every.steps > 0 and step % self.every.steps == 0

    def due(self, step: int) -> bool:
        """Whether it is time by this rank's clock; never with fixed steps."""
        steps, elapsed_s = step - self.saved_step, self.clock() - self.since_s
        if self.every.auto:
            if not self.stalls_s:
                return steps >= FIRST_SAVE_STEPS
            return steps >= FEWEST_STEPS and elapsed_s >= self.interval_s
        return 0 < self.every.seconds <= elapsed_s and steps > 0

    @property
    def stall_s(self) -> float:
        """Mean of this process's saves so far. The first also makes folders and takes memory: it counts while
        alone."""
        return statistics.fmean(self.stalls_s[1:] or self.stalls_s)

    @property
    def interval_s(self) -> float:
        """What `auto` waits after a save, once there was one."""
        return min(LONGEST_S, best_interval_s(self.stall_s, self.mtbf_s))

    def saved(self, step: int, stall_s: float) -> None:
        self.stalls_s.append(stall_s)
        self.saved_step, self.since_s = step, self.clock()
