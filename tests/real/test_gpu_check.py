"""The GPU's check runs on processor cores, so that it works before a GPU is paid for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.folders import PROJECT


@pytest.mark.real
def test_the_cheap_steps_run_on_processor_cores(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "benchmarks.gpu_check",
        "--device=cpu",
        f"--json={tmp_path / 'check.json'}",
    ]
    done = subprocess.run(
        [*command, "--only", "machine", "fork", "collectives", "meters"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    steps = {step["step"]: step for step in json.loads((tmp_path / "check.json").read_text())["steps"]}
    statuses = {name: step["status"] for name, step in steps.items()}
    assert statuses == {"machine": "passed", "fork": "passed", "collectives": "passed", "meters": "skipped"}
    figures = {figure["name"]: figure for figure in steps["fork"]["figures"]}
    assert (
        figures["fork until the device is used"]["value"] < figures["exec until the device is used"]["value"]
    )
    assert "the meters are a GPU's" in done.stdout
