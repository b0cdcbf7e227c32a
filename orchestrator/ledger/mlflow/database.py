"""The SQLite file that MLflow keeps runs in: whoever finds it finds it whole, however its makers met or
ended.

MLflow makes its tables in some fifty steps, each on the disk at once. Two processes that do so in one file
disturb each other, one that is killed leaves a file that no MLflow can use again, and neither can be mended
from outside. So a new file is made beside its place and gets its name when it is ready.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
from alembic.script import ScriptDirectory
from mlflow.tracking import MlflowClient

from orchestrator.errors import TrackingError
from orchestrator.files import sync
from orchestrator.ledger.mlflow.uri import prepare_sqlite, sqlite_contents, sqlite_path, sqlite_problem

_POOL = "MLFLOW_SQLALCHEMYSTORE_POOLCLASS"


class DatabaseUnusable(TrackingError):
    """A person has to do something; the message says what. Trying again is right all the same: they may
    have."""


class _BeingMade(OSError):
    """Another process makes the database; it takes seconds."""


def make_ready(uri: str) -> str | None:
    """See to it that MLflow can use a SQLite file, and make it where there is none; returns the artifacts'
    place.

    Does nothing for other URIs. Raises :class:`_BeingMade`, :class:`DatabaseUnusable`, ``OSError``, what
    MLflow raises.
    """
    artifacts, named = prepare_sqlite(uri), sqlite_path(uri)
    if named is None or str(named).startswith("file:"):
        return artifacts
    path = named.resolve()  # where a link leads to, so that the link stays one
    if _is_new(path):
        with _only_maker(path):
            if _is_new(path):
                _make(path)
    if problem := sqlite_problem(path):
        raise DatabaseUnusable(problem)
    _refuse_another_version(path, uri)
    return artifacts


def _is_new(path: Path) -> bool:
    return sqlite_contents(path)[0] == frozenset()


@contextmanager
def _only_maker(path: Path) -> Iterator[None]:
    """The kernel lets go of the lock when its holder dies. Where there are no locks (some network file
    systems) each makes a file of its own, and the first to name it wins."""
    with path.with_name(f".{path.name}.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _BeingMade(f"tracking database {path} is being made by another process") from None
        except OSError:
            yield
            return
        for left_over in path.parent.glob(f".{path.name}.*.new*"):
            left_over.unlink(missing_ok=True)
        yield


def _make(path: Path) -> None:
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
    os.close(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    try:
        with _no_connection_kept():
            name = str(beside).replace("%", "%25").replace("?", "%3F")
            MlflowClient(tracking_uri=f"sqlite:///{name}").search_experiments()
        sync(beside)
        _name(beside, path)
        sync(path.parent)
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def _no_connection_kept() -> Iterator[None]:
    """So that nobody has the file open under the name that it is about to lose."""
    before = os.environ.get(_POOL)
    os.environ[_POOL] = "NullPool"
    try:
        yield
    finally:
        os.environ.pop(_POOL) if before is None else os.environ.update({_POOL: before})


def _name(beside: Path, path: Path) -> None:
    """Never over a database that somebody else has made meanwhile."""
    if path.exists():
        if _is_new(path):
            beside.replace(path)
        return
    try:
        os.link(beside, path)
    except FileExistsError:
        return
    except OSError:  # a file system without hard links
        beside.replace(path)


def _refuse_another_version(path: Path, uri: str) -> None:
    """MLflow would change the tables under the runs in it, unasked, and a kill meanwhile would cost all of
    them."""
    with contextlib.closing(sqlite3.connect(path, timeout=5.0)) as database:
        found = database.execute("SELECT version_num FROM alembic_version").fetchone()
    revision = found[0] if found else None
    scripts = ScriptDirectory(str(Path(mlflow.__file__).parent / "store" / "db_migrations"))
    if revision == scripts.get_current_head():
        return
    if revision in {script.revision for script in scripts.walk_revisions()}:
        remedy = f"with no run going copy the file, then: mlflow db upgrade {uri}"
    else:
        remedy = (
            f"install the MLflow that made it (here is {mlflow.__version__}), or name another file with"
            " tracking.uri"
        )
    raise DatabaseUnusable(f"tracking database {path} was made by another version of MLflow; {remedy}")
