"""Gauges for the Ray dashboard and Prometheus, through Ray's own metrics export.

Setting a gauge is a local call: Ray's agent on the node is scraped, nobody waits for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from orchestrator.events import Record
from orchestrator.ledger.bill import Bill

DESCRIPTIONS = {
    "orchestrator_step": "Highest global step that all ranks have finished",
    "orchestrator_loss": "Training loss of the last step, mean over ranks",
    "orchestrator_tokens_per_s": "Tokens trained per second in the steady state",
    "orchestrator_mfu": "Model FLOP/s over the GPUs' dense peak",
    "orchestrator_goodput": "Share of the allocated GPU time spent on training",
    "orchestrator_gpu_hours": "GPU-hours held so far",
    "orchestrator_cost_usd": "Dollars spent so far",
    "orchestrator_restarts": "Attempts after the first one",
}
# What every gauge is tagged with. On a cluster of several machines everybody reads them, so that names are
# left out.
LABELS = {
    "run": (
        "Name of the run; its number where `metrics.names` is not true and the cluster is of several machines"
    ),
    "cluster": "Name of the cluster, empty where the run is told by its number",
}


class Gauges:
    """One gauge per figure, tagged with run and cluster; ``gauge`` makes one, Ray's unless given."""

    def __init__(self, run: str, cluster: str, gauge: Callable[..., Any] | None = None) -> None:
        self._tags = {"run": run, "cluster": cluster}
        self._gauges = {
            name: (gauge or _ray_gauge())(name, description=text, tag_keys=tuple(LABELS))
            for name, text in DESCRIPTIONS.items()
        }
        self._shown: dict[str, float] = {}

    def observe(self, record: Record, bill: Bill) -> None:
        """Set what has changed; unknown values are left out, since a gauge cannot say "unknown". What is not
        on record sets nothing: every value that others read is that of the bill at some record of the
        journal."""
        if not record.event.durable:
            return
        for name, value in _values(bill).items():
            if value is None or not math.isfinite(value) or self._shown.get(name) == value:
                continue
            self._shown[name] = value
            self._gauges[name].set(value, tags=self._tags)


def _ray_gauge() -> Callable[..., Any]:
    from ray.util.metrics import Gauge

    return Gauge  # type: ignore[no-any-return]


def _values(bill: Bill) -> dict[str, float | None]:
    return {
        "orchestrator_step": bill.step,
        "orchestrator_loss": bill.final_loss,
        "orchestrator_tokens_per_s": bill.tokens_per_s,
        "orchestrator_mfu": bill.mfu,
        "orchestrator_goodput": bill.goodput,
        "orchestrator_gpu_hours": bill.gpu_hours,
        "orchestrator_cost_usd": bill.cost_usd,
        "orchestrator_restarts": bill.restarts,
    }
