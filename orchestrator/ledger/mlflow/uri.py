"""Is a tracking URI usable? Answered in ``timeout_s`` and without importing MLflow, which takes seconds.

What no waiting mends (a scheme that MLflow does not take, a database's driver that is not installed, a wrong
password) is bad input and raises :class:`ConfigError`; what may be mended meanwhile is a reason to try again.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from orchestrator.errors import ConfigError
from orchestrator.ledger.mlflow.database_server import (
    PORTS,
    REMEDY,
    check_database,
    refuse_missing_driver,
)
from orchestrator.ledger.mlflow.server import check_server
from orchestrator.papers import short, why_no_path

# Whoever holds a SQLite file for longer than this is at work on it, which is for the sink to wait for.
_SQLITE_BUSY_S = 0.5


def check_tracking(uri: str, timeout_s: float, environment: Mapping[str, str] | None = None) -> str | None:
    """None when runs can be recorded at ``uri``, else one line with the reason and the remedy.

    An http address must be healthy and list an experiment (``/health`` answers even to whom the API
    refuses); a SQLite file must be writable and whole, or not be there yet; any other database's server must
    let us in. Raises :class:`ConfigError` for what :func:`refuse_unusable` refuses, where a server does not
    take the credentials that ``environment`` has for it (None is this process's), and where a database's does
    not take the user or has no such database.
    """
    refuse_unusable(uri)
    scheme = _scheme(uri)
    if scheme in ("http", "https"):
        return check_server(uri, timeout_s, environment)
    if scheme == "sqlite":
        return _check_sqlite(uri)
    if scheme in PORTS:
        return check_database(uri, timeout_s)
    return None


def refuse_unusable(uri: str) -> None:
    """Raise :class:`ConfigError` for a URI at which MLflow can never be: whatever answers there, and
    whenever."""
    _refuse_unreadable(uri)
    scheme = _scheme(uri)
    if uri == "databricks" or scheme in ("http", "https", "databricks"):
        return
    if scheme == "sqlite":
        if sqlite_path(uri) is None:
            raise ConfigError(f"tracking.uri {short(uri)} names no file; {REMEDY}")
    elif scheme in PORTS:
        refuse_missing_driver(uri)
    elif scheme in ("", "file"):
        raise ConfigError(
            f"tracking.uri {short(uri)} is MLflow's file store, which is not supported; {REMEDY}"
        )
    else:
        raise ConfigError(f"tracking.uri {short(uri)} has the unknown scheme {short(scheme)}; {REMEDY}")


def _refuse_unreadable(uri: str) -> None:
    """What Python's own functions raise for: brackets without an end, a port that is none, a file's name too
    long."""
    try:
        parts = urlsplit(uri)
        why = "its port is 0" if parts.port == 0 else None
        if parts.netloc and parts.scheme in ("http", "https") and not parts.hostname:
            why = "it names no host"
        (parts.hostname or "").encode("idna")
    except ValueError as error:
        why = " ".join(str(error).split())
    path = sqlite_path(uri)
    if path is not None:
        why = why_no_path(str(path))
    if why is not None:
        what = "a database's address" if uri.partition(":")[0].split("+")[0] in PORTS else "an address"
        raise ConfigError(
            f"tracking.uri {short(_without_password(uri))} is not {what}: {short(why)}; {REMEDY}"
        )


def _without_password(uri: str) -> str:
    scheme, mark, rest = uri.partition("://")
    return f"{scheme}{mark}{rest.rpartition('@')[2]}"


def _scheme(uri: str) -> str:
    return urlsplit(uri).scheme.split("+")[0]


def sqlite_path(uri: str) -> Path | None:
    """The database file of a SQLite URI; None for other URIs and for a database in memory."""
    prefix, separator, rest = uri.partition(":///")
    if not separator or prefix.split("+")[0] != "sqlite":
        return None
    name = unquote(rest.partition("?")[0])
    return Path(name) if name and name != ":memory:" else None


def absolute_uri(uri: str) -> str:
    """The same place from every directory: a SQLite file's path is made absolute, other URIs are left
    alone."""
    path = sqlite_path(uri)
    if path is None or path.is_absolute():
        return uri
    prefix, _, rest = uri.partition(":///")
    return f"{prefix}:///{Path.cwd()}/{rest}"


def prepare_sqlite(uri: str) -> str | None:
    """Make the database's directory, and keep artifacts beside the database; returns their place.

    None for anything but a SQLite file. Raises ``OSError`` when a directory cannot be made.
    """
    path = sqlite_path(uri)
    if path is None:
        return None
    directory = path.absolute().parent
    directory.mkdir(parents=True, exist_ok=True)
    return _keep_artifacts(directory)


def artifacts_beside(uri: str, run_root: Path) -> str | None:
    """Keep the artifacts of new experiments beside the runs where MLflow is in a database's server, which has
    no folder for them; returns their place. None for anything else: a server that speaks HTTP says where."""
    return _keep_artifacts(run_root.absolute()) if is_database(uri) else None


def _keep_artifacts(directory: Path) -> str:
    """MLflow would put them into ``./mlruns`` of whatever directory the process happens to be in. They are
    copies of what a run's directory has, and as that one a new folder of them is its owner's alone; how an
    existing one is shared is its owner's choice."""
    artifacts = str(directory / "mlartifacts")
    with contextlib.suppress(OSError):  # it is there, or only MLflow can say what is wrong
        os.mkdir(artifacts, 0o700)
    # The root of experiments that MLflow makes itself ("Default"); there is no public way to say it.
    os.environ["_MLFLOW_SERVER_ARTIFACT_ROOT"] = artifacts
    return artifacts


def _check_sqlite(uri: str) -> str | None:
    path = sqlite_path(uri)
    assert path is not None, "refused before"
    if path.exists() and not (path.is_file() and os.access(path, os.R_OK | os.W_OK)):
        return f"tracking database {path} is not a writable file"
    parent = path.absolute().parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        return f"tracking database {path} cannot be made: {parent} is not a writable directory"
    return sqlite_problem(path)


def sqlite_problem(path: Path) -> str | None:
    """Why a file can never become MLflow's database as it is, with the remedy; None for one that is not
    there.

    MLflow makes tables one after the other, and the first experiment after the last of them. Where that was
    cut short, no later MLflow can go on: it begins again and finds tables that it did not expect.
    """
    tables, experiments = sqlite_contents(path)
    if tables is None:
        return (
            f"tracking database {path} is not a SQLite file; move it away, or name another file with"
            " tracking.uri"
        )
    if not tables or experiments:
        return None
    if any(name == "experiments" or name.startswith("_alembic_tmp_") for name in tables):
        return (
            f"tracking database {path} is half made: whoever made it was stopped in between, or is still at"
            f" it. It has no runs: mv {path} {path}.half-made, and a new one is made"
        )
    return f"tracking database {path} has tables that are not MLflow's; name another file with tracking.uri"


def sqlite_contents(path: Path) -> tuple[frozenset[str] | None, int]:
    """The tables of a database and the rows of its table of experiments; no tables for a file that is not
    there.

    None for the tables of what is no database. What is locked for longer than a moment is taken for whole.
    """
    if not path.is_file() or path.stat().st_size == 0:
        return frozenset(), 0
    try:
        # Not read-only: what a killed process left is then rolled back.
        address = f"file:{quote(str(path.absolute()))}?mode=rw"
        with contextlib.closing(sqlite3.connect(address, uri=True, timeout=_SQLITE_BUSY_S)) as database:
            found = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            tables = frozenset(name for (name,) in found)
            if "experiments" not in tables:
                return tables, 0
            (rows,) = database.execute("SELECT count(*) FROM experiments").fetchone()
            return tables, int(rows)
    except sqlite3.OperationalError:
        return frozenset({"experiments"}), 1
    except sqlite3.DatabaseError:
        return None, 0


def is_database(uri: str) -> bool:
    """A database that is reached over the network."""
    return _scheme(uri) in PORTS
