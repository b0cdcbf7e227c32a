"""A cluster that stays, for runs where the start and the end of Ray are not what is tested."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

# Whatever this machine has, two processor cores train.
CPU = ["gpu=cpu", "cluster.gpus_per_node=2", "cluster.cpu_threads_per_rank=1"]
UP_TIMEOUT_S = 180


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a user who keeps one: an empty home, and runs that attach to it by themselves."""
    folder = tmp_path_factory.mktemp("kept")
    own = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "RAY_", "MLFLOW"))}
    own |= {"HOME": str(folder), "XDG_STATE_HOME": str(folder / "state"), "COLUMNS": "140"}

    def orchestrator(*words: str) -> None:
        command = [sys.executable, "-m", "orchestrator", *words]
        done = subprocess.run(
            command, cwd=folder, env=own, capture_output=True, text=True, timeout=UP_TIMEOUT_S, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    try:
        orchestrator("up", *CPU, "launch.dashboard=false")
        yield own
    finally:
        orchestrator("down", "--force")
