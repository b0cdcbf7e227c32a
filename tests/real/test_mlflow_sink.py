"""The sink against real stores: SQLite files and an MLflow server on loopback."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.events import ResourcesReleased, RunEnded, RunResumed, Status, StopRequested
from orchestrator.ledger.journal import replay
from orchestrator.ledger.meter import Meter
from orchestrator.ledger.mlflow.runs import load_runs
from orchestrator.ledger.mlflow.uri import check_tracking
from orchestrator.plan.layout.layout import LEAST_LOG_BYTES
from tests.support.folders import PROJECT
from tests.support.mlflow_server import Server
from tests.support.sink_harness import (
    END,
    UNTIL_S,
    Sinks,
    Writer,
    assert_faithful,
    copy_of,
    cursor,
    ended,
    log_of,
    new_run_dir,
    story,
    the_run,
    track,
    until,
)

pytestmark = pytest.mark.real


@pytest.fixture(scope="module", autouse=True)
def server(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[Server]:
    """It starts beside the first tests."""
    instance = Server(tmp_path_factory.mktemp("server"), empty_database)
    instance.start()
    yield instance
    instance.close()


def huge_log(path: Path) -> None:
    """Of a terabyte, all but the first line and what a bound of the least size keeps of the end is left
    out."""
    with path.open("w") as log:
        log.write("the first line\n")
        log.truncate(10**12)
        log.seek(0, os.SEEK_END)
        log.write("\n" + "x\n" * (LEAST_LOG_BYTES // 4) + "the last line\n")


def test_sqlite_gets_everything_and_leaves_nothing_elsewhere(
    run_dir: Path, tmp_path: Path, sinks: Sinks, empty_database: Path
) -> None:
    database = tmp_path / "new" / "place" / "mlflow.db"
    uri = f"sqlite:///{database}"
    track(run_dir, uri)
    huge_log(run_dir / "logs" / "rank-1.log")
    writer = Writer(run_dir)
    writer.write([*story(60), *END])
    sink = sinks(run_dir)
    assert ended(sink) == ""
    assert_faithful(uri, run_dir, 60)
    client, run = the_run(uri)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "night-1")
    assert run.info.start_time == 1_700_000_000_000
    assert run.info.end_time == int(writer.wall.now * 1000)
    assert run.data.tags["status_reason"] == "all steps done"
    expected = {"owner": "ada", "status": "finished", "cluster": "lab", "gpu_type": "H100", "gpus": "4"}
    assert {name: run.data.tags[name] for name in expected} == expected
    note = run.data.tags["mlflow.note.content"]
    assert "**finished**: all steps done" in note
    assert "**1 incident**" in note
    given = client.get_experiment(run.info.experiment_id).tags
    assert {f"mlflow.sharedViewState.{key}" for key in ("cost", "speed", "reliability")} <= given.keys()
    assert run.data.params["job.steps"] == "400"
    assert run.data.params["bad key_"] == "None"
    assert run.data.params["job.args"].endswith("x … (cut, 7000 characters in all)")
    metrics = run.data.metrics
    assert {"job/loss", "odd_ name_", "system/n0/gpu_0_power_usage_watts"} <= metrics.keys()
    artifacts = {item.path for item in client.list_artifacts(run.info.run_id)}
    assert artifacts == {"config.yaml", "incidents.json", "journal.jsonl", "logs"}
    copied = database.parent / "mlartifacts" / run.info.run_id / "artifacts" / "logs" / "rank-0.log"
    assert copied.read_text().startswith("[the first 97856 bytes are left out]\n")
    end_of_huge = copied.with_name("rank-1.log").read_bytes()
    assert len(end_of_huge) < 300_000
    assert b"\0" not in end_of_huge
    assert end_of_huge.endswith(b"the last line\n")
    assert not (run_dir / "mlruns").exists()
    assert json.loads((run_dir / "mlflow_run.json").read_text())["run_id"] == run.info.run_id

    # Once more from the start: MLflow keeps one of each.
    state = json.loads((run_dir / "mlflow_sink.json").read_text())
    (run_dir / "mlflow_sink.json").write_text(json.dumps(state | {"written_seq": -1}))
    assert ended(sinks(run_dir)) == ""
    assert_faithful(uri, run_dir, 60)

    # And when MLflow has lost the run, it is written anew whatever the cursor says.
    shutil.copy(empty_database, database)
    assert ended(sinks(run_dir, parent_pid=0)) == ""
    assert_faithful(uri, run_dir, 60)


def test_the_runs_of_a_sweep_are_children_of_one_that_compares_them(
    tmp_path: Path, sinks: Sinks, empty_database: Path
) -> None:
    from mlflow.tracking import MlflowClient

    uri = copy_of(empty_database, tmp_path)
    started = []
    for steps in (30, 60):
        run_dir = new_run_dir(tmp_path / str(steps))
        values = {"job.args.lr": f"1e-{steps}"}
        track(run_dir, uri, run_name=f"of-{steps}", sweep="night-sweep-1", sweep_values=values)
        Writer(run_dir).write([*story(steps), *END])
        started.append(sinks(run_dir))
        assert ended(started[-1]) == ""
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("exp")
    assert experiment is not None
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert runs.keys() == {"of-30", "of-60", "sweep night-sweep-1"}
    parent = runs.pop("sweep night-sweep-1")
    assert {run.data.tags["mlflow.parentRunId"] for run in runs.values()} == {parent.info.run_id}
    assert (parent.info.status, parent.data.tags["status"]) == ("FINISHED", "finished")
    cost_usd = sum(run.data.metrics["cost_usd"] for run in runs.values())
    assert parent.data.metrics["sweep_cost_usd"] == pytest.approx(cost_usd)
    assert parent.data.metrics["sweep_best_final_loss"] == pytest.approx(5 / 60)
    note = parent.data.tags["mlflow.note.content"].splitlines()
    assert [line.split("|")[4].strip() for line in note if "job.args.lr=" in line] == [
        "0.1667",
        "**0.08333**",
    ]
    assert {row.name for row in load_runs(uri, "exp", 9)} == {"of-60", "of-30"}, "compare has no parent"


def test_a_server_that_never_comes_costs_one_line_and_no_data(run_dir: Path, sinks: Sinks) -> None:
    track(run_dir, "http://127.0.0.1:9")
    Writer(run_dir).write([*story(60), *END])
    shutil.copytree(run_dir, run_dir.with_name("night-2"))
    stubborn = sinks(run_dir.with_name("night-2"), timeout_s=300)
    stderr = ended(sinks(run_dir, timeout_s=2), exit_code=1)
    assert stderr.startswith("MLflow did not take everything within 2 s (")
    assert "(http://127.0.0.1:9 does not answer: Connection refused)" in stderr
    stubborn.send_signal(signal.SIGTERM)
    assert "did not take everything" in ended(stubborn, exit_code=1), "SIGTERM ends even a patient wait"
    assert stderr.count("\n") == 1
    assert len(list(replay(run_dir / "journal.jsonl"))) > 60


LOSE_DRIVER = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-m", "orchestrator.ledger.mlflow.sink", sys.argv[1]])
while True:
    time.sleep(1)
"""


