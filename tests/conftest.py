"""Settings for all tests."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from orchestrator.config import load
from tests.support.compositions import Compositions
from tests.support.mlflow_server import make_database

# A shell without job control starts what goes on in its background with Ctrl-C ignored, and drivers that
# inherit that rightly keep it so; those of the tests are to hear it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How fast an example runs says something about the machine; benchmarks measure speed.
settings.register_profile("untimed", deadline=None)
# More examples, of the seed that pytest is given: what `make soak` fuzzes with (tests/fuzz/inputs.py).
settings.register_profile("soak", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(scope="session", autouse=True)
def _no_cluster_of_the_developer() -> Iterator[None]:
    """Runs attach to a cluster that `up` keeps; the tests' own must not."""
    with tempfile.TemporaryDirectory() as folder:
        before = os.environ.get("XDG_STATE_HOME")
        os.environ["XDG_STATE_HOME"] = folder
        yield
        os.environ.pop("XDG_STATE_HOME") if before is None else os.environ.update(XDG_STATE_HOME=before)


@pytest.fixture(scope="session", autouse=True)
def _words_are_composed_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(load, "hydra_composes", Compositions())
        yield


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database with tables and no rows: making them takes longer than all that most tests do with
    them."""
    return make_database(tmp_path_factory.mktemp("empty") / "mlflow.db")
