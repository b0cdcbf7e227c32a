"""Gauges for the Ray dashboard and Prometheus, through Ray's own metrics export.

Setting a gauge is a local call: Ray's agent on the node is scraped, nobody waits for it. It forgets one that
is not set again within two of its report intervals, 20 s unless told otherwise, which a long step and a run's
restarts easily are. So a thread sets what is shown again, for as long as the run goes on.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from orchestrator.events import Record
from orchestrator.ledger.bill import Bill
from orchestrator.ledger.monitoring.figures import Figures
from orchestrator.ledger.monitoring.gauges import GAUGES, QUEUE_GAUGES, RUN_GAUGES, Gauge, Series

AGAIN_S = 1.0  # the shortest report interval that anybody would set


class Gauges:
    """The gauges of a run, labelled with run and cluster; ``gauge`` makes one, Ray's unless given."""

    def __init__(
        self, run: str, cluster: str, figures: Figures, gauge: Callable[..., Any] | None = None
    ) -> None:
        self._set = _Setter(RUN_GAUGES, {"run": run, "cluster": cluster}, gauge)
        self._figures = figures
        self._shown: dict[Series, float] = {}
        self._lock = threading.Lock()  # so that no older value is set after a newer one

    def observe(self, record: Record, bill: Bill) -> None:
        """Set what has changed; unknown values are left out, since a gauge cannot say "unknown". What is not
        on record sets nothing: every value that others read follows from the journal up to some record."""
        if not record.event.durable:
            return
        self._figures.observe(record)
        values = self._figures.values(record, bill)
        for series, value in values.items():
            if value is None or not math.isfinite(value) or self._shown.get(series) == value:
                continue
            with self._lock:
                self._shown[series] = value
                self._set(series, value)

    @contextmanager
    def kept(self, again_s: float = AGAIN_S) -> Iterator[None]:
        """Meanwhile what is shown stays shown, however long it is the same."""
        over = threading.Event()

        def keep() -> None:
            while not over.wait(again_s):
                with self._lock:
                    for series, value in self._shown.items():
                        self._set(series, value)

        thread = threading.Thread(target=keep, name="gauges", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


class QueueGauges:
    """The gauges of the queue. Who sets them does so again and again: what is not told any more is forgotten
    by Ray."""

    def __init__(self, gauge: Callable[..., Any] | None = None) -> None:
        self._set = _Setter(QUEUE_GAUGES, {}, gauge)

    def show(self, values: Mapping[Series, float]) -> None:
        """Set them as they are; one that this version does not know is left out."""
        for series, value in values.items():
            if _is_of(series, QUEUE_GAUGES) and math.isfinite(value):
                self._set(series, value)


class _Setter:
    """Ray's gauges of one kind, and how one line of them is set."""

    def __init__(
        self, gauges: tuple[Gauge, ...], labels: Mapping[str, str], gauge: Callable[..., Any] | None
    ) -> None:
        make = gauge or _ray_gauge()
        self._labels = labels
        self._gauges = {
            each.name: make(each.name, description=each.says, tag_keys=(*labels, *each.more))
            for each in gauges
        }

    def __call__(self, series: Series, value: float) -> None:
        more = dict(zip(GAUGES[series.name].more, series.more, strict=True))
        self._gauges[series.name].set(value, tags={**self._labels, **more})


def _is_of(series: Series, gauges: tuple[Gauge, ...]) -> bool:
    known = GAUGES.get(series.name)
    return known in gauges and len(known.more) == len(series.more) if known is not None else False


def _ray_gauge() -> Callable[..., Any]:
    from ray.util.metrics import Gauge

    return Gauge  # type: ignore[no-any-return]
