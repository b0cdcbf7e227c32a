"""Two short runs calibrate the planner, and a third is what it then says; real Ray, real ranks."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.events import MemoryPeaked, RunStarted
from orchestrator.ledger.journal import replay
from orchestrator.ledger.predicted_actual import PredictedVsActual
from orchestrator.planner.calibration_file import read_calibrations
from tests.real.conftest import CPU

pytestmark = pytest.mark.real

QUIET = [f"job.args.{name}=0" for name in ("val_every", "checkpoint_every", "sample_tokens")]
SHORT = [*CPU, *QUIET, "job.steps=10", "launch.dashboard=false"]
TIMEOUT_S = 150
# Of short runs on a machine that may have other things to do; benchmarks measure how near it comes.
TIMES = 2.5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("user")


Orchestrator = Callable[..., str]


@pytest.fixture(scope="module")
def orchestrator(folder: Path, kept: dict[str, str]) -> Orchestrator:
    def run(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "orchestrator", *words],
            cwd=folder,
            env=kept,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def measured(folder: Path, name: str) -> PredictedVsActual:
    return PredictedVsActual().fold_all(replay(folder / "runs" / name / "journal.jsonl"))


def test_two_runs_predict_a_third(orchestrator: Orchestrator, folder: Path) -> None:
    small = orchestrator(*SHORT, "run_name=small", "job.micro_batch=1")
    assert "step time" in small
    assert "memory per CPU core" in small
    orchestrator(*SHORT, "run_name=large", "job.micro_batch=6")
    told = orchestrator("calibrate")
    assert "1 calibration from 2 runs written to runs/calibration.yaml" in " ".join(told.split())
    (calibration,) = read_calibrations(folder / "runs" / "calibration.yaml").values()
    assert calibration.runs == 2

    third = [*SHORT, "run_name=third", "job.micro_batch=3"]
    plan = json.loads(orchestrator("plan", "--json", *third))
    assert plan["prediction"]["basis"].startswith("calibrated on 2 runs of local with CPU core in fp32")
    shown = orchestrator(*third)
    assert "predicted" in shown
    found = measured(folder, "third")
    assert isinstance(found.facts, RunStarted)
    predicted_s, predicted_bytes = found.facts.predicted_step_time_s, found.facts.predicted_memory_bytes
    assert predicted_s == pytest.approx(plan["prediction"]["step_time_s"])
    assert predicted_s is not None
    assert predicted_bytes is not None
    assert found.step_time_s is not None
    assert found.peak_memory_bytes is not None
    assert 1 / TIMES < found.step_time_s / predicted_s < TIMES
    assert 1 / TIMES < found.peak_memory_bytes / predicted_bytes < TIMES


def test_ranks_tell_their_memory_and_more_of_it_for_a_larger_batch(folder: Path) -> None:
    for name in ("small", "large"):
        events = [record.event for record in replay(folder / "runs" / name / "journal.jsonl")]
        assert [event.step for event in events if isinstance(event, MemoryPeaked)] == [1, 2, 4, 8]
    small, large = (measured(folder, name).peak_memory_bytes for name in ("small", "large"))
    assert small is not None
    assert large is not None
    assert 30e6 < small < large < 2e9
