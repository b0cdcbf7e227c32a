"""Which steps of a long run MLflow gets: all of the first ten thousand, then the telling ones of each
stretch.

A stretch is a thousandth of the run so far.

MLflow takes some ten thousand numbers a second, and a million steps have seven million: ten minutes, and 1.2
GB, of which its pages draw a few thousand. The journal keeps every step. What a plot must not lose is kept as
it was, with its own step and time: the highest and the lowest loss, the largest gradient, the longest step,
what is no number, and the last step, by which runs are compared.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from orchestrator.events import StepDone

EVERY_STEP_UNTIL = 10_000
# A window is this share of the steps so far.
WINDOW = 0.001


@dataclass(frozen=True, slots=True)
class Done:
    """A step as it came: ``seq`` and the time are those of its record, ``gpus`` were held then."""

    step: StepDone
    seq: int
    time_ms: int
    gpus: int


class Thinning:
    """Takes every step; gives back those to keep, in order, whenever a window is full."""

    def __init__(self) -> None:
        self._count = self._in_window = 0
        self._window: dict[str, Done] = {}
        self._highest: dict[str, float] = {}

    def add(self, done: Done) -> list[Done]:
        """Take the next step."""
        self._count += 1
        if self._count <= EVERY_STEP_UNTIL:
            return [done]
        self._in_window += 1
        self._compare(done)
        if self._in_window >= self._count * WINDOW:
            return self.rest()
        return []

    def rest(self) -> list[Done]:
        """What is to be kept of a window that is not full: the run does not go on, or goes on elsewhere."""
        kept = {done.seq: done for done in self._window.values()}
        self._window, self._in_window = {}, 0
        return [kept[seq] for seq in sorted(kept)]

    def _compare(self, done: Done) -> None:
        window, step = self._window, done.step
        window["last"] = done
        if step.loss is not None:
            if not math.isfinite(step.loss):
                window.setdefault("no number", done)
            else:
                self._most("loss", step.loss, done)
                self._most("-loss", -step.loss, done)
        if step.grad_norm is not None:
            if not math.isfinite(step.grad_norm):
                window.setdefault("no gradient", done)
            else:
                self._most("grad_norm", step.grad_norm, done)
        self._most("step_time_s", step.step_time_s, done)

    def _most(self, name: str, value: float, done: Done) -> None:
        if name not in self._window or value > self._highest[name]:
            self._window[name], self._highest[name] = done, value
