"""Gauges for the Ray dashboard and Prometheus, through Ray's own metrics export.

Setting a gauge is a local call: Ray's agent on the node is scraped, nobody waits for it. It forgets one that
is not set again within two of its report intervals, 20 s unless told otherwise, which a long step and a run's
restarts easily are. So a thread sets what is shown again, for as long as the run goes on.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
AGAIN_S = 1.0  # the shortest report interval that anybody would set
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
        self._lock = threading.Lock()  # so that no older value is set after a newer one

    def observe(self, record: Record, bill: Bill) -> None:
        """Set what has changed; unknown values are left out, since a gauge cannot say "unknown". What is not
        on record sets nothing: every value that others read is that of the bill at some record of the
        journal."""
        if not record.event.durable:
            return
        for name, value in _values(bill).items():
            if value is None or not math.isfinite(value) or self._shown.get(name) == value:
                continue
            with self._lock:
                self._shown[name] = value
                self._gauges[name].set(value, tags=self._tags)

    @contextmanager
    def kept(self, again_s: float = AGAIN_S) -> Iterator[None]:
        """Meanwhile what is shown stays shown, however long it is the same."""
        over = threading.Event()

        def keep() -> None:
            while not over.wait(again_s):
                with self._lock:
                    for name, value in self._shown.items():
                        self._gauges[name].set(value, tags=self._tags)

        thread = threading.Thread(target=keep, name="gauges", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


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
