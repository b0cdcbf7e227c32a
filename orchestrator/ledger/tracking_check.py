"""Is a tracking URI usable? Answered in ``timeout_s`` and without importing MLflow, which takes seconds."""

from __future__ import annotations

import base64
import http.client
import os
import socket
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import unquote, urlsplit

REMEDY = "use sqlite:////absolute/path/mlflow.db or the http address of an MLflow server"


def check_tracking(uri: str, timeout_s: float) -> str | None:
    """None when runs can be recorded at ``uri``, else one line with the reason and the remedy.

    An http address must be healthy and list an experiment (``/health`` answers even to whom the API
    refuses); a SQLite file must be writable; any other database must accept a TCP connection.
    MLflow's file store is refused.
    """
    scheme = urlsplit(uri).scheme.split("+")[0]
    if scheme in ("http", "https"):
        return _check_server(uri, timeout_s)
    if scheme == "sqlite":
        return _check_sqlite(uri)
    if scheme in ("postgresql", "mysql", "mssql"):
        return _check_database(uri, timeout_s)
    if scheme == "databricks" or uri == "databricks":
        return None
    if scheme in ("", "file"):
        return f"tracking.uri {uri!r} is MLflow's file store, which is not supported; {REMEDY}"
    return f"tracking.uri {uri!r} has the unknown scheme {scheme!r}; {REMEDY}"


def sqlite_path(uri: str) -> Path | None:
    """The database file of a SQLite URI; None for other URIs and for a database in memory."""
    prefix, separator, rest = uri.partition(":///")
    if not separator or prefix.split("+")[0] != "sqlite":
        return None
    name = unquote(rest.partition("?")[0])
    return Path(name) if name and name != ":memory:" else None


def absolute_uri(uri: str) -> str:
    """The same place from every directory: a SQLite file's path is made absolute, other URIs are left alone."""
    path = sqlite_path(uri)
    if path is None or path.is_absolute():
        return uri
    prefix, _, rest = uri.partition(":///")
    return f"{prefix}:///{Path.cwd()}/{rest}"


def prepare_sqlite(uri: str) -> str | None:
    """Make the database's directory, and keep artifacts beside the database; returns their place.

    MLflow would put them into ``./mlruns`` of whatever directory the process happens to be in. None
    for anything but a SQLite file. Raises ``OSError`` when the directory can not be made.
    """
    path = sqlite_path(uri)
    if path is None:
        return None
    directory = path.absolute().parent
    directory.mkdir(parents=True, exist_ok=True)
    artifacts = str(directory / "mlartifacts")
    # The root of experiments that MLflow makes itself ("Default"); there is no public way to say it.
    os.environ["_MLFLOW_SERVER_ARTIFACT_ROOT"] = artifacts
    return artifacts


def _check_sqlite(uri: str) -> str | None:
    path = sqlite_path(uri)
    if path is None:
        return f"tracking.uri {uri!r} names no file; {REMEDY}"
    if path.exists() and not (path.is_file() and os.access(path, os.R_OK | os.W_OK)):
        return f"tracking database {path} is not a writable file"
    parent = path.absolute().parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        return f"tracking database {path} can not be made: {parent} is not a writable directory"
    return None


def _check_database(uri: str, timeout_s: float) -> str | None:
    parts = urlsplit(uri)
    default = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}[parts.scheme.split("+")[0]]
    host, port = parts.hostname or "localhost", parts.port or default
    try:
        socket.create_connection((host, port), timeout_s).close()
    except OSError as error:
        return f"tracking database at {host}:{port} does not answer: {_reason(error)}"
    return None


def _check_server(uri: str, timeout_s: float) -> str | None:
    shown = _without_credentials(uri)
    try:
        health = _get(uri, "/health", timeout_s)
        if health.strip() != "OK":
            return f"{shown} answers, but not as an MLflow server does (GET /health gave {health[:40]!r})"
        _get(uri, "/api/2.0/mlflow/experiments/search?max_results=1", timeout_s)
    except urllib.error.HTTPError as error:
        return _refused(shown, error)
    except (OSError, ValueError, http.client.HTTPException) as error:
        return f"MLflow at {shown} does not answer within {timeout_s:g} s: {_reason(error)}"
    return None


def _get(uri: str, path: str, timeout_s: float) -> str:
    request = urllib.request.Request(_without_credentials(uri).rstrip("/") + path, headers=_authorization(uri))
    with urllib.request.urlopen(request, timeout=timeout_s, context=_tls(uri)) as answer:
        return str(answer.read(4096).decode(errors="replace"))


def _refused(shown: str, error: urllib.error.HTTPError) -> str:
    with error:
        body = error.read(200).decode(errors="replace")
    if error.code == 403 and "host header" in body.lower():
        host = urlsplit(shown).netloc
        return f"MLflow at {shown} refuses this host name; start it with --allowed-hosts {host}"
    if error.code in (401, 403):
        return (
            f"MLflow at {shown} wants credentials (HTTP {error.code}); "
            "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        )
    return f"MLflow at {shown} answers with HTTP {error.code} ({error.reason})"


def _authorization(uri: str) -> dict[str, str]:
    parts = urlsplit(uri)
    user = parts.username or os.environ.get("MLFLOW_TRACKING_USERNAME")
    password = parts.password or os.environ.get("MLFLOW_TRACKING_PASSWORD") or ""
    if user:
        return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}
    if token := os.environ.get("MLFLOW_TRACKING_TOKEN"):
        return {"Authorization": f"Bearer {token}"}
    return {}


def _tls(uri: str) -> ssl.SSLContext | None:
    if not uri.startswith("https"):
        return None
    if os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("1", "true"):
        return ssl._create_unverified_context()
    return ssl.create_default_context(cafile=os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH"))


def _without_credentials(uri: str) -> str:
    parts = urlsplit(uri)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _reason(error: Exception) -> str:
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return str(cause) or type(cause).__name__
