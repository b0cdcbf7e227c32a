"""A real MLflow server on loopback."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from orchestrator.ledger.mlflow.uri import prepare_sqlite
from tests.support.ports import free_port

START_S = 120.0


def make_database(path: Path) -> Path:
    """An MLflow database with tables and no rows."""
    from mlflow.tracking import MlflowClient

    before = os.environ.get("_MLFLOW_SERVER_ARTIFACT_ROOT")
    try:
        prepare_sqlite(f"sqlite:///{path}")
        MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    finally:  # what it has set is nothing for the processes of the tests
        os.environ.pop("_MLFLOW_SERVER_ARTIFACT_ROOT", None)
        if before is not None:
            os.environ["_MLFLOW_SERVER_ARTIFACT_ROOT"] = before
    return path


class Server:
    """In a session of its own, on a copy of a database that has its tables already. It takes many seconds to
    start."""

    def __init__(self, folder: Path, database: Path) -> None:
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        shutil.copy(database, folder / "server.db")

    def start(self) -> None:
        """Start it; one that runs goes on."""
        if self._process is not None:
            return
        command = [
            sys.executable,
            "-m",
            "mlflow",
            "server",
            "--host=127.0.0.1",
            f"--port={self.port}",
            "--workers=1",
        ]
        command += [f"--backend-store-uri=sqlite:///{self._folder}/server.db"]
        command += [f"--artifacts-destination={self._folder / 'artifacts'}"]
        quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        self._process = subprocess.Popen(
            command, cwd=self._folder, env=os.environ | quiet, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def wait(self) -> None:
        """Until it answers."""
        deadline_s = time.monotonic() + START_S
        while not self.answers():
            assert time.monotonic() < deadline_s, "the MLflow server did not start"
            time.sleep(0.1)

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=2) as answer:
                return bool(answer.read() == b"OK")
        except OSError:
            return False

    def tell(self, number: signal.Signals) -> None:
        """To the server and its workers."""
        assert self._process is not None
        os.killpg(self._process.pid, number)
        if number is signal.SIGKILL:
            self._process.wait()
            self._process = None

    def close(self) -> None:
        if self._process is not None:
            self.tell(signal.SIGKILL)
