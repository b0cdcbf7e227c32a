"""What MLflow's client shows to a server, found as that finds it, so that a check before a run is refused or
taken as the run's records will be. Nothing here imports MLflow, which takes seconds."""

from __future__ import annotations

import base64
import configparser
import contextlib
import netrc
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

USER, PASSWORD, TOKEN = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"
AWS_SIGV4, PLUGIN = "MLFLOW_TRACKING_AWS_SIGV4", "MLFLOW_TRACKING_AUTH"
CLIENT_CERTIFICATE = "MLFLOW_TRACKING_CLIENT_CERT_PATH"
# Of MLflow's own client, below the home directory.
FILE = Path(".mlflow", "credentials")
_TRUE = ("1", "true")


@dataclass(frozen=True)
class Credentials:
    """The ``Authorization`` header and, for people, where it is from; the file of a ``certificate`` that is
    shown too. With ``signed`` a plugin makes one for each question, which nobody but MLflow's client can ask
    then."""

    header: str | None = None
    source: str = ""
    signed: bool = False
    certificate: str | None = None

    def headers(self) -> dict[str, str]:
        return {"Authorization": self.header} if self.header else {}


def credentials_for(uri: str, environment: Mapping[str, str]) -> Credentials:
    """In the order in which MLflow's client and the library below it take them: what a plugin makes, netrc,
    the address itself, a user with a password, a token."""
    header, source = _header(uri, environment)
    signed = source in (AWS_SIGV4, PLUGIN)
    return Credentials(header, source, signed, environment.get(CLIENT_CERTIFICATE))


def _header(uri: str, environment: Mapping[str, str]) -> tuple[str | None, str]:
    if environment.get(AWS_SIGV4, "").lower() in _TRUE:
        return None, AWS_SIGV4
    if environment.get(PLUGIN):
        return None, PLUGIN
    parts = urlsplit(uri)
    if (known := _of_netrc(parts.hostname or "", environment)) is not None:
        return _basic(*known[0]), known[1]
    if parts.username or parts.password:
        user, password = unquote(parts.username or ""), unquote(parts.password or "")
        return _basic(user, password), "tracking.uri"
    of_file = _of_file(environment)
    user, password = (environment.get(name) or of_file.get(name.lower(), "") for name in (USER, PASSWORD))
    if user and password:
        of_shell = environment.get(USER) and environment.get(PASSWORD)
        return _basic(user, password), f"{USER} and {PASSWORD}" if of_shell else f"~/{FILE}"
    if token := environment.get(TOKEN):
        return f"Bearer {token}", TOKEN
    return None, ""


def has_file(environment: Mapping[str, str]) -> bool:
    """Whether MLflow's client would show a user and a password of its file to any server."""
    of_file = _of_file(environment)
    return bool(of_file.get(USER.lower()) and of_file.get(PASSWORD.lower()))


def _basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def _home(environment: Mapping[str, str]) -> Path:
    return Path(environment.get("HOME") or os.path.expanduser("~"))


def _of_file(environment: Mapping[str, str]) -> Mapping[str, str]:
    config = configparser.ConfigParser()
    with contextlib.suppress(OSError, ValueError, configparser.Error):
        config.read(_home(environment) / FILE)
        if config.has_section("mlflow"):
            return dict(config["mlflow"])
    return {}


def _of_netrc(host: str, environment: Mapping[str, str]) -> tuple[tuple[str, str], str] | None:
    """The user and the password that are kept for a host, and in which file."""
    named = environment.get("NETRC")
    places = [Path(named)] if named else [_home(environment) / name for name in (".netrc", "_netrc")]
    path = next(filter(os.path.exists, places), None)
    if path is None:
        return None
    try:
        found = netrc.netrc(str(path)).authenticators(host)
    except (OSError, ValueError, netrc.NetrcParseError):
        return None
    if not found or not any(found):
        return None
    user, account, password = found
    return (user or account or "", password or ""), str(path)
