"""What a run had cost at each of its losses, out of its journal: the meter that makes the bill is asked at
every step."""

from __future__ import annotations

import math
from collections.abc import Iterable

from orchestrator.events import Record, StepDone
from orchestrator.ledger.meter import Meter
from orchestrator.ledger.mlflow.reaching import Past


def loss_trail(records: Iterable[Record]) -> tuple[list[Past], list[Past]]:
    """The losses, and the dollars spent by then, by the run's own clock. Of a step that was done again the
    first, as MLflow has it."""
    meter, highest = Meter(), -1
    losses: list[Past] = []
    spent: list[Past] = []
    for record in records:
        meter.fold(record)
        event = record.event
        if not isinstance(event, StepDone) or event.step <= highest:
            continue
        highest = event.step
        if event.loss is not None and math.isfinite(event.loss):
            at_ms = round(record.elapsed_s * 1000)
            losses.append(Past(at_ms, event.step, event.loss))
            spent.append(Past(at_ms, event.step, meter.spent(record.elapsed_s).cost_usd))
    return losses, spent
