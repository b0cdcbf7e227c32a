"""What a server is shown is what MLflow's client will show it, and what it does not take is bad input."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.errors import ConfigError
from orchestrator.ledger.mlflow.credentials import credentials_for
from orchestrator.ledger.mlflow.uri import check_tracking
from tests.unit.ledger.test_tracking_check import FakeServer, serving, uri_of

LIST = "/api/2.0/mlflow/experiments/search"
SHELL = {"MLFLOW_TRACKING_USERNAME": "ada", "MLFLOW_TRACKING_PASSWORD": "of-the-shell"}


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with serving() as one:
        yield one


@pytest.mark.parametrize(
    ("uri", "environment", "files", "header", "source"),
    [
        ("http://lab", {}, {}, None, ""),
        ("http://lab", SHELL, {}, basic("ada", "of-the-shell"), "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"),
        ("http://lab", {"MLFLOW_TRACKING_TOKEN": "t"}, {}, "Bearer t", "MLFLOW_TRACKING_TOKEN"),
        ("http://lab", {"MLFLOW_TRACKING_USERNAME": "ada", "MLFLOW_TRACKING_TOKEN": "t"}, {}, "Bearer t", "MLFLOW_TRACKING_TOKEN"),
        # As requests reads an address: what is quoted there is not quoted in the header.
        ("http://a%40b:p%2Fw@lab", SHELL, {}, basic("a@b", "p/w"), "tracking.uri"),
        ("http://a-token@lab", {}, {}, basic("a-token", ""), "tracking.uri"),
        ("http://lab", {}, {".mlflow/credentials": "[mlflow]\nmlflow_tracking_username = ada\nmlflow_tracking_password = of-the-file\n"}, basic("ada", "of-the-file"), "~/.mlflow/credentials"),
        ("http://lab", {}, {".mlflow/credentials": "no such thing"}, None, ""),
        ("http://u:p@lab", SHELL, {".netrc": "machine lab login ada password of-netrc\n"}, basic("ada", "of-netrc"), "{home}/.netrc"),
        ("http://other", SHELL, {".netrc": "machine lab login ada password of-netrc\n"}, basic("ada", "of-the-shell"), "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"),
        ("http://u:p@lab", SHELL | {"MLFLOW_TRACKING_AUTH": "kerberos"}, {}, None, "MLFLOW_TRACKING_AUTH"),
    ],
)  # fmt: skip
def test_whatever_mlflow_s_client_would_show(
    uri: str, environment: dict[str, str], files: dict[str, str], header: str | None, source: str, tmp_path: Path
) -> None:  # fmt: skip
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o600)
    found = credentials_for(uri, {"HOME": str(tmp_path), **environment})
    assert (found.header, found.source) == (header, source.format(home=tmp_path))


def test_what_a_server_does_not_take_is_refused_with_what_to_set(server: FakeServer, tmp_path: Path) -> None:
    """It will not be taken by waiting."""
    server.answers[LIST] = (401, "You are not authenticated.")
    home = {"HOME": str(tmp_path)}
    with pytest.raises(ConfigError) as without:
        check_tracking(uri_of(server), 2, home)
    with pytest.raises(ConfigError) as wrong:
        check_tracking(uri_of(server, "ada:not-to-be-shown@"), 2, home)
    at = f"tracking.uri: MLflow at {uri_of(server)}"
    what = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
    assert str(without.value) == f"{at} wants credentials (HTTP 401); {what}"
    assert str(wrong.value) == (
        f"{at} does not take the credentials of tracking.uri (HTTP 401: the user, the password or the token is"
        " wrong); write there what it takes"
    )


def test_a_server_that_is_shown_what_a_plugin_makes_is_asked_only_whether_it_is_well(
    server: FakeServer, tmp_path: Path
) -> None:
    """We cannot make it, and a run that MLflow's client can record is no run to refuse."""
    server.answers[LIST] = (403, "")
    signed = {"HOME": str(tmp_path), "MLFLOW_TRACKING_AWS_SIGV4": "true"}
    assert check_tracking(uri_of(server), 2, signed) is None
    server.answers["/health"] = (503, "")
    reason = check_tracking(uri_of(server), 2, signed)
    assert reason is not None
    assert "HTTP 503" in reason
