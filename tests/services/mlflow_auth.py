"""An MLflow server that asks for a user and a password, on SQLite or in PostgreSQL."""

from __future__ import annotations

import base64
import json
import os
import secrets
import signal
import sys
import urllib.request
from pathlib import Path

from tests.services.needs import module
from tests.services.processes import Service
from tests.support.ports import free_port

ADMIN, USER = "root-of-mlflow", "ada"
# What an address cannot hold as it is, and a password may.
PASSWORD = "not-to/be@shown:9"
_ADMIN_PASSWORD = "of-the-admin-alone"
CONFIGURATION = """\
[mlflow]
default_permission = READ
database_uri = sqlite:///{folder}/users.db
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
auth_cache_ttl_seconds = 60
"""


class AuthServer:
    """With a user of its own, who is no administrator: they may make experiments, and write to those."""

    def __init__(self, folder: Path, store: str) -> None:
        module("flask_wtf")
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.folder, self._store = folder, store
        self._service: Service | None = None
        (folder / "auth.ini").write_text(CONFIGURATION.format(folder=folder))

    @property
    def uri(self) -> str:
        """Its address with the user and the password in it."""
        return f"http://{USER}:not-to%2Fbe%40shown%3A9@127.0.0.1:{self.port}"

    @property
    def variables(self) -> dict[str, str]:
        """The same in the environment."""
        return {"MLFLOW_TRACKING_USERNAME": USER, "MLFLOW_TRACKING_PASSWORD": PASSWORD}

    def start(self) -> None:
        """And wait until it answers."""
        words = [sys.executable, "-m", "mlflow", "server", "--app-name=basic-auth", "--host=127.0.0.1"]
        words += [f"--port={self.port}", "--workers=1", f"--backend-store-uri={self._store}"]
        words += [f"--artifacts-destination={self.folder / 'artifacts'}"]
        own = {
            "MLFLOW_AUTH_CONFIG_PATH": str(self.folder / "auth.ini"),
            "MLFLOW_AUTH_ADMIN_USERNAME": ADMIN,
            "MLFLOW_AUTH_ADMIN_PASSWORD": _ADMIN_PASSWORD,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(16),
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }
        self._service = Service(words, self.folder, os.environ | own)
        self._service.until(self._answers)

    def add_user(self) -> None:
        """Once in the server's life."""
        self._ask_as_admin("users/create", {"username": USER, "password": PASSWORD})

    def add_closed_experiment(self, name: str) -> None:
        """One that the user may read only."""
        self._ask_as_admin("experiments/create", {"name": name})

    def kill(self) -> None:
        """At once, as a machine that fails ends it."""
        assert self._service is not None
        os.killpg(self._service.process.pid, signal.SIGKILL)
        self._service.process.wait()

    def close(self) -> None:
        if self._service is not None:
            self._service.close()

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=2) as answer:
                return bool(answer.read() == b"OK")
        except OSError:
            return False

    def _ask_as_admin(self, what: str, body: dict[str, str]) -> None:
        shown = base64.b64encode(f"{ADMIN}:{_ADMIN_PASSWORD}".encode()).decode()
        headers = {"Authorization": f"Basic {shown}", "Content-Type": "application/json"}
        url = f"{self.url}/api/2.0/mlflow/{what}"
        request = urllib.request.Request(url, json.dumps(body).encode(), headers)
        urllib.request.urlopen(request, timeout=30).close()
