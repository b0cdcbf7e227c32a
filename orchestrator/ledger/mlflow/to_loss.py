"""What each of many runs had taken when it first reached a loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from orchestrator.errors import ConfigError
from orchestrator.ledger.mlflow.names import hours_key
from orchestrator.ledger.mlflow.reaching import Past, amount_at, hours_between, reached
from orchestrator.ledger.mlflow.runs import RunRow, load_histories

_NOTHING = (None, None)  # of a run without a loss


def with_to_loss(rows: Sequence[RunRow], uri: str, loss: float) -> list[RunRow]:
    """The same runs with what it took to reach ``loss``; who never did has the lowest that it came to.

    Raises :class:`ConfigError` for a loss that is no number, and as :func:`load_histories` does.
    """
    if not math.isfinite(loss):
        raise ConfigError(f"--to-loss {loss}: is no number that a loss can have")
    losses = load_histories(uri, ["loss"], [row.run_id for row in rows])["loss"]
    came_to = {run_id: reached(points, loss) for run_id, points in losses.items()}
    arrived = [row for row in rows if came_to.get(row.run_id, _NOTHING)[0]]
    bills = load_histories(uri, ["cost_usd"], [row.run_id for row in arrived])
    for key in sorted({hours_key(row.unit or "GPU") for row in arrived}):
        own = [row.run_id for row in arrived if hours_key(row.unit or "GPU") == key]
        bills |= load_histories(uri, [key], own)
        if key != "gpu_hours":  # those of cores had the name of all others once
            older = load_histories(uri, ["gpu_hours"], [each for each in own if each not in bills[key]])
            bills[key] |= older["gpu_hours"]

    def told(row: RunRow) -> RunRow:
        moment, best = came_to.get(row.run_id, _NOTHING)
        if moment is None:
            return replace(row, best_loss=best)
        began_ms = began_unix_ms(row) or losses[row.run_id][0].time_ms

        def at(key: str) -> float | None:
            known: list[Past] = bills.get(key, {}).get(row.run_id, [])
            return amount_at(known, began_ms, moment.time_ms)

        return replace(
            row,
            usd_to_loss=at("cost_usd"),
            gpu_hours_to_loss=at(hours_key(row.unit or "GPU")),
            hours_to_loss=hours_between(began_ms, moment.time_ms),
            steps_to_loss=moment.step,
            best_loss=best,
        )

    return [told(row) for row in rows]


def began_unix_ms(row: RunRow) -> int | None:
    """When it began; None where MLflow does not say."""
    return (
        None if row.started_at is None else round(datetime.fromisoformat(row.started_at).timestamp() * 1000)
    )
