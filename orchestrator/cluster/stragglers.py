"""Names a rank that the others keep waiting for. Pure.

Its own work is compared, not its step: in the step's collectives all ranks wait for the slowest, so their
step times are the same.
"""

from __future__ import annotations

import statistics
from collections import Counter, deque
from dataclasses import dataclass

from orchestrator.agent.messages import RanksStepped

# In how many of the window's steps it has to be the slowest.
SHARE = 0.75
# What is gained by mending less than this share of a step is not worth a word.
LEAST_SHARE_OF_STEP = 0.05
LEAST_EXTRA_S = 0.1  # of each step: of shorter ones the noise of any machine makes stragglers
_LEAST_S = 1e-6  # the others' own work, where it is next to nothing


@dataclass(frozen=True)
class _Step:
    rank: int
    local_time_s: float
    others_s: float
    step_time_s: float


class StragglerWatch:
    """Looks at the last ``steps`` steps of one attempt, once it has trained for ``after_s``: in the first
    minutes files are read for the first time and kernels are compiled.

    A straggler was the slowest in three quarters of them, its median is at least ``factor`` times the median
    of the others' mean, and the difference is at least a twentieth of the step and
    :data:`LEAST_EXTRA_S`.
    """

    def __init__(self, factor: float, steps: int, after_s: float = 0.0) -> None:
        self._factor = factor
        self._after_s, self._trained_s = after_s, 0.0
        self._window: deque[_Step] = deque(maxlen=steps)
        self._named: int | None = None
        self._clear_steps = 0

    def observe(self, part: RanksStepped) -> tuple[int, float] | None:
        """Takes the step of all ranks (:func:`~orchestrator.agent.gather.fold_steps`). Returns rank and ratio
        of a straggler, once: it is named again after it was none for a whole window, or when another was
        named in between."""
        others = part.ranks - 1
        self._trained_s += part.step_time_s
        if (
            part.slowest is None
            or part.local_time_sum_s is None
            or others < 1
            or self._trained_s < self._after_s
        ):
            return None
        local_time_s, rank = part.slowest
        others_s = max(_LEAST_S, (part.local_time_sum_s - local_time_s) / others)
        self._window.append(_Step(rank, local_time_s, others_s, part.step_time_s))
        found = self._judge() if len(self._window) == self._window.maxlen else None
        if found is None:
            self._clear_steps += 1
            if self._clear_steps >= len(self._window):
                self._named = None
            return None
        self._clear_steps = 0
        before, self._named = self._named, found[0]
        return found if found[0] != before else None

    def _judge(self) -> tuple[int, float] | None:
        ((rank, times),) = Counter(step.rank for step in self._window).most_common(1)
        if times < SHARE * len(self._window):
            return None
        local_time_s = statistics.median(step.local_time_s for step in self._window if step.rank == rank)
        others_s = statistics.median(step.others_s for step in self._window)
        step_time_s = statistics.median(step.step_time_s for step in self._window)
        if local_time_s < self._factor * others_s or local_time_s - others_s < max(
            LEAST_EXTRA_S, LEAST_SHARE_OF_STEP * step_time_s
        ):
            return None
        return rank, round(local_time_s / others_s, 2)
