"""Ranks that talk most are near each other."""

from __future__ import annotations

import random

import pytest

from orchestrator.topology.choose import choose
from orchestrator.topology.order import ordered
from tests.support.trees import BLOCK, RACK, cluster, drawn, ring_crossings


def test_nodes_of_a_rack_follow_each_other() -> None:
    tree = cluster([2, 2], [2])
    mixed = ["b1r0n1", "b0r0n0", "b0r1n1", "b1r0n0", "b0r0n1", "b0r1n0"]
    assert ordered(tree, mixed) == ["b0r0n0", "b0r0n1", "b0r1n0", "b0r1n1", "b1r0n0", "b1r0n1"]


def test_rings_are_of_one_rack_where_racks_hold_them() -> None:
    tree = cluster([3, 3, 2])
    order = ordered(tree, list(tree.paths), unit=2)
    assert ring_crossings(tree, order, 2, RACK) == 2, "the two that are left over of the racks of three"
    assert set(order) == set(tree.paths)


def test_what_is_left_over_fits_together() -> None:
    tree = cluster([3, 1, 3, 1])
    assert ring_crossings(tree, ordered(tree, list(tree.paths), unit=4), 4, RACK) == 4, "two racks a ring"


def test_a_ring_leaves_each_block_once() -> None:
    tree = cluster([4, 4], [4, 4], [4])
    order = ordered(tree, list(tree.paths))
    assert ring_crossings(tree, order, 20, BLOCK) == 3
    assert ring_crossings(tree, order, 20, RACK) == 5


@pytest.mark.parametrize("seed", range(30))
def test_as_many_rings_are_whole_as_can_be(seed: int) -> None:
    draw = random.Random(seed)
    tree, free = drawn(draw, 200)
    unit = draw.randint(1, 12)
    nodes = len(free) // unit * unit
    chosen = choose(tree, free, nodes, unit)
    assert chosen is not None
    order = ordered(tree, chosen, unit)
    assert sorted(order) == sorted(chosen)
    for level in (BLOCK, RACK):
        whole = sum(
            len({tree.paths[node][level] for node in order[start : start + unit]}) == 1
            for start in range(0, nodes, unit)
        )
        possible = sum(count // unit for count in tree.domains(level, chosen).values())
        assert whole == possible
        random_order = draw.sample(order, len(order))
        assert ring_crossings(tree, order, unit, level) <= ring_crossings(tree, random_order, unit, level)
