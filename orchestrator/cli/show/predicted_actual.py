"""Predicted against actual, as people read it."""

from __future__ import annotations

from orchestrator.ledger.bill import Bill, Bucket
from orchestrator.ledger.predicted_actual import Comparison
from orchestrator.text import UNKNOWN, bytes_in_words, number, seconds_in_words, usd

COMPARED = ("predicted", "actual", "ratio")
_BETWEEN = "validation, logging and slow steps"
_HELD_FOR = {
    Bucket.WAITING: "waiting",
    Bucket.STARTING: "starting",
    Bucket.TRAINING: "steps",
    Bucket.CHECKPOINT: "stalls of checkpoints",
    Bucket.REDONE: "steps redone",
    Bucket.RECOVERING: "recovering",
    Bucket.STOPPING: "stopping",
    Bucket.UNOBSERVED: "unobserved",
    Bucket.SKIPPED: "skipped steps",
}


def compared_rows(compared: Comparison, unit: str) -> list[tuple[str, str, str, str]]:
    """A label, and the figures under the headings of :data:`COMPARED`."""
    memory, step, cost = compared.memory_bytes, compared.step_time_s, compared.cost_usd
    return [
        (f"memory per {unit}", _bytes(memory.predicted), _bytes(memory.actual), number(memory.ratio, 3)),
        ("step time", seconds_in_words(step.predicted), seconds_in_words(step.actual), number(step.ratio, 3)),
        ("cost of these steps", usd(cost.predicted), usd(cost.actual), number(cost.ratio, 3)),
    ]


def where_it_went(bill: Bill, compared: Comparison) -> str:
    """What the cost of the steps is made of, largest first: its parts add up to the whole of it. ``""`` where
    there is nothing to explain."""
    parts = {
        name: part for name, part in cost_in_parts(bill, compared).items() if part >= bill.cost_usd / 1000
    }
    if len(parts) < 2 or compared.cost_usd.ratio is None:
        return ""
    said = (f"{usd(part)} {name}" for name, part in sorted(parts.items(), key=lambda item: -item[1]))
    return f"of {usd(bill.cost_usd)}: {', '.join(said)}"


def cost_in_parts(bill: Bill, compared: Comparison) -> dict[str, float]:
    """Dollars by what the accelerators were held for. Steps are at their own time, the median of the steady
    ones; what else there is of the time of training goes to what stands between steps."""
    held_s = sum(bill.gpu_seconds.values())
    if not held_s:
        return {}
    each = bill.cost_usd / held_s
    parts = {_HELD_FOR[bucket]: gpu_s * each for bucket, gpu_s in bill.gpu_seconds.items() if gpu_s > 0}
    training, step_s = parts.pop(_HELD_FOR[Bucket.TRAINING], 0.0), compared.step_time_s.actual
    trained_s, gpu_s = bill.seconds.get(Bucket.TRAINING, 0.0), bill.gpu_seconds.get(Bucket.TRAINING, 0.0)
    if step_s is None or not trained_s:
        return {_HELD_FOR[Bucket.TRAINING]: training} | parts
    steps = min(training, bill.steps * step_s * gpu_s / trained_s * each)
    return {"steps at their usual time": steps, _BETWEEN: training - steps} | parts


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
