"""What a run had taken when it first reached a loss, out of its journal: by the arithmetic of ``compare
--to-loss``, at the bill of that very step."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator.events import Record, StepDone
from orchestrator.ledger.meter import Meter
from orchestrator.ledger.mlflow.reaching import Past, amount_at, hours_between, reached


@dataclass(frozen=True)
class TakenToLoss:
    """All but ``best_loss``, the lowest median of five losses, are None where the loss was never reached."""

    usd: float | None = None
    gpu_hours: float | None = None
    hours: float | None = None
    steps: int | None = None
    best_loss: float | None = None


def taken_to_loss(records: Iterable[Record], wanted: float) -> TakenToLoss:
    """Of a step that was done again the first counts, and hours are those of the calendar, as in MLflow."""
    meter, highest = Meter(), -1
    began_ms: int | None = None
    losses: list[Past] = []
    usd: list[Past] = []
    gpu_hours: list[Past] = []
    for record in records:
        meter.fold(record)
        event, now_ms = record.event, round(record.time_unix_s * 1000)
        began_ms = now_ms if began_ms is None else began_ms
        if not isinstance(event, StepDone) or event.step <= highest:
            continue
        highest = event.step
        if event.loss is not None and math.isfinite(event.loss):
            spent = meter.spent(record.elapsed_s)
            losses.append(Past(now_ms, event.step, event.loss))
            usd.append(Past(now_ms, event.step, spent.cost_usd))
            gpu_hours.append(Past(now_ms, event.step, spent.gpu_hours))
    moment, best = reached(losses, wanted)
    if moment is None or began_ms is None:
        return TakenToLoss(best_loss=best)
    return TakenToLoss(
        usd=amount_at(usd, began_ms, moment.time_ms),
        gpu_hours=amount_at(gpu_hours, began_ms, moment.time_ms),
        hours=hours_between(began_ms, moment.time_ms),
        steps=moment.step,
        best_loss=best,
    )