def test_a_driver_that_dies_and_comes_back(
    run_dir: Path, tmp_path: Path, sinks: Sinks, empty_database: Path
) -> None:
    uri = copy_of(empty_database, tmp_path)
    track(run_dir, uri)
    writer = Writer(run_dir)
    events = list(story(60))
    writer.write(events[:30])
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    driver = subprocess.Popen([sys.executable, "-c", LOSE_DRIVER, str(run_dir)], env=environment)
    try:
        until(lambda: cursor(run_dir) == 29)
    finally:
        driver.kill()
        driver.wait()
    until(lambda: the_run(uri)[1].info.status == "KILLED")
    _, run = the_run(uri)
    assert (run.data.tags["status"], run.data.tags["status_reason"]) == ("unknown", "driver lost")
    so_far = Meter().fold_all(replay(run_dir / "journal.jsonl")).bill()
    assert run.data.metrics["cost_usd"] == pytest.approx(so_far.cost_usd)

    earlier_bytes = (run_dir / "journal.jsonl").stat().st_size
    writer.write([(0, RunResumed("night-1", "its driver was lost")), (0, events[1][1]), *events[30:], *END])
    assert ended(sinks(run_dir, earlier_bytes=earlier_bytes)) == ""
    _, again = the_run(uri)
    assert again.info.run_id == run.info.run_id
    assert (again.info.status, again.data.tags["status"]) == ("FINISHED", "finished")
    assert_faithful(uri, run_dir, 60)


def test_a_stopped_run_that_is_taken_up_again_is_followed_to_its_new_end(
    run_dir: Path, tmp_path: Path, sinks: Sinks, empty_database: Path
) -> None:
    uri = copy_of(empty_database, tmp_path)
    track(run_dir, uri)
    writer = Writer(run_dir)
    events = list(story(60))
    writer.write(
        [*events[:30], (0, StopRequested("Ctrl-C", 30)), (1, RunEnded(Status.INTERRUPTED, "Ctrl-C"))]
    )
    assert ended(sinks(run_dir)) == ""
    assert the_run(uri)[1].info.status == "KILLED"

    earlier_bytes = (run_dir / "journal.jsonl").stat().st_size
    sink = sinks(run_dir, earlier_bytes=earlier_bytes)
    until(lambda: the_run(uri)[1].info.status == "RUNNING")
    assert sink.poll() is None, "the end on record is not its driver's, which is still connecting to Ray"
    writer.write([(6, RunResumed("night-1", "it had ended as interrupted")), (0, events[1][1])])
    until(lambda: the_run(uri)[1].data.tags["status"] == "running")
    writer.write([*events[30:], *END])
    assert ended(sink) == ""
    _, run = the_run(uri)
    assert (run.info.status, run.data.tags["status_reason"]) == ("FINISHED", "all steps done")
    assert_faithful(uri, run_dir, 60)


