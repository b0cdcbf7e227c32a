"""A user who keeps a cluster with Ray's dashboard, for those tests that look at it from outside."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.runs import COMMON, User
from tests.support.sink_harness import run_dir as run_dir
from tests.support.sink_harness import sinks as sinks

# Ray's own default is 10 s, longer than a test's run takes.
OFTEN = {"RAY_metrics_report_interval_ms": "1000"}


@pytest.fixture(scope="session")
def keeper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[User]:
    """Runs attach to the cluster that `up` keeps."""
    with User(tmp_path_factory.mktemp("keeper"), OFTEN).keeping(*COMMON, "launch.dashboard=true") as one:
        yield one
