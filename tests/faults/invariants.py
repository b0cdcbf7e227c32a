"""What holds after every fault, whatever it was."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import pytest

from orchestrator.events import (
    AttemptEnded,
    AttemptStarted,
    Event,
    Record,
    RunEnded,
    RunResumed,
    RunStarted,
    StepDone,
)
from orchestrator.ledger.bill import Bill, Bucket
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.mlflow.names import hours_key
from tests.faults.runs import Run
from tests.support.processes import open_segments

# What is left of a run has to be gone by then.
GONE_S = 30.0
# When Ray's control store and raylet are killed, these two of its own try for a minute to tell it about that.
RAY_TRIES = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
RAY_GONE_S = 90.0


class Told(Protocol):
    """What a run's journal tells, on whichever host it lies."""

    code: int
    text: str

    def records(self) -> list[Record]: ...

    def events(self) -> list[Event]: ...

    def of(self, kind: type[Any]) -> list[Any]: ...

    def losses(self) -> dict[int, float | None]: ...


def finished_like(run: Run, whole: Run, checkpoints: Path | None = None) -> None:
    """It went to its end; its losses are the uninterrupted run's, bit for bit; and all else that holds."""
    trained_like(run, whole.losses(), checkpoints or run.folder / "checkpoints")
    holds(run)


def trained_like(run: Told, losses: dict[int, float | None], checkpoints: Path) -> None:
    """The same of what its journal and its checkpoints tell."""
    assert run.code == 0, run.text
    assert run.losses() == losses, "to the last digit"
    redone_alike(run)
    assert list((checkpoints / ".attempts").glob("*")) == [], "nothing unfinished is left"
    assert (checkpoints / "latest").read_text() == f"step-{max(losses):06d}"


def redone_alike(run: Told) -> None:
    """A step that was done again had the same loss again, bit for bit."""
    losses: dict[int, set[float | None]] = {}
    for event in run.of(StepDone):
        losses.setdefault(event.step, set()).add(event.loss)
    assert {step: seen for step, seen in losses.items() if len(seen) > 1} == {}


def holds(run: Run) -> None:
    """Of every run, however it ended."""
    one_generation_at_a_time(run)
    buckets_sum(run)
    nothing_left(run)


def one_generation_at_a_time(run: Run) -> None:
    """In the journal an attempt ends before the next starts, unless its driver died; and so it was among
    processes."""
    assert run.most_ranks <= 1, "no rank was there twice"
    one_attempt_at_a_time(run)


def one_attempt_at_a_time(run: Told) -> None:
    """The same of the journal alone."""
    attempt, last = 0, None
    for event in run.events():
        match event:
            case AttemptStarted():
                assert last is None, f"attempt {event.attempt} starts while {last} has not ended"
                assert event.attempt > attempt
                attempt = last = event.attempt
            case AttemptEnded():
                assert event.attempt == last
                last = None
            case RunResumed() | RunEnded():
                last = None
            case StepDone():
                assert event.attempt == last, "a step of an attempt that is over"


def buckets_sum(run: Told) -> Bill:
    """Every second and every GPU-second is in one bucket; faults, and stops that somebody asked for, cost what
    recovering and redoing took."""
    records = run.records()
    ledger = Ledger().fold_all(records)
    bill = ledger.bill()
    assert sum(bill.seconds.values()) == pytest.approx(bill.elapsed_s)
    assert sum(bill.gpu_seconds.values()) == pytest.approx(3600 * bill.gpu_hours)
    assert bill.elapsed_s == pytest.approx(records[-1].elapsed_s)
    assert bill.gpu_seconds[Bucket.WAITING] == 0
    assert min(bill.seconds.values()) >= 0
    started = next(record.event for record in records if isinstance(record.event, RunStarted))
    lost_s = bill.gpu_seconds[Bucket.RECOVERING] + bill.gpu_seconds[Bucket.REDONE]
    told_usd = ledger.incident_totals()[1] + ledger.asked_for_usd()
    assert told_usd == pytest.approx(lost_s / 3600 * started.price_usd_per_gpu_hour)
    return bill


def nothing_left(run: Run) -> None:
    """No process (and so no port), and no segment of shared memory that nobody has open."""
    gone(run, GONE_S)
    assert wait_until(lambda: not run.left(), RAY_GONE_S), f"still there after {RAY_GONE_S:g} s: {run.left()}"
    new = set(os.listdir("/dev/shm")) - run.segments

    def orphans() -> set[str]:
        left = new & set(os.listdir("/dev/shm"))
        return left - open_segments() if left else left

    assert wait_until(lambda: not orphans(), GONE_S), f"in /dev/shm, open nowhere: {orphans()}"


def gone(run: Run, within_s: float) -> None:
    """No process of it, but for those by which Ray tries to tell of its end."""

    def there() -> list[str]:
        return [process for process in run.left() if not process.endswith(RAY_TRIES)]

    assert wait_until(lambda: not there(), within_s), f"still there after {within_s:g} s: {there()}"


def mlflow_agrees(run: Run, uri: str) -> None:
    """One MLflow run, with the status and the totals of the journal."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    found = client.get_experiment_by_name("orchestrator")
    assert found is not None, "MLflow has the experiment"
    (recorded,) = client.search_runs([found.experiment_id], f"attributes.run_name = '{run.name}'")
    records = run.records()
    ledger = Ledger().fold_all(records)
    bill = ledger.bill()
    metrics = recorded.data.metrics
    assert ledger.facts is not None
    hours = hours_key(ledger.facts.unit)
    assert metrics[hours] == pytest.approx(bill.gpu_hours)
    for name in ("cost_usd", "cost_usd_per_million_tokens", "goodput", "restarts", "tokens"):
        assert metrics[name] == pytest.approx(getattr(bill, name)), name
    for bucket, seconds in bill.seconds.items():
        assert metrics[f"seconds_{bucket}"] == pytest.approx(seconds), bucket
    assert (metrics.get("incidents", 0), metrics.get("incident_cost_usd", 0)) == pytest.approx(
        ledger.incident_totals()
    )
    assert metrics["final_loss"] == pytest.approx(run.losses()[max(run.losses())])
    told = sorted({event.step for event in run.of(StepDone)})
    known = sorted(point.step for point in client.get_metric_history(recorded.info.run_id, "loss"))
    assert known == told, "each step once, however often it was done"
    assert recorded.info.status == "FINISHED"


def wait_until(true: Callable[[], bool], timeout_s: float) -> bool:
    """Whether it came true in time."""
    deadline_s = time.monotonic() + timeout_s
    while not true():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.1)
    return True
