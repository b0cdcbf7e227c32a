"""Which node takes which ranks, where nodes have ranks' checkpoints in memory."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.cluster.parked_order import order_of


@pytest.mark.parametrize(
    ("parked", "order"),
    [
        ([[], [], []], [0, 1, 2]),
        ([[0, 1], [2, 3], [4, 5]], [0, 1, 2]),
        ([[4, 5], [0, 1], [2, 3]], [2, 0, 1]),
        ([[4, 5], [], []], [2, 0, 1]),
        ([[2, 3], [2, 3], []], [1, 0, 2]),  # one of them is left from earlier
        ([[2], [], []], [0, 1, 2]),  # half of a node's ranks is of no use
        ([[0, 1, 2, 3], [0, 1], []], [0, 1, 2]),
    ],
)
def test_each_node_gets_back_the_ranks_that_it_has(
    parked: Sequence[Collection[int]], order: list[int]
) -> None:
    assert order_of(parked, ranks_per_node=2) == order


@given(st.permutations(range(6)), st.integers(1, 4))
def test_any_order_of_the_same_nodes_is_undone(indexes: list[int], per_node: int) -> None:
    parked = [range(index * per_node, (index + 1) * per_node) for index in indexes]
    assert order_of(parked, per_node) == indexes


@given(st.lists(st.sets(st.integers(0, 12)), min_size=1, max_size=6), st.integers(1, 3))
def test_every_index_is_given_once_whatever_is_left_where(parked: list[set[int]], per_node: int) -> None:
    assert sorted(order_of(parked, per_node)) == list(range(len(parked)))
