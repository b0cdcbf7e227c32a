"""Predicted against actual: what the plan said of memory, step time and cost, and what the run took. Pure.

A step's time is the median of the steady ones: the first steps of every attempt are left out, in which
kernels are compiled, communicators made and the allocator finds its size. Memory is the peak of the fullest
rank. Cost is that of the steps that were done: what the plan makes of so many, against all that the meter has
counted, the start and what was redone included.
"""

from __future__ import annotations

import math
import statistics
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field

from orchestrator.events import AttemptStarted, MemoryPeaked, Record, RunStarted, StepDone
from orchestrator.ledger.bill import Bill

WARMING_STEPS = 3
# A run of months has millions; a median of so many does not move.
MOST_STEPS = 20_000
MOST_NEWEST = 1_000


@dataclass(frozen=True)
class Compared:
    """One figure in its unit; None is not predicted, or not measured."""

    predicted: float | None
    actual: float | None

    @property
    def ratio(self) -> float | None:
        """Actual over predicted: above 1 it took more."""
        return self.actual / self.predicted if self.actual is not None and self.predicted else None


@dataclass(frozen=True)
class Comparison:
    """``memory_bytes`` of the fullest rank, ``step_time_s``, and ``cost_usd`` of the steps done."""

    memory_bytes: Compared
    step_time_s: Compared
    cost_usd: Compared

    @property
    def predicted(self) -> bool:
        """Whether the plan said anything."""
        figures = (self.memory_bytes, self.step_time_s, self.cost_usd)
        return any(figure.predicted is not None for figure in figures)

    def metrics(self) -> dict[str, float | None]:
        """Under the names that MLflow gets. The actual cost is the bill's and has its name there."""
        named = {"memory": self.memory_bytes, "step_time": self.step_time_s, "cost": self.cost_usd}
        units = {"memory": "bytes", "step_time": "s", "cost": "usd"}
        metrics: dict[str, float | None] = {}
        for name, figure in named.items():
            metrics[f"predicted_{name}_{units[name]}"] = figure.predicted
            if figure is not self.cost_usd:
                metrics[f"actual_{name}_{units[name]}"] = figure.actual
            metrics[f"actual_over_predicted_{name}"] = figure.ratio
        return metrics


@dataclass
class PredictedVsActual:
    """Folds records, in the journal's order."""

    facts: RunStarted | None = None
    peak_memory_bytes: int | None = None
    _steps_of_attempt: int = 0
    _steady_s: array[float] = field(default_factory=lambda: array("d"))
    _newest_s: array[float] = field(default_factory=lambda: array("d"))  # those of the newest attempt
    _seen: int = 0

    def fold(self, record: Record) -> None:
        """Take one record into account."""
        match record.event:
            case RunStarted() as started:
                self.facts = started
            case AttemptStarted():
                self._steps_of_attempt = 0
                self._newest_s = array("d")
            case StepDone(step_time_s=seconds):
                self._steps_of_attempt += 1
                if self._steps_of_attempt > WARMING_STEPS and 0 < seconds < math.inf:
                    self._keep(seconds)
            case MemoryPeaked(peak_bytes=peak_bytes):
                self.peak_memory_bytes = max(peak_bytes, self.peak_memory_bytes or 0)

    def fold_all(self, records: Iterable[Record]) -> PredictedVsActual:
        """Fold them one after another; returns itself."""
        for record in records:
            self.fold(record)
        return self

    @property
    def steady_steps(self) -> int:
        """How many there were, all told."""
        return self._seen

    @property
    def step_time_s(self) -> float | None:
        """The median of the steady steps, None without any."""
        return statistics.median(self._steady_s) if self._steady_s else None

    @property
    def newest_step_time_s(self) -> float | None:
        """The same of the newest attempt alone, which may be on other machines than the ones before."""
        return statistics.median(self._newest_s) if self._newest_s else None

    def comparison(self, bill: Bill) -> Comparison:
        """With the bill of the same records."""
        facts, each = self.facts, self.facts.predicted_cost_usd_per_step if self.facts else None
        return Comparison(
            Compared(facts.predicted_memory_bytes if facts else None, self.peak_memory_bytes),
            Compared(facts.predicted_step_time_s if facts else None, self.step_time_s),
            Compared(None if each is None or not bill.steps else each * bill.steps, bill.cost_usd),
        )

    def _keep(self, seconds: float) -> None:
        if len(self._newest_s) < MOST_NEWEST:
            self._newest_s.append(seconds)
        else:
            self._newest_s[self._seen % MOST_NEWEST] = seconds
        if len(self._steady_s) < MOST_STEPS:
            self._steady_s.append(seconds)
        else:
            self._steady_s[self._seen % MOST_STEPS] = seconds
        self._seen += 1
