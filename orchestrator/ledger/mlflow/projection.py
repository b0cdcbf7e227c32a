"""Records → what MLflow keeps: metric points and tags. Pure and deterministic.

Folding the same journal twice gives the same points with the same keys, steps and times, which is why
a restarted sink may send some of them twice: MLflow keeps one of each. Names are those of
``names.py``; the comparison of runs reads the same ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from orchestrator.events import (
    AttemptStarted,
    BudgetSettled,
    EngineConfigured,
    MetricLogged,
    NodeSampled,
    Record,
    ResourcesGranted,
    RunEnded,
    RunResumed,
    RunStarted,
    ScriptTracked,
    Status,
    StepDone,
)
from orchestrator.ledger.bill import Bill
from orchestrator.ledger.incident import Incident
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.mlflow.description import description
from orchestrator.ledger.mlflow.job_figures import Figure, JobFigures
from orchestrator.ledger.mlflow.names import ENGINE_TAGS, hours_key, price_key
from orchestrator.ledger.mlflow.points import Point, clean_key, job_name
from orchestrator.ledger.mlflow.script_projection import ScriptProjection, Series
from orchestrator.ledger.mlflow.thinning import Done, Thinning
from orchestrator.supervise.budget_words import going_on
from orchestrator.text import hours, hours_name, usd

MLFLOW_STATUS = {
    Status.FINISHED: "FINISHED",
    Status.FAILED: "FAILED",
    Status.INTERRUPTED: "KILLED",
    Status.BUDGET_REACHED: "KILLED",
}
# A bill is never older than this share of the run: a month then has thousands of bills, not a million.
BILL_SPACING = 0.002
# Nor are the samples of a node further apart than this share, once that is longer than they are apart anyway.
SAMPLE_SPACING = 0.001
# While a run goes on its description is written anew after a minute, and each time a quarter later.
NOTE_S, NOTE_SPACING = 60.0, 1.25


class Projection:
    """Folds records into points; ``tags`` says at any time what is known of the run, ``note`` what stands in
    its description, ``script`` what its script has told MLflow. ``params`` are those that the run has before,
    ``go_on`` is the command that takes it up again."""

    def __init__(self, flush_s: float, params: Mapping[str, str] | None = None, go_on: str = "") -> None:
        self.ledger = Ledger()
        self.script = ScriptProjection(params or {})
        self.tags: dict[str, str] = {}
        self.note = ""
        self.ended: RunEnded | None = None
        self.first_ms: int | None = None
        self.last_ms = 0
        self._last_seq = -1
        self._flush_s, self._go_on = flush_s, go_on
        self._settled: BudgetSettled | None = None  # of a run that has stopped for it
        self._next_bill_s = flush_s
        self._next_note_s = 0.0
        self._samples: Counter[str] = Counter()
        self._next_sample_s: dict[str, float] = {}
        self._steps = Thinning()
        self._highest_step = -1
        self._figures = JobFigures()
        self._job_series: dict[str, Series] = {}

    def fold(self, record: Record) -> list[Point]:
        """The points of one record: its own, and a bill when one is due."""
        self.ledger.fold(record)
        # A wall clock set back must not let an older bill look like the latest, nor two points like one.
        now_ms = int(record.time_unix_s * 1000)
        self.last_ms = now_ms if now_ms >= self.last_ms else self.last_ms + 1
        self.first_ms = self.last_ms if self.first_ms is None else self.first_ms
        self._last_seq = record.seq
        self.ended = None
        match record.event:
            case RunStarted() as started:
                self.tags = _facts(started)
            case BudgetSettled() as settled:
                self._settled = settled
            case RunResumed(because=because):
                self._settled = None
                self.tags |= {"status": "running", "status_reason": f"taken up again: {because}"}
            case ResourcesGranted(nodes=nodes):
                self.tags["nodes"] = str(len(nodes))
            case EngineConfigured() as engine:
                self.tags |= {f"engine.{name}": str(getattr(engine, name)) for name in ENGINE_TAGS}
                self._figures.engine_configured()
            case AttemptStarted():
                self._tag_incidents()
            case RunEnded() as ended:
                self.ended = ended
                return self.final_points(ended.status.value, ended.reason)
        points = []
        if isinstance(record.event, AttemptStarted):
            points = self._step_points(self._steps.rest()) + self._job_points(self._figures.rest())
        points += self._own_points(record)
        if record.elapsed_s >= self._next_bill_s:
            self._next_bill_s = record.elapsed_s + max(self._flush_s, record.elapsed_s * BILL_SPACING)
            points += self._points(self._bill_metrics(), self.ledger.bill().step)
        if record.elapsed_s >= self._next_note_s or isinstance(record.event, AttemptStarted):
            self._next_note_s = max(record.elapsed_s + NOTE_S, record.elapsed_s * NOTE_SPACING)
            self._describe()
        return points

    def incidents(self) -> list[Incident]:
        """All of the run so far."""
        return self.ledger.incidents()

    def final_points(self, status: str, reason: str) -> list[Point]:
        """The last bill, and what the plan had predicted; sets the tags that say how the run ended."""
        bill = self.ledger.bill()
        self.tags |= {"status": status, "status_reason": reason}
        self._tag_incidents()
        metrics = self._bill_metrics() | self.ledger.predicted_actual().metrics()
        metrics |= self.ledger.drawn().metrics()
        self._describe()
        metrics["final_loss"] = bill.final_loss
        metrics |= {f"cost_usd_{bucket.value}": cost for bucket, cost in bill.bucket_usd.items() if cost}
        points = self.script.rest() + self._step_points(self._steps.rest())
        points += self._job_points(self._figures.rest())
        return points + self._points(metrics, bill.step)

    def _bill_metrics(self) -> dict[str, float | None]:
        unit = self.ledger.facts.unit if self.ledger.facts else "GPU"
        return bill_metrics(self.ledger.bill(), unit) | incident_metrics(*self.ledger.incident_totals())

    def _describe(self) -> None:
        status, reason = self.tags.get("status", ""), self.tags.get("status_reason", "")
        settled = self._settled if status == Status.BUDGET_REACHED else None
        self.note = description(self.ledger, status, reason, going_on(self._go_on, settled))

    def _tag_incidents(self) -> None:
        incidents = self.incidents()
        if incidents:
            unit = self.ledger.facts.unit if self.ledger.facts else "GPU"
            self.tags["incidents"] = incidents_in_words(incidents, unit)

    def _own_points(self, record: Record) -> list[Point]:
        match record.event:
            case StepDone() as step:
                done = Done(step, record.seq, self.last_ms, self.ledger.gpus_held)
                others = self._job_points(self._figures.step_done(step.step, self._step_metrics(done)))
                if step.step <= self._highest_step:
                    return others  # MLflow takes no point back, and two at one step are a curve that jumps
                self._highest_step = step.step
                return self._step_points(self._steps.add(done)) + others
            case MetricLogged(attempt=attempt, step=step_number, metrics=metrics):
                number = self.ledger.bill().step if step_number is None else step_number
                figures = [
                    Figure(name, value, number, record.seq, self.last_ms)
                    for name, value in metrics.items()
                    if self._job_series.setdefault(name, Series(attempt)).is_new(attempt, number)
                ]
                return self._job_points(self._figures.printed(figures))
            case ScriptTracked() as told:
                return self.script.fold(record, told)
            case NodeSampled(node=node, metrics=metrics):
                number = self._samples[node]
                self._samples[node] += 1
                if record.elapsed_s < self._next_sample_s.get(node, 0.0):
                    return []
                self._next_sample_s[node] = record.elapsed_s * (1 + SAMPLE_SPACING)
                return self._points({f"system/{node}/{name}": v for name, v in metrics.items()}, number)
        return []

    def _step_points(self, steps: Sequence[Done]) -> list[Point]:
        return [
            Point(done.seq, key, float(value), done.time_ms, done.step.step)
            for done in steps
            for key, value in self._step_metrics(done).items()
            if value is not None
        ]

    def _job_points(self, figures: Sequence[Figure]) -> list[Point]:
        return [
            Point(one.seq, clean_key(job_name(one.name)), float(one.value), one.time_ms, one.step)
            for one in figures
        ]

    def _step_metrics(self, done: Done) -> dict[str, float | None]:
        step, gpus = done.step, done.gpus
        metrics: dict[str, float | None] = {
            "loss": step.loss,
            "lr": step.lr,
            "grad_norm": step.grad_norm,
            "step_time_s": step.step_time_s,
        }
        facts = self.ledger.facts
        if facts and facts.tokens_per_step and step.step_time_s > 0:
            tokens_per_s = facts.tokens_per_step / step.step_time_s
            metrics["tokens_per_s"] = tokens_per_s
            if gpus:
                per_gpu = tokens_per_s / gpus
                metrics["tokens_per_s_per_gpu"] = per_gpu
                if facts.model_flops_per_token and facts.peak_flops_per_gpu:
                    metrics["mfu"] = per_gpu * facts.model_flops_per_token / facts.peak_flops_per_gpu
        return metrics

    def _points(self, metrics: dict[str, float | None] | dict[str, float], step: int) -> list[Point]:
        return [
            Point(self._last_seq, clean_key(key), float(value), self.last_ms, step)
            for key, value in metrics.items()
            if value is not None
        ]


def bill_metrics(bill: Bill, unit: str) -> dict[str, float | None]:
    """The run so far, under the names that MLflow gets."""
    return {
        hours_key(unit): bill.gpu_hours,
        "cost_usd": bill.cost_usd,
        "cost_usd_per_million_tokens": bill.cost_usd_per_million_tokens,
        "goodput": bill.goodput,
        "restarts": bill.restarts,
        "tokens": bill.tokens,
        "mean_tokens_per_s": bill.tokens_per_s,
        "mean_tokens_per_s_per_gpu": bill.tokens_per_s_per_gpu,
        "mean_mfu": bill.mfu,
        "skipped_steps": bill.skipped_steps or None,
    } | {f"seconds_{bucket.value}": value for bucket, value in bill.seconds.items()}


def incident_metrics(count: int, cost_usd: float) -> dict[str, float]:
    """How many there were, and what their recoveries and redone steps cost."""
    return {"incidents": count, "incident_cost_usd": cost_usd}


def incidents_in_words(incidents: Sequence[Incident], unit: str) -> str:
    """For a column of a table: ``2 exit, 1 hang: 0.12 GPU-hours, $0.30; last: rank 3 on node n1, …``."""
    kinds = Counter(incident.fault for incident in incidents)
    cost = sum(incident.cost_usd for incident in incidents)
    spent = f"{hours(sum(incident.gpu_hours for incident in incidents))} {hours_name(unit)}, {usd(cost)}"
    return f"{', '.join(f'{n} {kind}' for kind, n in kinds.items())}: {spent}; last: {incidents[-1].what}"


def _facts(started: RunStarted) -> dict[str, str]:
    return {
        "status": "running",
        "run": started.run,
        "job": started.job,
        "cluster": started.cluster,
        "gpu_type": started.gpu_type,
        "gpus": str(started.gpus),
        "unit": started.unit,
        price_key(started.unit): repr(started.price_usd_per_gpu_hour),
    }
