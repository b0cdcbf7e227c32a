"""One user who keeps a cluster, for all scripts: Ray starts once."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.user_scripts.runs import CPU, Job, ScriptUser


@pytest.fixture(scope="session")
def keeper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScriptUser]:
    """Runs attach to the cluster that `up` keeps."""
    with ScriptUser(tmp_path_factory.mktemp("scripts")).keeping(*CPU) as one:
        yield one


@pytest.fixture
def user(job: Job, request: pytest.FixtureRequest) -> ScriptUser:
    """Skips where the library is not installed; ORCHESTRATOR_REQUIRE_SCRIPTS=1 fails instead."""
    missing = job.missing()
    if missing and os.environ.get("ORCHESTRATOR_REQUIRE_SCRIPTS") == "1":
        pytest.fail(missing)
    if missing:
        pytest.skip(missing)
    keeper: ScriptUser = request.getfixturevalue("keeper")
    return keeper
