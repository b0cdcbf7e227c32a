"""The sink while MLflow is away, raises, or never answers: nothing is lost, and it ends in time."""

from __future__ import annotations

import socket
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
from alembic.util import CommandError

from orchestrator.ledger.journal import Tail, replay
from tests.support.sink_harness import END, Sinks, Writer, ended, log_of, story, track, until

pytestmark = pytest.mark.real

STUCK_FOR_S = 60.0


class FakeRun:
    """Stands for the MLflow run: away until told otherwise, and then remembers what it got."""

    def __init__(self) -> None:
        self.away, self.written_seq = True, -1
        self.error: Exception = OSError("away")
        self.points: list[Any] = []
        self.status = ""

    def open(self, start_ms: int | None) -> None:
        if self.away:
            raise self.error

    def write(self, points: list[Any], done_seq: int) -> None:
        self.points += points
        self.written_seq = done_seq

    def write_tags(self, tags: dict[str, str]) -> None: ...

    def write_note(self, ours: str, scripts: str | None) -> None: ...

    def upload(self) -> None: ...

    def keep_incidents(self, incidents: list[Any]) -> None: ...

    def write_params(self, params: dict[str, str]) -> None: ...

    def end(self, status: str, end_ms: int) -> None:
        self.status = status


def test_an_outage_longer_than_memory_is_read_again_from_the_journal(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from orchestrator.ledger.mlflow import sink as mlflow_sink
    from orchestrator.ledger.mlflow.projection import Projection
    from orchestrator.ledger.mlflow.tracking_file import Tracking

    monkeypatch.setattr(mlflow_sink, "MAX_PENDING_POINTS", 100)
    monkeypatch.setattr(mlflow_sink, "FLUSH_AT_POINTS", 50)
    monkeypatch.setattr(Tail, "READ_BYTES", 2000)
    track(run_dir, "sqlite:///unused.db")
    Writer(run_dir).write([*story(200), *END])
    run = FakeRun()
    monkeypatch.setattr(mlflow_sink, "MlflowRun", lambda *_: run)
    sink = mlflow_sink.Sink(run_dir, Tracking.read(run_dir / "tracking.json"), lambda: False)
    ending = sink.follow(1.0)
    assert (ending.status, run.points) == ("FINISHED", []), "the end is seen though the server is away"
    assert not sink.finish(ending, 0.3)
    run.away = False
    assert sink.finish(ending, 10.0)
    projection = Projection(0.3)
    expected = [p for record in replay(run_dir / "journal.jsonl") for p in projection.fold(record)]
    assert list(map(repr, run.points)) == list(map(repr, expected)), "each point once, in order"
    assert run.status == "FINISHED"


def fake_sink(run_dir: Path, run: FakeRun, monkeypatch: pytest.MonkeyPatch) -> Any:
    from orchestrator.ledger.mlflow import sink as mlflow_sink
    from orchestrator.ledger.mlflow.tracking_file import Tracking

    track(run_dir, "sqlite:///unused.db")
    monkeypatch.setattr(mlflow_sink, "MlflowRun", lambda *_: run)
    return mlflow_sink.Sink(run_dir, Tracking.read(run_dir / "tracking.json"), lambda: False)


@pytest.mark.parametrize(
    "error", [KeyError("x"), sqlite3.OperationalError("no such table"), CommandError("no revision")]
)
def test_whatever_is_raised_is_tried_again(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    Writer(run_dir).write([*story(60), *END])
    run = FakeRun()
    run.error = error
    sink = fake_sink(run_dir, run, monkeypatch)
    ending = sink.follow(1.0)
    assert not sink.finish(ending, 0.1)
    assert sink.outage.last_error == str(error)
    run.away = False
    assert sink.finish(ending, 10.0)
    assert run.status == "FINISHED"


def test_at_the_end_it_does_not_wait_for_a_person(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from orchestrator.ledger.mlflow import sink as mlflow_sink
    from orchestrator.ledger.mlflow.database import DatabaseUnusable

    monkeypatch.setattr(mlflow_sink, "UNUSABLE_AT_END_S", 0.3)
    Writer(run_dir).write([*story(60), *END])
    run = FakeRun()
    run.error = DatabaseUnusable("half made")
    sink = fake_sink(run_dir, run, monkeypatch)
    assert not sink.finish(sink.follow(1.0), 300.0)


def test_a_call_that_does_not_come_back_ends_in_time(
    run_dir: Path, sinks: Sinks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that takes connections and never says a word; the call to it would last for longer than the
    deadline."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", f"{10 * STUCK_FOR_S:.0f}")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        track(run_dir, f"http://127.0.0.1:{silent.getsockname()[1]}")
        Writer(run_dir).write([*story(60), *END])
        sink = sinks(run_dir, timeout_s=0.5)
        until(lambda: "following" in log_of(run_dir))
        began_s = time.monotonic()
        stderr = ended(sink, exit_code=1)
    assert time.monotonic() - began_s < STUCK_FOR_S
    assert stderr.startswith("MLflow did not take everything within ")
    assert stderr.count("\n") == 1
