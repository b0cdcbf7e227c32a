"""`sync` against real SQLite files: MLflow has what the journal has, however often it is asked."""

from __future__ import annotations

import fcntl
import io
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.cli.sync import sync
from orchestrator.driver.tracking import MLFLOW_UI
from orchestrator.errors import ConfigError, RunDirectoryError, TrackingError
from orchestrator.events import RunResumed
from orchestrator.ledger.journal import replay
from orchestrator.ledger.mlflow.views import page_of
from tests.support.sink_harness import (
    END,
    Writer,
    assert_faithful,
    copy_of,
    story,
    the_run,
    track,
)

pytestmark = pytest.mark.real


def synced(run_dir: Path) -> str:
    console = Console(file=io.StringIO(), width=200, force_terminal=False)
    sync(run_dir.name, str(run_dir.parent), console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_sync_brings_a_dead_drivers_run_up_to_its_journal_as_often_as_wanted(
    run_dir: Path, tmp_path: Path, empty_database: Path
) -> None:
    uri = copy_of(empty_database, tmp_path)
    track(run_dir, uri)
    writer = Writer(run_dir)
    events = list(story(60))
    writer.write(events[:30])
    told = synced(run_dir)
    assert told.splitlines() == [
        "30 new records of 30 written, MLflow has all 30 records of night-1",
        f"MLflow: {uri}",
        f"what it cost, beside the other runs: {MLFLOW_UI}{page_of('1')} (once 'mlflow ui' is started)",
        "the run has no end on record: its driver is gone, its status is unknown",
    ]
    _, run = the_run(uri)
    assert (run.info.status, run.data.tags["status"]) == ("KILLED", "unknown")

    writer.write([(0, RunResumed("night-1", "its driver was lost")), (0, events[1][1]), *events[30:], *END])
    new = len(list(replay(run_dir / "journal.jsonl"))) - 30
    assert synced(run_dir).startswith(
        f"{new} new records of {30 + new} written, MLflow has all {30 + new} records"
    )
    assert_faithful(uri, run_dir, 60)
    once = the_run(uri)[1]
    assert (once.info.run_id, once.info.status) == (run.info.run_id, "FINISHED")

    assert synced(run_dir).startswith(f"up to date: MLflow had all {30 + new} records of night-1\n")
    assert_faithful(uri, run_dir, 60)
    assert the_run(uri)[1].to_dictionary() == once.to_dictionary()

    shutil.copy(empty_database, tmp_path / "mlflow.db")
    assert synced(run_dir).startswith("MLflow did not have the run any more: all ")
    assert_faithful(uri, run_dir, 60)


def test_sync_refuses_in_one_line_what_it_cannot_do(run_dir: Path, tmp_path: Path) -> None:
    Writer(run_dir).write([*story(60), *END])
    with pytest.raises(ConfigError, match=r"tracking\.json: missing"):
        synced(run_dir)
    (run_dir / "tracking.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"tracking\.json: 'uri' is None and has to be where MLflow is"):
        synced(run_dir)
    track(run_dir, "http://127.0.0.1:9")
    with pytest.raises(TrackingError, match=r"tracking\.uri: .*127\.0\.0\.1:9"):
        synced(run_dir)
    with (run_dir / "lock").open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("4711\n")
        lock.flush()
        with pytest.raises(RunDirectoryError, match=r"its driver is alive \(process 4711\)"):
            synced(run_dir)
    (run_dir / "journal.jsonl").write_text("")
    track(run_dir, f"sqlite:///{tmp_path}/mlflow.db")
    assert synced(run_dir) == "night-1 never began: there is nothing to tell MLflow\n"
    assert not (tmp_path / "mlflow.db").exists()
