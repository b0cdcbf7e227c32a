"""Whether an MLflow server that speaks HTTP is well and takes what it will be shown.

A server that is away may come back, so that it is a reason to try again. One that answers, and does not take
the user, will not take them by waiting: that is bad input, like a database's driver that is not installed.
"""

from __future__ import annotations

import http.client
import os
import queue
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

from orchestrator.errors import ConfigError
from orchestrator.ledger.mlflow.credentials import (
    PASSWORD,
    TOKEN,
    USER,
    Credentials,
    credentials_for,
)
from orchestrator.papers import short

# That a server is asked: whether it is well, and for an experiment.
QUESTIONS = 2
_SET = f"{USER} and {PASSWORD}, or {TOKEN}"
_UNAUTHORIZED, _FORBIDDEN = 401, 403


def check_server(uri: str, timeout_s: float, environment: Mapping[str, str] | None = None) -> str | None:
    """None when it is healthy and lists an experiment, else the reason; ``/health`` answers even to whom the
    API refuses. Raises :class:`ConfigError` where it does not take the credentials, or wants some.

    Each byte of an answer may take its time, so the time of all is what is waited for.
    """
    shown = credentials_for(uri, os.environ if environment is None else environment)
    patience_s = QUESTIONS * timeout_s
    try:
        return answer_within(patience_s, lambda: _ask(uri, timeout_s, shown))
    except TimeoutError:
        return f"MLflow at {without_credentials(uri)} does not end its answer within {patience_s:g} s"


def answer_within(timeout_s: float, ask: Callable[[], str | None]) -> str | None:
    """What it answers, or the :class:`ConfigError` that it raises. Raises ``TimeoutError`` where it takes
    longer, and leaves it to itself then."""
    answers: queue.SimpleQueue[str | ConfigError | None] = queue.SimpleQueue()

    def put() -> None:
        try:
            answers.put(ask())
        except ConfigError as error:
            answers.put(error)

    threading.Thread(target=put, daemon=True).start()
    try:
        answer = answers.get(timeout=timeout_s)
    except queue.Empty:
        raise TimeoutError from None
    if isinstance(answer, ConfigError):
        raise answer
    return answer


def without_credentials(uri: str) -> str:
    """The address of a server as people may see it."""
    parts = urlsplit(uri)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def reason_of(error: Exception) -> str:
    """Why a connection was not made."""
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return str(cause) or type(cause).__name__


def _ask(uri: str, timeout_s: float, credentials: Credentials) -> str | None:
    shown = without_credentials(uri)
    try:
        health = _get(uri, "/health", timeout_s, credentials)
        if health.strip() != "OK":
            return f"{shown} answers, but not as an MLflow server does (GET /health gave {health[:40]!r})"
        _get(uri, "/api/2.0/mlflow/experiments/search?max_results=1", timeout_s, credentials)
    except urllib.error.HTTPError as error:
        return _refused(shown, error, credentials)
    except (OSError, ValueError, http.client.HTTPException) as error:
        return f"MLflow at {shown} does not answer within {timeout_s:g} s: {reason_of(error)}"
    return None


def _get(uri: str, path: str, timeout_s: float, credentials: Credentials) -> str:
    request = urllib.request.Request(
        without_credentials(uri).rstrip("/") + path, headers=credentials.headers()
    )
    with urllib.request.urlopen(request, timeout=timeout_s, context=_tls(uri, credentials)) as answer:
        return str(answer.read(4096).decode(errors="replace"))


def _refused(shown: str, error: urllib.error.HTTPError, credentials: Credentials) -> str | None:
    with error:
        try:
            body = error.read(200).decode(errors="replace")
        except (OSError, ValueError, http.client.HTTPException):
            body = ""  # half an answer; its code says enough
    if error.code == _FORBIDDEN and "host header" in body.lower():
        host = urlsplit(shown).netloc
        return f"MLflow at {shown} refuses this host name; start it with --allowed-hosts {host}"
    if error.code not in (_UNAUTHORIZED, _FORBIDDEN):
        return f"MLflow at {shown} answers with HTTP {error.code} ({short(error.reason)})"
    if credentials.signed:
        return None  # it has not been shown what MLflow's client will show it
    if error.code == _UNAUTHORIZED and credentials.header:
        raise ConfigError(
            f"tracking.uri: MLflow at {shown} does not take the credentials of {credentials.source}"
            " (HTTP 401: the user, the password or the token is wrong); write there what it takes"
        )
    if error.code == _UNAUTHORIZED:
        raise ConfigError(f"tracking.uri: MLflow at {shown} wants credentials (HTTP 401); set {_SET}")
    who = f"whom {credentials.source} names" if credentials.header else "nobody without credentials"
    return f"MLflow at {shown} does not let {who} read its experiments (HTTP 403); ask whoever keeps it"


def _tls(uri: str, credentials: Credentials) -> ssl.SSLContext | None:
    if not uri.startswith("https"):
        return None
    if os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("1", "true"):
        context = ssl._create_unverified_context()
    else:
        context = ssl.create_default_context(cafile=os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH"))
    if credentials.certificate:
        context.load_cert_chain(credentials.certificate)
    return context
