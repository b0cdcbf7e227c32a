"""Whether a database's server is there and lets in whom ``tracking.uri`` names. MLflow itself asks one that
does not for minutes, and says so with a traceback; nothing here imports MLflow.

A server that is away, or still starting, may come: that is a reason to try again. A user whom it does not let
in, and a database that it does not have, are bad input, as an MLflow server's refusal is.
"""

from __future__ import annotations

import math
import re
import socket
import sys
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from orchestrator.errors import ConfigError
from orchestrator.ledger.mlflow.server import answer_within, reason_of
from orchestrator.papers import short

if TYPE_CHECKING:  # SQLAlchemy takes a while to import
    from sqlalchemy.engine import URL

REMEDY = "use sqlite:////absolute/path/mlflow.db or the http address of an MLflow server"
PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
# What pip calls the drivers that SQLAlchemy takes by default, where that is another name than the module's.
_PACKAGES = {"psycopg2": "psycopg2-binary", "MySQLdb": "mysqlclient", "psycopg": "psycopg[binary]"}
# Of an address without a host: where its server is all the same.
_ELSEWHERE = ("host", "service", "unix_socket", "odbc_connect", "read_default_file")
# Those drivers that are told by this name how many seconds they may take.
_TIMED, _TIMEOUT = ("psycopg", "psycopg2", "mysqldb", "pymysql"), "connect_timeout"
# That a user is not let in, and that there is no such database: SQLSTATE, MySQL's and SQL Server's numbers;
# and words, since PostgreSQL's drivers pass on no code of a login (libpq, fe-connect.c; miscinit.c, auth.c).
_REFUSED_CODES = ("28000", "28P01", "1044", "1045", "1698", "18456")
_MISSING_CODES = ("3D000", "1049", "4060")
_REFUSED_WORDS = re.compile(
    r"authentication failed|no password supplied|no pg_hba\.conf entry|role \".*\" does not exist"
    r"|not permitted to log in|permission denied for database|login failed for user",
    re.IGNORECASE,
)
_MISSING_WORDS = re.compile(r"database \".*\" does not exist|cannot open database", re.IGNORECASE)


def check_database(uri: str, timeout_s: float) -> str | None:
    """None when the server lets us in, else the reason. Raises :class:`ConfigError` for what no waiting
    mends. A server that takes a connection and is silent costs ``timeout_s`` twice."""
    url, driver = _url_and_driver(uri)
    where = f"{url.host or 'localhost'}:{url.port or PORTS[url.get_backend_name()]}"
    if url.host or not any(name in url.query for name in _ELSEWHERE):
        host, _, port = where.rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout_s).close()
        except OSError as error:
            return f"tracking database at {where} does not answer: {reason_of(error)}"
    else:
        where = "the place that tracking.uri names"
    try:
        return answer_within(timeout_s, lambda: _login(url, driver, where, timeout_s))
    except TimeoutError:
        return f"tracking database at {where} does not answer a login within {timeout_s:g} s"


def refuse_missing_driver(uri: str) -> None:
    """SQLAlchemy knows which module it would import; it is not imported for any other URI, since that takes a
    while."""
    _url_and_driver(uri)


def _url_and_driver(uri: str) -> tuple[URL, Any]:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError

    kind = urlsplit(uri).scheme
    try:
        url = make_url(uri)
        return url, url.get_dialect().import_dbapi()
    except ModuleNotFoundError as error:
        package = _PACKAGES.get(str(error.name), error.name)
        raise ConfigError(
            f"tracking.uri {kind}://…: the database's driver {error.name} is not installed; {sys.executable}"
            f" -m pip install '{package}', or name another driver as {kind.split('+')[0]}+DRIVER://…"
        ) from None
    except ImportError as error:
        raise ConfigError(
            f"tracking.uri {kind}://…: the database's driver cannot be loaded: {error}"
        ) from None
    except (ArgumentError, NoSuchModuleError, ValueError) as error:
        raise ConfigError(f"tracking.uri {kind}://… is not a database's address: {error}; {REMEDY}") from None


def _login(url: URL, driver: Any, where: str, timeout_s: float) -> str | None:
    """As MLflow comes, and away again."""
    try:
        dialect = url.get_dialect()(dbapi=driver)  # type: ignore[call-arg]
        words, named = dialect.create_connect_args(url)
        if dialect.driver in _TIMED:
            named = {_TIMEOUT: max(1, math.ceil(timeout_s)), **named}
        dialect.connect(*words, **named).close()
    except Exception as error:  # noqa: BLE001 - each driver has its own, and some raise what is none
        said = _without_password(str(error), url)
        if _is(error, said, _REFUSED_CODES, _REFUSED_WORDS):
            who = f"user {short(url.username)}" if url.username else "us"
            raise ConfigError(
                f"tracking.uri: the database at {where} does not let {who} in ({_last(said)}); write there"
                " the user and the password that it takes"
            ) from None
        if _is(error, said, _MISSING_CODES, _MISSING_WORDS):
            raise ConfigError(
                f"tracking.uri: the server at {where} has no such database ({_last(said)}); make it there, or"
                " name another"
            ) from None
        return f"tracking database at {where} does not let us in: {_last(said)}"
    return None


def _is(error: Any, said: str, codes: tuple[str, ...], words: re.Pattern[str]) -> bool:
    """Whether that is what a driver's error says, by code or in words."""
    told = [getattr(error, "sqlstate", None), getattr(error, "pgcode", None), *error.args[:1]]
    return any(str(code) in codes for code in told) or words.search(said) is not None


def _last(said: str) -> str:
    """The server's own word, without what the driver puts before it: for a line."""
    return short(" ".join(said.rpartition("FATAL:")[2].split()) or "without a word")


def _without_password(said: str, url: URL) -> str:
    password = str(url.password or "")
    for word in filter(None, (password, quote(password, safe=""))):
        said = said.replace(word, "***")
    return said
