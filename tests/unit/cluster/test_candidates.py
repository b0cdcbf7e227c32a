"""Which nodes a check may take: those that nobody holds, or its own run alone."""

from __future__ import annotations

import pytest

from orchestrator.cluster.check import Candidate
from orchestrator.cluster.placement import group_name, successor_name

OURS = group_name("night-1")


@pytest.mark.parametrize(
    ("held_by", "own", "free"),
    [
        ((), "", True),
        ((OURS,), "", False),
        ((OURS,), OURS, True),
        ((successor_name(OURS, 1, " attempt 2"),), OURS, True),
        ((group_name("night-10"),), OURS, False),
        ((OURS, group_name("other")), OURS, False),
    ],
)
def test_what_takes_the_place_of_a_lost_node_is_the_runs_too(
    held_by: tuple[str, ...], own: str, free: bool
) -> None:
    assert Candidate("id", "host", "10.0.0.1", held_by).is_free_for(own) is free
