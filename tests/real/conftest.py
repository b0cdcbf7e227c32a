"""A cluster that stays, for runs where the start and the end of Ray are not what is tested; and a folder and a
home in which runs are started as a user types them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.runs import User
from tests.support.sink_harness import run_dir as run_dir
from tests.support.sink_harness import sinks as sinks
from tests.support.typed_runs import CPU as CPU
from tests.support.typed_runs import TIMEOUT_S, Done, Launch


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a user who keeps one: an empty home, and runs that attach to it by themselves."""
    with User(tmp_path_factory.mktemp("kept")).keeping(*CPU, "launch.dashboard=false") as one:
        yield one.environment


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Path:
    folder = tmp_path_factory.mktemp("user")
    (folder / "runs").mkdir()
    shutil.copy(empty_database, folder / "runs" / "mlflow.db")
    return folder


@pytest.fixture(scope="module")
def environment(folder: Path) -> dict[str, str]:
    """An empty home directory; nothing of the test's own."""
    home = folder / "home"
    home.mkdir()
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "RAY_", "MLFLOW"))
    }
    return {**kept, "HOME": str(home), "COLUMNS": "110"}


@pytest.fixture(scope="module")
def launch(folder: Path, environment: dict[str, str]) -> Iterator[Launch]:
    """Runs the command line; ``meanwhile(process, journal)`` may do harm while it runs."""
    started: list[subprocess.Popen[str]] = []

    def run(
        name: str,
        *overrides: str,
        meanwhile: Callable[[int, Path], None] | None = None,
        env: dict[str, str] = environment,
    ) -> Done:
        process = subprocess.Popen(
            [sys.executable, "-m", "orchestrator", f"run_name={name}", *overrides],
            cwd=folder,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        if meanwhile:
            meanwhile(process.pid, folder / "runs" / name / "journal.jsonl")
        text, _ = process.communicate(timeout=TIMEOUT_S)
        return Done(name, process.returncode, text, folder)

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
            process.communicate()
