"""Nodes that come and go: what a pool has at any time, told in three ways that agree."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.fleet.pools import (
    CapacityChange,
    Pool,
    capacity_at,
    changed_until,
    leaves_at,
    most_nodes,
    spans_away,
)


@st.composite
def pools(draw: st.DrawFn) -> tuple[Pool, list[CapacityChange]]:
    """A pool, and changes that leave it no fewer than no nodes."""
    has = draw(st.integers(0, 6))
    pool, changes = Pool("a", has, 8), []
    for at in sorted(draw(st.lists(st.integers(1, 50), max_size=6, unique=True))):
        nodes = draw(st.integers(-has, 4))
        has += nodes
        changes.append(CapacityChange("a", nodes, float(at)))
    return pool, [*changes, CapacityChange("other", 5, 3.0)]


@given(pools(), st.integers(0, 60))
def test_whoever_asks_how_many_nodes_there_are_then_hears_the_same(drawn, at):
    pool, changes = drawn
    then = changed_until(pool, changes, float(at))
    assert capacity_at([pool], changes, float(at))[0] == then.gpus
    away = {number for number, since, until in spans_away(pool, changes) if since <= at < until}
    there = [number for number in range(most_nodes(pool, changes)) if number not in away]
    assert there == list(range(then.nodes))


@given(pools())
def test_a_node_leaves_when_the_pool_has_so_few_for_the_first_time(drawn):
    pool, changes = drawn
    times = leaves_at(pool, changes)
    assert np.all(times[1:] <= times[:-1])
    for number, at in enumerate(times.tolist()):
        mine = [one.at for one in changes if changed_until(pool, changes, one.at).nodes <= number]
        assert at == min(mine, default=math.inf)
