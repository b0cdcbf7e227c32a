"""What a run of a sweep came to, as one figure that is to be small: by it a sweeper chooses what the next run
has."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from orchestrator.config.sweep_schema import Objective, SweepConfig
from orchestrator.driver.rows import row_of
from orchestrator.events import Status
from orchestrator.ledger.mlflow.runs import RunRow
from orchestrator.text import hours, number, usd

_OF_THE_WHOLE = (Objective.cost_usd, Objective.gpu_hours)  # a run that broke early is cheap


def came_to(sweep: SweepConfig, folder: Path | None) -> float | None:
    """The figure of the run in ``folder``, None of one that was refused before it had any; None where nothing
    is to be small. Infinite for a run that never came to it."""
    if sweep.minimize is None:
        return None
    row = None if folder is None else row_of(folder, _loss(sweep))
    return math.inf if row is None else figure(row, sweep.minimize)


def figure(row: RunRow, objective: Objective) -> float:
    """Of one run, by its row as ``compare`` has it."""
    if objective in _OF_THE_WHOLE and row.status != Status.FINISHED:
        return math.inf
    found: float | None = getattr(row, objective.value)
    return math.inf if found is None else found


def verdict(sweep: SweepConfig, values: Sequence[float], points: Sequence[Sequence[str]]) -> str | None:
    """Which run of a sweep did best, in one line; ``points`` are the words in which each differs. None where
    nothing was to be small."""
    if sweep.minimize is None or not values:
        return None
    best = min(values)
    asked = f"a loss of {sweep.loss:g}" if sweep.minimize.needs_a_loss else "an end with such a figure"
    if math.isinf(best):
        return f"none of {len(values)} runs came to {asked}"
    what = _WORDS[sweep.minimize].format(loss=f"{sweep.loss or 0.0:g}")
    shown = _SHOWN[sweep.minimize](best)
    return f"least {what} of {len(values)} runs: {shown}, with {' '.join(points[values.index(best)])}"


def _loss(sweep: SweepConfig) -> float | None:
    """Of what needs none the lowest one is asked for, which no loss reaches."""
    if sweep.minimize is Objective.best_loss:
        return -math.inf
    return sweep.loss if sweep.minimize is not None and sweep.minimize.needs_a_loss else None


_WORDS = {
    Objective.usd_to_loss: "dollars to a loss of {loss}",
    Objective.gpu_hours_to_loss: "GPU-hours to a loss of {loss}",
    Objective.hours_to_loss: "hours to a loss of {loss}",
    Objective.best_loss: "loss, as the median of five,",
    Objective.cost_usd: "cost",
    Objective.gpu_hours: "GPU-hours",
}
_SHOWN = {
    Objective.usd_to_loss: usd,
    Objective.gpu_hours_to_loss: hours,
    Objective.hours_to_loss: hours,
    Objective.best_loss: number,
    Objective.cost_usd: usd,
    Objective.gpu_hours: hours,
}
