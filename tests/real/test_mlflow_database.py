"""A SQLite file that is not there yet: made whole, once, by whoever comes first, and by nobody in part."""

from __future__ import annotations

import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.cli.sync import sync
from orchestrator.errors import TrackingError
from orchestrator.events import Event, ResourcesGranted, RunEnded, Status
from orchestrator.ledger.mlflow.runs import load_runs
from orchestrator.ledger.mlflow.uri import check_tracking, sqlite_problem
from tests.support.sink_harness import (
    RUN,
    Sinks,
    Writer,
    ended,
    forked_sinks,
    log_of,
    new_run_dir,
    the_run,
    track,
    until,
)

pytestmark = pytest.mark.real

SHORTEST: list[tuple[float, Event]] = [
    (0, RUN),
    (1, ResourcesGranted(["n0"], 4)),
    (1, RunEnded(Status.FINISHED, "all steps done")),
]
TOGETHER = 20
# Of the size that an empty database has.
KILLED_AT = (0.0, 0.05, 0.3, 0.6, 0.85)


def short_run(folder: Path, uri: str) -> Path:
    run_dir = new_run_dir(folder)
    (run_dir / "logs" / "rank-0.log").unlink()
    track(run_dir, uri)
    Writer(run_dir).write(SHORTEST)
    return run_dir


def left_in(folder: Path) -> set[str]:
    """What making a database has left beside it."""
    return {path.name for path in folder.iterdir() if path.is_file()}


def test_twenty_sinks_on_one_new_file_all_record(tmp_path: Path, empty_database: Path) -> None:
    from mlflow.tracking import MlflowClient

    shutil.copy(empty_database, tmp_path / "ready.db")
    first = short_run(tmp_path / "first", f"sqlite:///{tmp_path}/ready.db")
    uri = f"sqlite:///{tmp_path}/place/mlflow.db"
    run_dirs = [short_run(tmp_path / str(number), uri) for number in range(TOGETHER)]
    done = forked_sinks("at-once", first, *run_dirs)
    assert done.returncode == 0, done.stderr + log_of(run_dirs[0])
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("exp")
    runs = client.search_runs([experiment.experiment_id])
    assert [run.info.status for run in runs] == ["FINISHED"] * TOGETHER
    assert all(run.data.metrics["gpu_hours"] == pytest.approx(4 / 3600) for run in runs)
    assert left_in(tmp_path / "place") == {"mlflow.db", ".mlflow.db.lock"}
    assert (tmp_path / "place" / "mlflow.db").stat().st_mode & 0o777 == 0o600, (
        "what is in it is its owner's alone"
    )


def test_a_sink_that_is_killed_while_it_makes_the_file_leaves_one_that_works_or_none(
    tmp_path: Path, empty_database: Path
) -> None:
    database = tmp_path / "place of runs?" / "mlflow 100%.db"
    uri = f"sqlite:///{tmp_path}/place of runs%3F/mlflow 100%25.db"
    run_dir = short_run(tmp_path, uri)
    sizes_bytes = [int(share * empty_database.stat().st_size) for share in KILLED_AT]
    done = forked_sinks("killed", database, run_dir, *map(str, sizes_bytes))
    assert done.returncode == 0, done.stdout + done.stderr
    assert the_run(uri)[1].info.status == "FINISHED"
    assert left_in(database.parent) == {database.name, f".{database.name}.lock"}


def half_made(database: Path, ready: Path) -> None:
    """As MLflow leaves it where it is killed: with tables, some of them old, and not a row."""
    shutil.copy(ready, database)
    with closing(sqlite3.connect(database)) as connection:
        connection.executescript(
            "DELETE FROM experiments; DROP TABLE latest_metrics; DELETE FROM alembic_version;"
        )


def test_a_half_made_file_is_named_with_the_remedy_and_is_used_once_that_is_done(
    tmp_path: Path, sinks: Sinks, empty_database: Path
) -> None:
    database = tmp_path / "mlflow.db"
    uri = f"sqlite:///{database}"
    half_made(database, empty_database)
    run_dir = short_run(tmp_path, uri)
    remedy = f"mv {database} {database}.half-made"
    assert remedy in (check_tracking(uri, 1) or "")
    with pytest.raises(TrackingError, match="half made"):
        sync(run_dir.name, str(run_dir.parent), Console())

    (run_dir / "journal.jsonl").unlink()
    writer = Writer(run_dir)
    writer.write(SHORTEST[:2])
    sink = sinks(run_dir)
    until(lambda: log_of(run_dir).count("half made") > 1)
    database.rename(f"{database}.half-made")
    writer.write(SHORTEST[2:])
    said = ended(sink)
    assert remedy in said, "at once, since no waiting mends it"
    assert "written again after" in said
    assert "Traceback" not in said
    assert the_run(uri)[1].info.status == "FINISHED"


def test_a_file_of_another_mlflow_is_left_as_it_is(tmp_path: Path, empty_database: Path) -> None:
    """MLflow would change its tables unasked; who is killed meanwhile loses all the runs in it."""
    from orchestrator.ledger.mlflow.database import DatabaseUnusable, make_ready

    database = tmp_path / "mlflow.db"
    shutil.copy(empty_database, database)
    uri = f"sqlite:///{database}"
    for revision, remedy in (
        ("451aebb31d03", f"then: mlflow db upgrade {uri}"),
        ("of tomorrow", "install the MLflow that"),
    ):
        with closing(sqlite3.connect(database)) as connection:
            connection.execute("UPDATE alembic_version SET version_num = ?", [revision])
            connection.execute("DROP TABLE IF EXISTS trace_info")
            connection.commit()
        before = database.read_bytes()
        with pytest.raises(DatabaseUnusable, match=re.escape(remedy)):
            make_ready(uri)
        with pytest.raises(TrackingError, match=re.escape(remedy)):
            load_runs(uri, "exp", 5)
        assert database.read_bytes() == before


def test_what_is_no_database_of_mlflow_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    path.write_text("text, and not a database. " * 100)
    assert "is not a SQLite file" in (sqlite_problem(path) or "")
    path.unlink()
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("CREATE TABLE mine (a INTEGER);")
    assert "tables that are not MLflow's" in (sqlite_problem(path) or "")
    path.write_bytes(b"")
    assert sqlite_problem(path) is None, "an empty file is as good as none"
