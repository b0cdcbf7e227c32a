from __future__ import annotations

import base64
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import pytest

from orchestrator.errors import ConfigError
from orchestrator.ledger.mlflow.uri import absolute_uri, check_tracking, prepare_sqlite, sqlite_path


class FakeServer(ThreadingHTTPServer):
    """Answers as told: path → (status, body); remembers the Authorization header."""

    answers: dict[str, tuple[int, str]]
    authorization: str | None = None


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, FakeServer)
        self.server.authorization = self.headers["Authorization"]
        status, body = self.server.answers.get(self.path.partition("?")[0], (404, "no"))
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *arguments: object) -> None:
        pass


HEALTHY = {"/health": (200, "OK"), "/api/2.0/mlflow/experiments/search": (200, "{}")}


@contextmanager
def serving() -> Iterator[FakeServer]:
    instance = FakeServer(("127.0.0.1", 0), Handler)
    instance.answers = dict(HEALTHY)
    thread = threading.Thread(target=instance.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield instance
    finally:
        instance.shutdown()
        thread.join()
        instance.server_close()


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with serving() as one:
        yield one


def uri_of(server: FakeServer, credentials: str = "") -> str:
    return f"http://{credentials}127.0.0.1:{server.server_port}"


def test_a_healthy_server_is_usable(server: FakeServer) -> None:
    assert check_tracking(uri_of(server), 2) is None
    assert check_tracking(uri_of(server) + "/", 2) is None


def test_credentials_are_sent_and_never_shown(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_tracking(uri_of(server, "ada:secret@"), 2) is None
    assert server.authorization == "Basic " + base64.b64encode(b"ada:secret").decode()
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "tok")
    assert check_tracking(uri_of(server), 2) is None
    assert server.authorization == "Bearer tok"
    server.answers["/health"] = (500, "")
    reason = check_tracking(uri_of(server, "ada:secret@"), 2)
    assert reason is not None
    assert "secret" not in reason


@pytest.mark.parametrize(
    ("path", "answer", "reason"),
    [
        ("/health", (200, "<html>"), "not as an MLflow server"),
        ("/health", (503, ""), "HTTP 503"),
        ("/api/2.0/mlflow/experiments/search", (403, ""), "ask whoever keeps it"),
        ("/api/2.0/mlflow/experiments/search", (403, "Invalid Host header - x"), "--allowed-hosts"),
    ],
)
def test_what_is_wrong_with_a_server_is_said(
    server: FakeServer, path: str, answer: tuple[int, str], reason: str
) -> None:
    server.answers[path] = answer
    said = check_tracking(uri_of(server), 2)
    assert said is not None
    assert reason in said
    assert "\n" not in said


def test_a_closed_port_and_a_silent_server_are_found_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pymysql", ModuleType("pymysql"))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        began_s = time.monotonic()
        reason = check_tracking(f"http://127.0.0.1:{port}", 0.3)
        assert time.monotonic() - began_s < 10
        assert reason == f"MLflow at http://127.0.0.1:{port} does not answer within 0.3 s: timed out"
    reason = check_tracking(f"http://127.0.0.1:{port}", 0.3)
    assert reason is not None
    assert reason.endswith("Connection refused")
    reason = check_tracking(f"mysql+pymysql://u:secret@127.0.0.1:{port}/db", 0.3)
    assert reason is not None
    assert "secret" not in reason


def test_sqlite_needs_a_writable_place(tmp_path: Path) -> None:
    assert check_tracking(f"sqlite:///{tmp_path}/new/deeper/mlflow.db", 1) is None
    assert not (tmp_path / "new").exists(), "a check changes nothing"
    (tmp_path / "file").write_text("")
    for name, reason in (("file/mlflow.db", "not a writable directory"), ("", "not a writable file")):
        said = check_tracking(f"sqlite:///{tmp_path}/{name}", 1)
        assert said is not None
        assert reason in said
    for uri in ("sqlite://", "sqlite:///:memory:"):
        with pytest.raises(ConfigError, match="names no file"):
            check_tracking(uri, 1)


@pytest.mark.parametrize("uri", ["file:///tmp/mlruns", "./mlruns", "mlruns", "", "/abs/mlruns"])
def test_the_file_store_is_refused_with_a_remedy(uri: str) -> None:
    with pytest.raises(ConfigError, match=r"file store.*sqlite:////"):
        check_tracking(uri, 1)


def test_unknown_schemes_are_refused_and_databricks_is_trusted() -> None:
    with pytest.raises(ConfigError, match="unknown scheme 'ftp'"):
        check_tracking("ftp://x", 1)
    assert check_tracking("databricks", 1) is None
    assert check_tracking("databricks://profile", 1) is None


@pytest.mark.parametrize(
    ("uri", "module", "remedy"),
    [
        ("postgresql://ada:secret@h/db", "psycopg", "pip install 'psycopg[binary]', or name another driver"),
        ("postgresql+psycopg2://ada:secret@h/db", "psycopg2", "pip install 'psycopg2-binary'"),
        ("mysql://ada:secret@h/db", "MySQLdb", "pip install 'mysqlclient'"),
        ("mysql+pymysql://ada:secret@h/db", "pymysql", "pip install 'pymysql'"),
    ],
)
def test_a_database_whose_driver_is_missing_is_bad_input(
    uri: str, module: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError) as raised:
        check_tracking(uri, 1)
    said = str(raised.value)
    assert said.startswith(
        f"tracking.uri {uri.partition(':')[0]}://…: the database's driver {module} is not installed; "
    )
    assert remedy in said
    assert "secret" not in said
    assert "\n" not in said


@pytest.mark.parametrize("uri", ["postgresql+nosuch://h/db", "mysql://h:port/db"])
def test_what_is_no_address_of_a_database_is_bad_input(uri: str) -> None:
    with pytest.raises(ConfigError, match="is not a database's address"):
        check_tracking(uri, 1)


def test_sqlite_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sqlite_path("sqlite:////a/b%20c.db?timeout=5") == Path("/a/b c.db")
    assert sqlite_path("sqlite:///relative.db") == Path("relative.db")
    assert sqlite_path("http://x") is None
    monkeypatch.setenv("_MLFLOW_SERVER_ARTIFACT_ROOT", "")
    assert prepare_sqlite(f"sqlite:///{tmp_path}/a/b/m.db") == str(tmp_path / "a/b/mlartifacts")
    assert (tmp_path / "a/b/mlartifacts").stat().st_mode & 0o777 == 0o700, (
        "copies of what a run's directory hides"
    )
    (tmp_path / "a/b/mlartifacts").chmod(0o755)
    prepare_sqlite(f"sqlite:///{tmp_path}/a/b/m.db")
    assert (tmp_path / "a/b/mlartifacts").stat().st_mode & 0o777 == 0o755, "its owner has shared it"
    assert prepare_sqlite("http://x") is None


def test_the_check_does_not_import_mlflow() -> None:
    code = "import sys, orchestrator.ledger.mlflow.uri; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_uri_means_the_same_place_from_every_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for uri in ("http://x:5000/a", "sqlite:////a/b.db?timeout=5", "sqlite://", "postgresql://h/d"):
        assert absolute_uri(uri) == uri
    absolute = absolute_uri("sqlite:///runs/mlflow.db?timeout=5")
    assert absolute == f"sqlite:///{tmp_path}/runs/mlflow.db?timeout=5"
    assert sqlite_path(absolute) == tmp_path / "runs" / "mlflow.db"
