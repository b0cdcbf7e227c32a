"""A run's story told to the sink, as its driver would, and what MLflow must have of it in the end."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.events import (
    AttemptEnded,
    AttemptStarted,
    CheckpointSaved,
    Event,
    MetricLogged,
    NodeSampled,
    Outcome,
    RankLost,
    ResourcesGranted,
    ResourcesReleased,
    RunEnded,
    RunStarted,
    Status,
    StepDone,
)
from orchestrator.ledger.bill import Bill, Bucket
from orchestrator.ledger.journal import Journal, replay
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.mlflow.runs import load_runs
from tests.support.folders import PROJECT, SCRIPTS
from tests.support.texts import text_so_far

# Importing MLflow alone takes half a minute on a busy machine.
UNTIL_S = 120.0
FORKED = SCRIPTS / "forked_sinks.py"
RUN = RunStarted("night-1", "gpt", "lab", "H100", 4, 2.5, "GPU", 400, 1000, 1e9, 1e12)


class Clock:
    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def story(steps: int) -> Iterator[tuple[float, Event]]:
    """(seconds since the event before, event) of a run with one lost rank in the middle."""
    yield 0, RUN
    yield 1, ResourcesGranted(["n0", "n1"], 4)
    yield 1, AttemptStarted(1, "10.0.0.1", 29500, 4)
    for attempt, first in ((1, 1), (2, steps // 2 - 4)):
        last = steps // 2 if attempt == 1 else steps
        for number in range(first, last + 1):
            yield (
                0.5,
                StepDone(attempt, number, 0.5, 5.0 / number, 1e-3, float("nan") if number == 7 else 1.0),
            )
            if number % 20 == 0:
                yield 0.2, CheckpointSaved(attempt, number, f"step{number}", "/c", 0.2)
                yield (
                    0,
                    MetricLogged(attempt, number, {"val_loss": 6.0 / number, "loss": 1.0, "odd, name!": 2.0}),
                )
                yield (
                    0,
                    NodeSampled("n0", {"cpu_utilization_percentage": 50.0, "gpu_0_power_usage_watts": 600.0}),
                )
        if attempt == 1:
            yield 9, RankLost(1, 3, "n1", "1", -9, last, "killed by SIGKILL", "boom")
            yield 0.1, AttemptEnded(1, Outcome.FAILED, last)
            yield 3, AttemptStarted(2, "10.0.0.1", 29501, 4)


END: list[tuple[float, Event]] = [
    (0.2, ResourcesReleased()),
    (0, RunEnded(Status.FINISHED, "all steps done")),
]


class Writer:
    """A driver's journal with clocks that the test turns."""

    def __init__(self, run_dir: Path) -> None:
        self.clock, self.wall = Clock(0.0), Clock(1.7e9)
        self.journal = Journal(run_dir / "journal.jsonl", self.clock, self.wall)

    def write(self, events: list[tuple[float, Event]]) -> None:
        for gap_s, event in events:
            self.clock.now += gap_s
            self.wall.now += gap_s
            self.journal.append(event)


def new_run_dir(folder: Path) -> Path:
    """What a run's directory has before its driver's first word."""
    path = folder / "runs" / "night-1"
    (path / "logs").mkdir(parents=True)
    (path / "config.yaml").write_text("job: gpt\n")
    (path / "logs" / "rank-0.log").write_text("hello\n" * 60_000)
    return path


def track(run_dir: Path, uri: str, **changes: object) -> None:
    body: dict[str, Any] = {
        "uri": uri,
        "experiment": "exp",
        "run_name": "night-1",
        "flush_s": 0.3,
        "params": {"job.steps": 400, "job.args": "x" * 7000, "bad key!": None},
        "tags": {"owner": "ada"},
        "artifacts": ["config.yaml", "plan.json"],
    }
    (run_dir / "tracking.json").write_text(json.dumps(body | changes))


class Sinks:
    """Starts sinks as children of this process and never leaves one behind."""

    def __init__(self) -> None:
        self.started: list[subprocess.Popen[str]] = []

    def __call__(self, run_dir: Path, timeout_s: float = UNTIL_S, **changes: Any) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "orchestrator.ledger.mlflow.sink", str(run_dir)]
        command += [f"--finish-timeout-s={timeout_s}"]
        if "parent_pid" in changes:
            command += [f"--parent-pid={changes['parent_pid']}"]
        if "earlier_bytes" in changes:
            command += [f"--earlier-bytes={changes['earlier_bytes']}"]
        environment = os.environ | {"PYTHONPATH": str(PROJECT)}
        sink = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=run_dir,
            env=environment,
        )
        self.started.append(sink)
        return sink

    def kill(self) -> None:
        for sink in self.started:
            if sink.poll() is None:
                sink.kill()
            sink.communicate()


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """Of a run whose driver has said nothing yet; a folder's ``conftest.py`` imports it, as it does ``sinks``."""
    return new_run_dir(tmp_path)


