"""How the loss of many runs fell, against what they had cost and how long they had run by then."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from orchestrator.ledger.mlflow.reaching import Past, amount_at, hours_between, smoothed
from orchestrator.ledger.mlflow.runs import RunRow, load_histories
from orchestrator.ledger.mlflow.to_loss import began_unix_ms

# Of each of many curves, and of one alone: a drawing is not finer.
MOST_POINTS, MOST_POINTS_ALONE = 40, 300


class CurvePoint(NamedTuple):
    """The loss, as the median of five, with what it had taken."""

    hours: float
    cost_usd: float
    loss: float


def load_curves(rows: Sequence[RunRow], uri: str) -> dict[str, list[CurvePoint]]:
    """By run; one without losses, or without a bill, is left out. Raises as :func:`load_histories` does."""
    told = load_histories(uri, ["loss", "cost_usd"], [row.run_id for row in rows])
    found = {}
    for row in rows:
        losses, bills = told["loss"].get(row.run_id, []), told["cost_usd"].get(row.run_id, [])
        if losses and bills:
            found[row.run_id] = curve(losses, bills, began_unix_ms(row) or losses[0].time_ms)
    return found


def curve(
    losses: Sequence[Past], bills: Sequence[Past], began_ms: int, most: int = MOST_POINTS
) -> list[CurvePoint]:
    """Points closer together at the beginning, where a loss falls fastest; first and last are there."""
    medians = smoothed(losses)
    last = len(losses) - 1
    places = sorted({round(last ** (share / (most - 1))) for share in range(most)} | {0, last})
    return [
        CurvePoint(
            hours_between(began_ms, losses[place].time_ms),
            amount_at(bills, began_ms, losses[place].time_ms) or 0.0,
            medians[place],
        )
        for place in places
        if 0 <= place <= last
    ]
