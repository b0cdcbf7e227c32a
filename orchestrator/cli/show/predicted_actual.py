"""Predicted against actual, as people read it."""

from __future__ import annotations

from orchestrator.ledger.predicted_actual import Comparison
from orchestrator.text import UNKNOWN, bytes_in_words, number, seconds_in_words, usd

COMPARED = ("predicted", "actual", "ratio")


def compared_rows(compared: Comparison, unit: str) -> list[tuple[str, str, str, str]]:
    """A label, and the figures under the headings of :data:`COMPARED`."""
    memory, step, cost = compared.memory_bytes, compared.step_time_s, compared.cost_usd
    return [
        (f"memory per {unit}", _bytes(memory.predicted), _bytes(memory.actual), number(memory.ratio, 3)),
        ("step time", seconds_in_words(step.predicted), seconds_in_words(step.actual), number(step.ratio, 3)),
        ("cost of these steps", usd(cost.predicted), usd(cost.actual), number(cost.ratio, 3)),
    ]


def measured_rows(compared: Comparison, unit: str) -> dict[str, str]:
    """Memory and step time by label where the plan said nothing of any figure: there is nothing to compare
    with."""
    if compared.predicted:
        return {}
    memory, step = _bytes(compared.memory_bytes.actual), seconds_in_words(compared.step_time_s.actual)
    figures = {f"memory per {unit}": memory, "step time": step}
    return {label: value for label, value in figures.items() if value != UNKNOWN}


def _bytes(amount: float | None) -> str:
    return UNKNOWN if amount is None else bytes_in_words(amount)