@pytest.fixture
def sinks() -> Iterator[Sinks]:
    starter = Sinks()
    yield starter
    starter.kill()


def copy_of(database: Path, directory: Path) -> str:
    """Its address."""
    shutil.copy(database, directory / "mlflow.db")
    return f"sqlite:///{directory}/mlflow.db"


def forked_sinks(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Many sinks for the price of one import of MLflow; its words are those of the script."""
    return subprocess.run(
        [sys.executable, FORKED, *words],
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def until(condition: Callable[[], bool], timeout_s: float = UNTIL_S) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "timed out"
        time.sleep(0.05)


def ended(sink: subprocess.Popen[str], exit_code: int = 0) -> str:
    stdout, stderr = sink.communicate(timeout=UNTIL_S)
    assert (sink.returncode, stdout) == (exit_code, ""), stderr
    return stderr


def the_run(uri: str, name: str = "exp") -> Any:
    """The only MLflow run, with its client."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name(name)
    (run,) = client.search_runs([experiment.experiment_id])
    return client, run


def assert_faithful(uri: str, run_dir: Path, steps: int, experiment: str = "exp") -> None:
    """MLflow has the journal's bill, each step once, also one that was done again, and each sample."""
    records = list(replay(run_dir / "journal.jsonl"))
    ledger = Ledger().fold_all(records)
    bill = ledger.bill()
    client, run = the_run(uri, experiment)
    metrics = run.data.metrics
    for name in ("gpu_hours", "cost_usd", "cost_usd_per_million_tokens", "goodput", "restarts", "tokens"):
        assert metrics[name] == pytest.approx(getattr(bill, name)), name
    for name in ("tokens_per_s", "tokens_per_s_per_gpu", "mfu"):
        assert metrics[f"mean_{name}"] == pytest.approx(getattr(bill, name)), name
    for bucket, value in bill.seconds.items():
        assert metrics[f"seconds_{bucket}"] == pytest.approx(value)
    incidents = ledger.incidents()
    assert metrics["incidents"] == len(incidents) > 0
    wasted_gpu_s = bill.gpu_seconds[Bucket.RECOVERING] + bill.gpu_seconds[Bucket.REDONE]
    assert metrics["incident_cost_usd"] == pytest.approx(wasted_gpu_s * RUN.price_usd_per_gpu_hour / 3600)
    assert run.data.tags["incidents"].endswith(f"last: {incidents[-1].what}")
    kept = json.loads((run_dir / "incidents.json").read_text())
    assert kept == [dataclasses.asdict(incident) for incident in incidents]
    assert metrics["final_loss"] == pytest.approx(5.0 / steps)
    done: dict[int, int] = {}
    for record in records:
        if isinstance(record.event, StepDone):
            done.setdefault(record.event.step, int(record.time_unix_s * 1000))
    history = client.get_metric_history(run.info.run_id, "loss")
    assert [(m.step, m.timestamp) for m in sorted(history, key=lambda m: m.timestamp)] == [*done.items()]
    samples = sum(isinstance(record.event, NodeSampled) for record in records)
    logged = {record.event.step for record in records if isinstance(record.event, MetricLogged)}
    for key, count in (("system/n0/cpu_utilization_percentage", samples), ("val_loss", len(logged))):
        assert len(client.get_metric_history(run.info.run_id, key)) == count > 0, key
    assert_no_bill_twice(client, run, bill)
    (row,) = load_runs(uri, experiment, 5)
    assert (row.run_id, row.cluster, row.gpus, row.job) == (run.info.run_id, "lab", 4, "gpt")
    assert (row.cost_usd, row.mfu, row.tokens) == pytest.approx((bill.cost_usd, bill.mfu, bill.tokens))


def assert_no_bill_twice(client: Any, run: Any, bill: Bill) -> None:
    history = client.get_metric_history(run.info.run_id, "cost_usd")
    values = [(m.timestamp, m.value) for m in history]
    assert len(set(values)) == len(values) > 5
    assert max(value for _, value in values) == pytest.approx(bill.cost_usd)


def log_of(run_dir: Path) -> str:
    return text_so_far(run_dir / "logs" / "mlflow_sink.log")


def cursor(run_dir: Path) -> int:
    path = run_dir / "mlflow_sink.json"
    return int(json.loads(path.read_text())["written_seq"]) if path.exists() else -1
