"""Figures that a job prints under a name of ours: the same figure is told once. Pure.

A training loop prints its loss, and DeepSpeed's engine has told the same loss already. Two curves of one
figure make every chart twice, so what agrees with ours at the same step is left out, and what says something
else under our name goes to ``job/NAME``. A job's line often comes a moment before its step is on record; it
waits for that step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.ledger.mlflow.names import STEP_METRICS

# Jobs print what they round to three or four digits.
SAME = 1e-3


@dataclass(frozen=True, slots=True)
class Figure:
    """As the job printed it; ``seq`` and the time are those of its record."""

    name: str
    value: float
    step: int
    seq: int
    time_ms: int


class JobFigures:
    """Takes what a job prints and what the engine tells, in the journal's order; gives back what is to be
    told of the job's."""

    def __init__(self) -> None:
        self._has_engine = False
        self._step = -1
        self._ours: dict[str, float] = {}
        self._waiting: list[Figure] = []

    def engine_configured(self) -> None:
        """There is one, so each step will be told."""
        self._has_engine = True

    def printed(self, figures: list[Figure]) -> list[Figure]:
        """Those to tell now."""
        now = []
        for one in figures:
            if self._has_engine and one.name in STEP_METRICS and one.step > self._step:
                self._waiting.append(one)
            elif not (one.name in STEP_METRICS and one.step == self._step and self._is_ours(one)):
                now.append(one)
        return now

    def step_done(self, step: int, ours: Mapping[str, float | None]) -> list[Figure]:
        """The step is on record: those that waited for it and say something else."""
        self._step, self._has_engine = step, True
        self._ours = {name: float(value) for name, value in ours.items() if value is not None}
        due = [one for one in self._waiting if one.step <= step]
        self._waiting = [one for one in self._waiting if one.step > step]
        return [one for one in due if one.step < step or not self._is_ours(one)]

    def rest(self) -> list[Figure]:
        """No step comes any more for which they waited: the attempt has ended. The next may begin earlier."""
        waited, self._waiting, self._step = self._waiting, [], -1
        return waited

    def _is_ours(self, figure: Figure) -> bool:
        ours = self._ours.get(figure.name)
        if ours is None:
            return False
        if not math.isfinite(ours) or not math.isfinite(figure.value):
            return str(ours) == str(figure.value)
        return math.isclose(ours, figure.value, rel_tol=SAME)
