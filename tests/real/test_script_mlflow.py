"""A script's own calls of MLflow, on two ranks of which one is killed: one run has all, each step once."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from orchestrator.events import AttemptStarted, ScriptTracked
from orchestrator.ledger.journal import replay
from tests.real.conftest import CPU
from tests.support.folders import SCRIPTS

pytestmark = pytest.mark.real
STEPS = 12  # of the script
TIMEOUT_S = 300


def test_it_arrives_in_the_run_once(kept: dict[str, str], tmp_path: Path, empty_database: Path) -> None:
    (tmp_path / "runs").mkdir()
    database = tmp_path / "runs" / "mlflow.db"
    shutil.copy(empty_database, database)
    words = [
        "run_name=logged", *CPU, f"tracking.uri=sqlite:///{database}", "job=script",
        f"job.script={SCRIPTS / 'logs_to_mlflow.py'}", '+job.args.out="{checkpoint_dir}"',
    ]  # fmt: skip
    shell = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW")}
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator", *words],
        cwd=tmp_path,
        env={**shell, **kept},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    events = [record.event for record in replay(tmp_path / "runs" / "logged" / "journal.jsonl")]
    assert len([event for event in events if isinstance(event, AttemptStarted)]) == 2
    assert {event.rank for event in events if isinstance(event, ScriptTracked)} == {0}

    client = MlflowClient(tracking_uri=f"sqlite:///{database}")
    everywhere = [each.experiment_id for each in client.search_experiments()]
    (run,) = client.search_runs(everywhere)
    assert (run.info.run_name, run.info.status) == ("logged", "FINISHED")
    assert client.get_experiment(run.info.experiment_id).name == "orchestrator"
    points = client.get_metric_history(run.info.run_id, "mine")
    assert sorted(point.step for point in points) == list(range(1, STEPS + 1))
    assert [point.value for point in client.get_metric_history(run.info.run_id, "exam/score")] == [0.5]
    assert (run.data.params["mine_lr"], run.data.params["begun"]) == ("0.01", "0")
    assert run.data.tags["param.begun"] == "4", "what the second attempt says differently"
    notes = client.list_artifacts(run.info.run_id, "notes")
    assert [note.path for note in notes] == ["notes/from-4.txt"]
    recorded = json.loads((tmp_path / "runs" / "logged" / "tracking.json").read_text())
    assert run.data.tags["script_run_id"] == recorded["tags"]["script_run_id"]
    left = {path.name for path in tmp_path.iterdir()}
    assert not left & {"mlflow.db", "mlruns", "mlartifacts"}, "nothing of MLflow's own beside the script"
