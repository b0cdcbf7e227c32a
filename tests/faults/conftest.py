"""Two users, one whose runs bring a cluster of their own each and one who keeps one; the run to compare
with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.runs import COMMON, Run, User


@pytest.fixture(scope="session")
def user(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[User]:
    """Each run starts and ends its own Ray."""
    one = User(tmp_path_factory.mktemp("user"), database=empty_database)
    yield one
    one.close()


@pytest.fixture(scope="session")
def keeper(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[User]:
    """Runs attach to the cluster that `up` keeps: for faults that do not touch it, in half of the time."""
    with User(tmp_path_factory.mktemp("keeper"), database=empty_database).keeping(*COMMON) as one:
        yield one


@pytest.fixture(scope="session")
def whole(keeper: User) -> Run:
    """The job itself, uninterrupted."""
    run = keeper.start("whole", pace_s=0).ended()
    assert run.code == 0, run.text
    return run


@pytest.fixture(autouse=True)
def failed_tests_leave_no_run(request: pytest.FixtureRequest) -> Iterator[None]:
    """A run that its failed test no longer looks at would hold what the next tests' runs wait for."""
    users = [request.getfixturevalue(name) for name in ("user", "keeper") if name in request.fixturenames]
    before, failed = [len(user.runs) for user in users], request.session.testsfailed
    yield
    if request.session.testsfailed > failed:
        for user, keep in zip(users, before, strict=True):
            user.close(keep=keep)
