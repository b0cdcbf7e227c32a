"""A run takes the fewest and nearest domains that hold it."""

from __future__ import annotations

import random
import time

import pytest

from orchestrator.topology.choose import choose, nearest
from orchestrator.topology.levels import levels_of
from orchestrator.topology.tree import Labelled, Tree, tree_of
from tests.support.trees import BLOCK, RACK, aims, best, cluster, drawn

# Of processor time. A machine of its own takes a fifth of it, the worst cluster among those tried included.
MOST_S = 1.0


def racks(tree: Tree, nodes: list[str] | None) -> list[str]:
    assert nodes is not None
    return sorted(tree.domains(RACK, nodes))


def test_a_run_that_fits_one_rack_is_in_one() -> None:
    tree = cluster([3, 4], [8])
    assert racks(tree, choose(tree, list(tree.paths), 4)) == ["b0r1"], "the smallest that is large enough"
    assert racks(tree, choose(tree, list(tree.paths), 5)) == ["b1r0"]


def test_one_block_is_better_than_few_racks_of_two() -> None:
    tree = cluster([2, 2, 2, 2], [5], [3])
    assert racks(tree, choose(tree, list(tree.paths), 8)) == ["b0r0", "b0r1", "b0r2", "b0r3"]


def test_whole_racks_stay_whole_for_others() -> None:
    tree = cluster([8, 8])
    free = [node for node in tree.paths if node not in ("b0r0n0", "b0r0n1", "b0r0n2")]
    assert racks(tree, choose(tree, free, 5)) == ["b0r0"]


def test_units_are_not_torn_where_as_many_domains_do_without() -> None:
    tree = cluster([5], [4, 2], [4])
    chosen = choose(tree, list(tree.paths), 8, unit=4)
    assert chosen is not None
    assert aims(tree, chosen, 4)[:2] == (2, -2)


def test_a_split_that_cannot_be_helped_leaves_no_part_too_thin_for_its_uplink() -> None:
    tree = cluster([14], [14])
    assert sorted(tree.domains(BLOCK, choose(tree, list(tree.paths), 16) or []).values()) == [2, 14]
    even = choose(tree, list(tree.paths), 16, oversubscription={"block": 7.0})
    assert min(tree.domains(BLOCK, even or []).values()) == 7, "whose share carries what one node sends"


def test_too_few_are_no_choice() -> None:
    tree = cluster([2, 2])
    assert choose(tree, list(tree.paths), 5) is None
    assert choose(tree, [], 1) is None


def test_what_is_required_is_within_one_domain_or_not_at_all() -> None:
    tree = cluster([2, 3], [4])
    assert choose(tree, list(tree.paths), 5, within=RACK) is None
    assert racks(tree, choose(tree, list(tree.paths), 5, within=BLOCK)) == ["b0r0", "b0r1"]
    assert racks(tree, choose(tree, list(tree.paths), 3, within=RACK)) == ["b0r1"]


def test_nodes_of_which_nobody_has_said_are_far_from_all() -> None:
    said = [Labelled(f"n{number}", f"n{number}", {"rack": "r"} if number > 3 else {}) for number in range(8)]
    tree = tree_of(levels_of(["rack"]), said)
    assert choose(tree, list(tree.paths), 4) == ["n4", "n5", "n6", "n7"]
    assert len(tree.domains(0, ["n0", "n1", "n4", "n5"])) == 3


@pytest.mark.parametrize("seed", range(60))
def test_nothing_is_better_on_small_clusters(seed: int) -> None:
    draw = random.Random(seed)
    tree = cluster(
        *([draw.randint(1, 4) for _ in range(draw.randint(1, 3))] for _ in range(draw.randint(1, 3)))
    )
    free = [node for node in tree.paths if draw.random() < 0.8][:11]
    for nodes in range(1, len(free) + 1):
        unit = draw.choice([size for size in range(1, nodes + 1) if nodes % size == 0])
        ratio = draw.choice([1.0, 2.5, 7.0])
        chosen = choose(tree, free, nodes, unit, oversubscription=dict.fromkeys(tree.levels, ratio))
        assert chosen is not None
        assert sorted(set(chosen)) == sorted(chosen)
        assert set(chosen) <= set(free)
        assert aims(tree, chosen, unit, ratio) == best(tree, free, nodes, unit, ratio), (free, nodes, unit)


@pytest.mark.parametrize(
    ("nodes", "seed"), [(size, seed) for size in (10, 100, 1_000) for seed in range(8)] + [(5_000, 1)]
)
def test_it_is_never_worse_than_the_first_that_are_free(nodes: int, seed: int) -> None:
    """So Ray packs a group: in the order of its ids, or of what nodes have left."""
    draw = random.Random(seed)
    tree, free = drawn(draw, nodes)
    wanted = draw.randint(1, len(free))
    chosen = choose(tree, free, wanted)
    assert chosen is not None
    assert aims(tree, chosen, wanted) <= aims(tree, free[:wanted], wanted)
    assert len(tree.domains(BLOCK, chosen)) <= len(tree.domains(BLOCK, free[:wanted]))


def test_five_thousand_nodes_take_no_time_that_anybody_waits_for() -> None:
    draw = random.Random(7)
    tree = cluster(*([4] * 25 for _ in range(50)))
    free = [node for node in tree.paths if draw.random() < 0.9]
    began_s = time.process_time()
    assert choose(tree, free, len(free) // 2, unit=8) is not None
    assert time.process_time() - began_s < MOST_S


def test_a_lost_node_is_replaced_in_its_rack_then_in_its_block() -> None:
    tree = cluster([2, 2], [4])
    assert nearest(tree, "b0r0n0", ["b1r0n0", "b0r1n0", "b0r0n1"]) == "b0r0n1"
    assert nearest(tree, "b0r0n0", ["b1r0n0", "b0r1n1"]) == "b0r1n1"
    assert nearest(tree, "b0r0n0", ["b1r0n0"]) == "b1r0n0"
    assert nearest(tree, "b0r0n0", []) is None


def test_a_successor_is_of_a_rack_that_is_begun() -> None:
    tree = cluster([2, 4, 4])
    assert nearest(tree, "b0r0n0", ["b0r1n0", "b0r1n1", "b0r2n3"]) == "b0r2n3"
