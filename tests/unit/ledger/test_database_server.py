"""A database's server that is there: whom it lets in, and what a person reads where it does not."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

from orchestrator.errors import ConfigError
from orchestrator.ledger.mlflow.database_server import check_database
from orchestrator.ledger.mlflow.refusals import ServerRefuses, in_words

# Which may not be in any message, neither as it is nor as an address has it.
PASSWORD, QUOTED = "not to/be@shown", "not%20to%2Fbe%40shown"
LIBPQ = 'connection to server at "127.0.0.1", port 5432 failed: FATAL:  '


class DriverError(Exception):
    """As drivers raise it."""


class Driver:
    """A scripted DBAPI module: ``connects`` is what its connect does."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.connects: Callable[[], Any] = lambda: self
        self.closed = 0

    def connect(self, *words: Any, **named: Any) -> Any:
        self.asked.append(named)
        return self.connects()

    def close(self) -> None:
        self.closed += 1

    def refuse(self, *told: Any) -> None:
        def refuse() -> None:
            raise DriverError(*told)

        self.connects = refuse


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    """Stands for PostgreSQL's and MySQL's."""
    one = Driver()
    for name in ("psycopg2", "pymysql"):
        module = ModuleType(name)
        module.__dict__.update(connect=one.connect, paramstyle="pyformat", Error=DriverError)
        monkeypatch.setitem(sys.modules, name, module)
    return one


@pytest.fixture
def port() -> Iterator[int]:
    """Of a server that takes connections."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield int(listener.getsockname()[1])


def uri(port: int, kind: str = "postgresql+psycopg2") -> str:
    return f"{kind}://ada:{QUOTED}@127.0.0.1:{port}/runs"


def test_who_is_let_in_leaves_again(driver: Driver, port: int) -> None:
    assert check_database(uri(port), 2.5) is None
    assert driver.closed == 1
    (asked,) = driver.asked
    assert (asked["user"], asked["password"], asked["connect_timeout"]) == ("ada", PASSWORD, 3)


@pytest.mark.parametrize(
    ("kind", "told", "remedy"),
    [
        ("postgresql+psycopg2", [f'{LIBPQ}password authentication failed for user "ada"\n'], "password"),
        ("postgresql+psycopg2", ["fe_sendauth: no password supplied"], "password"),
        ("postgresql+psycopg2", [f'{LIBPQ}Peer authentication failed for user "ada"'], "password"),
        ("postgresql+psycopg2", [f'{LIBPQ}no pg_hba.conf entry for host "10.0.0.1", user "ada"'], "password"),
        ("postgresql+psycopg2", [f'{LIBPQ}role "ada" does not exist'], "password"),
        ("postgresql+psycopg2", [f'{LIBPQ}database "runs" does not exist'], "name another"),
        ("mysql+pymysql", [1045, f"Access denied for 'ada' with {PASSWORD} or {QUOTED}"], "password"),
        ("mysql+pymysql", [1049, "Unknown database 'runs'"], "name another"),
    ],
)
def test_what_no_waiting_mends_is_bad_input(
    kind: str, told: list[Any], remedy: str, driver: Driver, port: int
) -> None:
    driver.refuse(*told)
    with pytest.raises(ConfigError) as raised:
        check_database(uri(port, kind), 2)
    said = str(raised.value)
    assert said.startswith("tracking.uri: the ")
    assert f"127.0.0.1:{port}" in said
    assert remedy in said
    assert "\n" not in said
    assert not any(secret in said for secret in (PASSWORD, QUOTED))
    with pytest.raises(ServerRefuses), in_words(uri(port, kind), "exp"):  # while a run goes on
        check_database(uri(port, kind), 2)


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("postgresql+psycopg2", [f"{LIBPQ}the database system is starting up"]),
        ("postgresql+psycopg2", [f"{LIBPQ}sorry, too many clients already"]),
        ("postgresql+psycopg2", ["server closed the connection\n\tunexpectedly"]),
        ("mysql+pymysql", [1040, "Too many connections"]),
        ("mysql+pymysql", [2013, f"Lost connection, {PASSWORD}"]),
        ("postgresql+psycopg2", []),
    ],
)
def test_what_may_be_mended_meanwhile_is_a_reason(
    kind: str, told: list[Any], driver: Driver, port: int
) -> None:
    driver.refuse(*told)
    said = check_database(uri(port, kind), 2)
    assert said is not None
    assert said.startswith(f"tracking database at 127.0.0.1:{port} does not let us in: ")
    assert "\n" not in said
    assert PASSWORD not in said


def test_a_server_that_takes_a_connection_and_is_silent_is_not_waited_for(driver: Driver, port: int) -> None:
    over = threading.Event()
    driver.connects = lambda: over.wait(60)
    said = check_database(uri(port), 0.2)
    over.set()
    assert said == f"tracking database at 127.0.0.1:{port} does not answer a login within 0.2 s"


def test_nobody_asks_a_host_for_what_has_another_place(driver: Driver) -> None:
    """A socket's folder, where libpq looks for the server; there need be none that listens on a port."""
    assert check_database("postgresql+psycopg2://ada@/runs?host=/run/postgresql", 2) is None
    driver.refuse("fe_sendauth: no password supplied")
    with pytest.raises(
        ConfigError, match=r"at the place that tracking\.uri names does not let user 'ada' in"
    ):
        check_database("postgresql+psycopg2://ada@/runs?host=/run/postgresql", 2)
