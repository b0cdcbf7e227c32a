"""Where a person finds what MLflow has of a run, and what is typed for it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from orchestrator.driver import tracking


def test_the_page_of_what_lies_in_a_file_says_what_has_to_be_started(tmp_path: Path) -> None:
    assert tracking.runs_page("sqlite:///mlflow.db", tmp_path) is None, "MLflow was told nothing"
    (tmp_path / "mlflow_run.json").write_text(json.dumps({"experiment_id": "7"}))
    of_file = tracking.runs_page("sqlite:///mlflow.db", tmp_path) or ""
    assert of_file.startswith("http://127.0.0.1:5000/#/experiments/7/")
    assert of_file.endswith(" (once 'mlflow ui' is started)")
    of_server = tracking.runs_page("http://ada:secret@lab:5001/mlflow/", tmp_path) or ""
    assert of_server.startswith("http://lab:5001/mlflow/#/experiments/7/")
    assert " " not in of_server


def test_a_program_is_called_by_a_path_that_does_not_climb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "venv" / "bin" / "python"))
    monkeypatch.chdir(tmp_path)
    assert tracking.command("mlflow") == "venv/bin/mlflow"
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    assert tracking.command("mlflow") == str(tmp_path / "venv" / "bin" / "mlflow")
