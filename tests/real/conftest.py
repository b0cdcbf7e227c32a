"""A cluster that stays, for runs where the start and the end of Ray are not what is tested."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.runs import User

# Whatever this machine has, two processor cores train.
CPU = ["gpu=cpu", "cluster.gpus_per_node=2", "cluster.cpu_threads_per_rank=1"]


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a user who keeps one: an empty home, and runs that attach to it by themselves."""
    with User(tmp_path_factory.mktemp("kept")).keeping(*CPU, "launch.dashboard=false") as one:
        yield one.environment
