"""Kueue is told how dear it is to stop this run: a boost of its Workload's priority, kept live.

Kueue takes the workload with the lowest priority first. What it cannot know is what a run has not saved:
right after a checkpoint it costs next to nothing to stop, half an hour later a thousand dollars. So the boost
is ::

    min(kueue.most_boost, ⌊dollars since the newest state on the disk × kueue.boost_per_usd⌋)

told at most once a minute by a thread of its own: the run waits for no answer, and goes on without any.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from orchestrator.config.kueue_schema import KueueConfig, PriorityBoost
from orchestrator.driver.kubernetes_api import KubernetesApi, NotAnswered
from orchestrator.events import Record
from orchestrator.ledger.bill import Bill
from orchestrator.ledger.unsaved import Unsaved

EVERY_S = 60.0
GROUP, KIND = "kueue.x-k8s.io/v1beta2", "workloads"
ANNOTATION = "kueue.x-k8s.io/priority-boost"
_OWNERS = ("RayJob", "RayCluster")
_FORBIDDEN, _GONE = 403, 404


class Objects(Protocol):
    """What is asked of an API server."""

    def namespace(self) -> str: ...

    def objects(self, group: str, namespace: str, kind: str) -> list[dict[str, Any]]: ...

    def merge(self, group: str, namespace: str, kind: str, name: str, change: dict[str, Any]) -> None: ...


def boost_of(kueue: KueueConfig, unsaved_usd: float) -> int:
    """What is added to the Workload's priority."""
    return min(kueue.most_boost, int(unsaved_usd * kueue.boost_per_usd))


def change_of(how: PriorityBoost, boost: int) -> dict[str, Any]:
    """The part of a Workload in which Kueue reads it. Kueue 0.17 to 0.19 read an annotation, which is text;
    from 0.20 on it is a field, and the annotation is not looked at (KEP-13414)."""
    if how is PriorityBoost.annotation:
        return {"metadata": {"annotations": {ANNOTATION: str(boost)}}}
    return {"spec": {"priorityBoost": {"value": boost}}}


class KueueBoost:
    """An observer of a run. ``notice`` is told when nobody answers, and when somebody does again."""

    def __init__(
        self,
        kueue: KueueConfig,
        notice: Callable[[str], None],
        api: Callable[[], Objects] = KubernetesApi,
        every_s: float = EVERY_S,
    ) -> None:
        self._kueue, self._notice, self._api, self._every_s = kueue, notice, api, every_s
        self._unsaved = Unsaved()
        self._wanted = threading.Condition()
        self._boost = 0
        self._said: int | None = None  # what Kueue has; None: not known
        self._over = False
        self._workload = ""
        self._silent = False

    def observe(self, record: Record, bill: Bill) -> None:
        """Take an event into account; nothing is waited for."""
        self._unsaved.observe(record, bill)
        boost = boost_of(self._kueue, self._unsaved.at_risk_usd)
        if boost != self._boost:
            with self._wanted:
                self._boost = boost
                self._wanted.notify()

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """Meanwhile Kueue is told. An earlier driver's boost is taken back first."""
        if self._kueue.priority_boost is PriorityBoost.off:
            yield
            return
        thread = threading.Thread(target=self._tell, name="kueue", daemon=True)
        thread.start()
        try:
            yield
        finally:
            with self._wanted:
                self._over = True
                self._wanted.notify()

    def _tell(self) -> None:
        while True:
            with self._wanted:
                self._wanted.wait_for(lambda: self._over or self._boost != self._said)
                if self._over:
                    return
                boost = self._boost
            asked_s = time.monotonic()
            self._said = boost if self._tell_once(boost) else None
            with self._wanted:
                left_s = self._every_s - (time.monotonic() - asked_s)
                self._wanted.wait_for(lambda: self._over, timeout=max(0.0, left_s))

    def _tell_once(self, boost: int) -> bool:
        try:
            api = self._api()
            namespace = api.namespace()
            self._workload = self._workload or self._find(api, namespace)
            api.merge(GROUP, namespace, KIND, self._workload, change_of(self._kueue.priority_boost, boost))
        except NotAnswered as error:
            if error.status == _GONE:
                self._workload = ""  # it is another one after an eviction
            if not self._silent:
                self._notice(f"kueue: the boost was not told ({error}){_remedy(error)}; the run goes on")
            self._silent = True
            return False
        if self._silent:
            self._notice("kueue: the boost is told again")
        self._silent = False
        return True

    def _find(self, api: Objects, namespace: str) -> str:
        """The Workload that Kueue has made for our RayJob or RayCluster."""
        for found in api.objects(GROUP, namespace, KIND):
            about = found.get("metadata")
            owners = about.get("ownerReferences") if isinstance(about, dict) else None
            for owner in owners if isinstance(owners, list) else ():
                if owner.get("kind") in _OWNERS and owner.get("name") == self._kueue.job:
                    return str(about["name"])  # type: ignore[index]
        raise NotAnswered(f"{namespace} has no Workload of a RayJob or RayCluster {self._kueue.job}", _GONE)


def _remedy(error: NotAnswered) -> str:
    if error.status != _FORBIDDEN:
        return ""
    return (
        "; the head's service account needs list and patch of workloads, as kueue.yaml of 'export' gives it"
    )
