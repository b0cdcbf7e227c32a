"""Ray that encrypts what it sends: kept, attached to, started for a run; and what of it is not encrypted even
so."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.faults.runs import COMMON, MARKS, UNTRACKED, User
from tests.support.certificates import Authority

pytestmark = MARKS

HERE = "127.0.0.1"
TINY = [*COMMON, "job.steps=2", "job.args.checkpoint_every=0", UNTRACKED]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def keeper(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[User]:
    """One who keeps such a Ray."""
    user = User(tmp_path_factory.mktemp("keeper"), authority.variables("node", HERE))
    with user.keeping(*COMMON, "launch.dashboard=true") as one:
        yield one


def test_a_run_on_a_kept_ray_and_one_on_its_own(keeper: User) -> None:
    for words in ((), ("ray_address=local",)):
        done = keeper.command(*TINY, *words)
        assert done.returncode == 0, done.stdout + done.stderr


def test_who_has_no_certificate_or_another_authoritys_is_told_so_at_once(
    keeper: User, authority: Authority, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path / "stranger").variables("stranger", HERE)
    plain = {name: value for name, value in keeper.environment.items() if not name.startswith("RAY_TLS")}
    plain.pop("RAY_USE_TLS")
    tried = [
        (
            plain,
            3,
            "encrypts what it sends, and asks for a certificate; set RAY_USE_TLS=1, RAY_TLS_SERVER_CERT",
        ),
        (plain | stranger, 3, "its certificate is not taken"),
        (
            plain | stranger | {"RAY_TLS_CA_CERT": str(authority.certificate)},
            3,
            "it does not take RAY_TLS_SERVER_CERT",
        ),
        (
            plain | authority.variables("elsewhere", "10.0.0.1") | {"RAY_ADDRESS": "local"},
            2,
            f"must have IP:{HERE}",
        ),
    ]
    for environment, code, said in tried:
        user = User(keeper.folder)
        user.environment = environment
        done = user.command(*TINY)
        assert (done.returncode, said in done.stderr) == (code, True), done.stdout + done.stderr


def test_what_is_encrypted_and_what_is_not(keeper: User, authority: Authority) -> None:
    assert keeper.kept is not None
    head = keeper.kept.head()
    assert head is not None
    encrypted, plain = set(), set()
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) != head.pid and os.getsid(process.parent().pid) != head.pid:  # type: ignore[union-attr]
                continue
            heard = [
                each.laddr.port
                for each in process.net_connections("tcp")
                if each.status == psutil.CONN_LISTEN
            ]
            name = process.name()
        except (psutil.Error, OSError, AttributeError):
            continue
        for port in heard:
            (encrypted if speaks_tls(port, authority) else plain).add(name)
    assert {"gcs_server", "raylet"} <= encrypted
    assert not {"gcs_server", "raylet"} & plain
    # HTTP: what a node's agent is asked, and its metrics.
    assert [name for name in plain if name.startswith("ray::DashboardA")], plain


def speaks_tls(port: int, authority: Authority) -> bool:
    context = ssl.create_default_context(cafile=str(authority.certificate))
    try:
        with (
            socket.create_connection((HERE, port), 5) as line,
            context.wrap_socket(line, server_hostname=HERE),
        ):
            return True
    except (ssl.SSLError, OSError):
        return False
