"""A user who keeps a cluster with Ray's dashboard, for those tests that look at it from outside."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from orchestrator.cluster import kept as kept_clusters
from tests.faults.runs import COMMON, User

# Ray's own default is 10 s, longer than a test's run takes.
OFTEN = {"RAY_metrics_report_interval_ms": "1000"}


@pytest.fixture(scope="session")
def keeper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[User]:
    """Runs attach to the cluster that `up` keeps."""
    one = User(tmp_path_factory.mktemp("keeper"), OFTEN)
    try:
        up = one.command("up", *COMMON, "launch.dashboard=true")
        assert up.returncode == 0, up.stdout + up.stderr
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("XDG_STATE_HOME", one.environment["XDG_STATE_HOME"])
            one.kept = kept_clusters.find()
        assert one.kept is not None
        yield one
    finally:
        one.close()
        down = one.command("down", "--force")
        assert down.returncode == 0, down.stdout + down.stderr
