"""The values of a run's gauges, as they follow from its records: those of its bill, and the few beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator.events import (
    AttemptStarted,
    Event,
    NodeQuarantined,
    Record,
    ResourcesGranted,
    ResourcesReleased,
    StepDone,
    StragglerNamed,
)
from orchestrator.ledger.bill import Bill, Bucket
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.monitoring.gauges import Series, Values
from orchestrator.supervise.spending import S_PER_HOUR, Cap


@dataclass
class Figures:
    """``ledger`` is the run's own, which has folded what is observed here; ``caps`` are those of its budget,
    hours since ``began_unix_s`` for the deadline; ``avoided`` are nodes that an earlier driver has left
    out."""

    ledger: Ledger
    caps: Mapping[Cap, float] = field(default_factory=dict)
    began_unix_s: float | None = None
    avoided: set[str] = field(default_factory=set)
    _step_time_s: float | None = None
    _last_step_unix_s: float | None = None
    _holds: bool = False
    _stragglers: set[int] = field(default_factory=set)

    def observe(self, record: Record) -> None:
        """Take one record into account."""
        if self.began_unix_s is None:
            self.began_unix_s = record.time_unix_s
        self._turn(record.event, record.time_unix_s)

    def values(self, record: Record, bill: Bill) -> Values:
        """All of them at a record; None for what is not known."""
        facts = self.ledger.facts
        price_usd = self.ledger.usd_per_gpu_hour(record.elapsed_s)
        return {
            Series("orchestrator_step"): bill.step,
            Series("orchestrator_steps"): facts.steps if facts else None,
            Series("orchestrator_loss"): bill.final_loss,
            Series("orchestrator_step_time_s"): self._step_time_s,
            Series("orchestrator_last_step_unix_s"): self._last_step_unix_s,
            Series("orchestrator_tokens_per_s"): bill.tokens_per_s,
            Series("orchestrator_mfu"): bill.mfu,
            Series("orchestrator_goodput"): bill.goodput,
            Series("orchestrator_gpus_held"): bill.gpus_held,
            Series("orchestrator_gpu_hours"): bill.gpu_hours,
            Series("orchestrator_cost_usd"): bill.cost_usd,
            Series("orchestrator_cost_usd_per_hour"): bill.gpus_held * price_usd,
            Series("orchestrator_restarts"): bill.restarts,
            Series("orchestrator_stragglers"): len(self._stragglers),
            Series("orchestrator_nodes_avoided"): len(self.avoided),
            **self._shares(record, bill),
            **_buckets(bill),
        }

    def _turn(self, event: Event, now_unix_s: float) -> None:
        match event:
            case ResourcesGranted():
                # What was held before goes on waiting for its step.
                if not self._holds or self._last_step_unix_s is None:
                    self._last_step_unix_s = now_unix_s
                self._holds = True
            case ResourcesReleased():
                self._holds = False
            case AttemptStarted():
                self._stragglers = set()
            case StepDone():
                self._step_time_s, self._last_step_unix_s = event.step_time_s, now_unix_s
            case StragglerNamed():
                self._stragglers.add(event.rank)
            case NodeQuarantined():
                self.avoided.add(event.node)

    def _shares(self, record: Record, bill: Bill) -> dict[Series, float | None]:
        since_hours = (record.time_unix_s - (self.began_unix_s or record.time_unix_s)) / S_PER_HOUR
        spent = {
            Cap.USD: bill.cost_usd,
            Cap.GPU_HOURS: bill.gpu_hours,
            Cap.DEADLINE: max(since_hours, 0.0),
        }
        return {
            Series("orchestrator_budget_share", (cap.value,)): spent[cap] / limit
            for cap, limit in self.caps.items()
            if cap in spent and limit > 0
        }


def _lines(name: str) -> dict[Bucket, Series]:
    return {bucket: Series(name, (bucket.value,)) for bucket in Bucket}


# Made once: they are most of what is made for a step.
_IN_BUCKET = _lines("orchestrator_in_bucket")
_BUCKET_S, _BUCKET_USD = _lines("orchestrator_bucket_s"), _lines("orchestrator_bucket_usd")


def _buckets(bill: Bill) -> dict[Series, float | None]:
    """All of them from the start, so that what is gained in each can be asked for."""
    found: dict[Series, float | None] = {}
    for bucket in Bucket:
        found[_IN_BUCKET[bucket]] = float(bucket is bill.bucket)
        found[_BUCKET_S[bucket]] = bill.seconds.get(bucket, 0.0)
        found[_BUCKET_USD[bucket]] = bill.bucket_usd.get(bucket, 0.0)
    return found
