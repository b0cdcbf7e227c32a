"""The example of docs/writing_a_job.md: under torchrun until it is told to stop, and on from there under
us."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator.events import CheckpointLoaded, MetricLogged, StepDone
from orchestrator.ledger.journal import replay
from tests.real.conftest import CPU
from tests.support.folders import PROJECT
from tests.support.ports import free_port
from tests.support.processes import end

pytestmark = pytest.mark.real

EXAMPLES = PROJECT / "docs" / "examples"
PAGE = EXAMPLES.parent / "writing_a_job.md"
TIMEOUT_S = 120


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(EXAMPLES, tmp_path_factory.mktemp("user") / "project"))


@pytest.fixture(scope="module")
def environment(folder: Path) -> dict[str, str]:
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "RAY_", "MLFLOW"))
    }
    settings = {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": "", "COLUMNS": "110"}
    return {**kept, **settings, "HOME": str(folder)}


def told(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """The example's own lines; DeepSpeed logs between them."""
    return (json.loads(line) for line in lines if line.startswith("{"))


@pytest.fixture(scope="module")
def stopped_at(folder: Path, environment: dict[str, str]) -> int:
    """The step that the example saved when torchrun passed SIGTERM on to its ranks."""
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={free_port()}"]
    flags = [
        "--deepspeed_config=deepspeed.json",
        "--checkpoint_dir=checkpoints",
        "--steps=1000000",
        "--save_every=500",
    ]
    command = [sys.executable, *launcher, "train.py", *flags]
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            first = next(told(process.stdout))
            assert first["step"] == 500
            assert first["val_loss"] < 0.1
            time.sleep(0.5)  # some steps, so that it is not the step it saved already
            process.send_signal(signal.SIGTERM)
            *_, last = [first, *told(process.communicate(timeout=TIMEOUT_S)[0].splitlines())]
        finally:
            if process.poll() is None:  # or its number may be somebody else's
                launcher = psutil.Process(process.pid)
                end(*launcher.children(recursive=True), launcher)
    return int(last["step"])


def test_told_to_stop_it_saves_where_it_is(stopped_at: int, folder: Path) -> None:
    assert stopped_at > 500
    tag = (folder / "checkpoints" / "latest").read_text()
    assert tag == f"step-{stopped_at}"
    shards = [path.name for path in (folder / "checkpoints" / tag).glob("zero_pp_rank_*")]
    assert len(shards) == 2, "both ranks saved the same step"


def test_unchanged_it_goes_on_under_the_orchestrator(
    stopped_at: int, folder: Path, kept: dict[str, str]
) -> None:
    steps = stopped_at + 20
    earlier = str(folder / "checkpoints")  # of torchrun: no manifest names its files
    chosen = ["--config-dir", "conf", "job=sine", f"job.steps={steps}", f"job.checkpoint_dir={earlier}"]
    chosen += [f"snapshot.trusted=[{earlier}]"]
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator", *chosen, *CPU, "run_name=on", "launch.dashboard=false"],
        cwd=folder,
        env=kept,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    events = [record.event for record in replay(folder / "runs" / "on" / "journal.jsonl")]
    assert [event.step for event in events if isinstance(event, CheckpointLoaded)] == [stopped_at]
    assert [e.step for e in events if isinstance(e, StepDone)] == list(range(stopped_at + 1, steps + 1))
    told = [event for event in events if isinstance(event, MetricLogged) and event.step == steps]
    assert told[0].metrics["val_loss"] < 0.01


def test_the_page_shows_the_example_as_it_is() -> None:
    blocks = re.findall(r"^```(python|yaml)\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    script, config = ((EXAMPLES / name).read_text() for name in ("train.py", "conf/job/sine.yaml"))
    shown = [text for language, text in blocks if language == "python"]
    assert len(shown) == 3
    assert all(text in script for text in shown)
    assert [text for language, text in blocks if language == "yaml"] == [config]