def test_the_sink_of_a_dead_driver_leaves_the_end_to_that_of_the_next_one(
    run_dir: Path, sinks: Sinks, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    server.wait()
    server.tell(signal.SIGSTOP)
    try:
        track(run_dir, server.uri, experiment="taken-over")
        writer = Writer(run_dir)
        events = list(story(60))
        writer.write(events[:30])
        orphan = sinks(run_dir, parent_pid=0)
        until(lambda: "not written" in log_of(run_dir))
        monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT")
        earlier_bytes = (run_dir / "journal.jsonl").stat().st_size
        heir = sinks(run_dir, earlier_bytes=earlier_bytes)
        writer.write([(0, RunResumed("night-1", "its driver was lost")), (0, events[1][1])])
        assert "did not take" not in ended(orphan), (
            "it does not wait for a server to say what is no longer true"
        )
    finally:
        server.tell(signal.SIGCONT)
    writer.write([*events[30:], *END])
    assert ended(heir) == ""
    assert_faithful(server.uri, run_dir, 60, "taken-over")
    assert the_run(server.uri, "taken-over")[1].info.status == "FINISHED"


def test_sigterm_flushes_and_leaves_the_run_as_it_is_but_stays_for_a_stop(
    run_dir: Path, tmp_path: Path, sinks: Sinks, empty_database: Path
) -> None:
    uri = copy_of(empty_database, tmp_path)
    track(run_dir, uri, flush_s=600)
    writer = Writer(run_dir)
    events = list(story(60))
    writer.write(events[:20])
    sink = sinks(run_dir)
    until(lambda: cursor(run_dir) == 19)
    writer.write(events[20:30])
    sink.send_signal(signal.SIGTERM)
    assert ended(sink) == ""
    assert cursor(run_dir) == 29
    assert the_run(uri)[1].info.status == "RUNNING"

    sink = sinks(run_dir)
    until(lambda: log_of(run_dir).count("following") == 2)
    sink.send_signal(signal.SIGINT)  # Ctrl-C reaches the whole process group; it is the driver's
    sink.send_signal(signal.SIGTERM)
    writer.write([(0, StopRequested("SIGTERM", 30))])
    time.sleep(1.5)
    assert sink.poll() is None
    writer.write([(1, ResourcesReleased()), (0, RunEnded(Status.INTERRUPTED, "SIGTERM"))])
    assert ended(sink) == ""
    _, run = the_run(uri)
    assert (run.info.status, run.data.tags["status"]) == ("KILLED", "interrupted")


def test_a_run_that_never_began_leaves_no_mlflow_run(run_dir: Path, tmp_path: Path, sinks: Sinks) -> None:
    track(run_dir, f"sqlite:///{tmp_path}/mlflow.db")
    assert ended(sinks(run_dir, parent_pid=0)) == ""
    assert not (tmp_path / "mlflow.db").exists()
    assert not (run_dir / "mlflow_run.json").exists()


def test_a_missing_or_wrong_tracking_file_is_one_line(run_dir: Path, sinks: Sinks) -> None:
    track(run_dir, "sqlite:///x.db", surprise=1)
    stderr = ended(sinks(run_dir), exit_code=1)
    assert "tracking.json" in stderr
    assert "surprise" in stderr
    assert stderr.count("\n") == 1


def test_a_server_that_hangs_at_first_and_a_sink_killed_midway(
    run_dir: Path, sinks: Sinks, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")  # soon, and still enough for a busy machine
    server.wait()
    server.tell(signal.SIGSTOP)
    track(run_dir, server.uri)
    writer = Writer(run_dir)
    events = list(story(400))
    writer.write(events[:100])
    sink = sinks(run_dir)
    until(lambda: "not written" in log_of(run_dir))
    assert check_tracking(server.uri, 0.2) is not None
    server.tell(signal.SIGCONT)
    until(lambda: cursor(run_dir) >= 99)
    assert check_tracking(server.uri, UNTIL_S) is None
    for start in range(100, 400, 20):
        writer.write(events[start : start + 20])
        time.sleep(0.02)
    until(lambda: cursor(run_dir) > 150)
    sink.kill()
    sink.communicate()
    first_id = json.loads((run_dir / "mlflow_run.json").read_text())["run_id"]
    writer.write([*events[400:], *END])
    assert ended(sinks(run_dir)) == ""
    assert_faithful(server.uri, run_dir, 400)
    client, run = the_run(server.uri)
    assert (run.info.run_id, run.info.status) == (first_id, "FINISHED")
    assert {item.path for item in client.list_artifacts(first_id)} == {
        "config.yaml",
        "incidents.json",
        "journal.jsonl",
        "logs",
    }
