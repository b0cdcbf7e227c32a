"""Labels of nodes make a tree, or are refused."""

from __future__ import annotations

import pytest

from orchestrator.errors import ConfigError
from orchestrator.topology.levels import levels_of
from orchestrator.topology.tree import Labelled, in_words, tree_of


def labelled(**nodes: dict[str, str]) -> list[Labelled]:
    return [Labelled(name, name, labels) for name, labels in nodes.items()]


def test_levels_are_known_by_the_labels_that_clouds_give() -> None:
    tree = tree_of(
        levels_of([]),
        labelled(
            a={"network.topology.nvidia.com/leaf": "s1", "network.topology.nvidia.com/spine": "t1"},
            b={"cloud.google.com/gce-topology-subblock": "s2", "cloud.google.com/gce-topology-block": "t1"},
            c={"color": "blue", "rack": "s2", "block": "t1"},
        ),
    )
    assert tree.levels == ("block", "rack")
    assert tree.crossed(["a", "b", "c"]) == {"block": 1, "rack": 2}


def test_labels_of_a_site_s_own_are_levels_far_to_near() -> None:
    tree = tree_of(
        levels_of(["hall", "row"]), labelled(a={"hall": "h", "row": "1"}, b={"hall": "h", "row": "2"})
    )
    assert tree.crossed(["a", "b"]) == {"hall": 1, "row": 2}
    assert in_words(tree.crossed(["a", "b"])) == "1 hall, 2 rows"


def test_a_node_that_leaves_out_its_block_has_that_of_its_rack() -> None:
    tree = tree_of(
        levels_of(["block", "rack"]),
        labelled(a={"rack": "r1"}, b={"rack": "r1", "block": "b1"}, c={"rack": "r2"}, d={"rack": "r2"}, e={}),
    )
    assert tree.crossed(["a", "b"]) == {"block": 1, "rack": 1}
    assert tree.crossed(["c", "d"]) == {"block": 1, "rack": 1}, "it is in one, whichever"
    assert tree.crossed(["a", "c", "e"]) == {"block": 3, "rack": 3}
    assert (tree.domain("a", 0), tree.domain("c", 0), tree.domain("e", 1)) == ("b1", "", "")


def test_a_rack_in_two_blocks_is_refused_by_name() -> None:
    with pytest.raises(ConfigError) as refused:
        tree_of(
            levels_of(["block", "rack"]),
            labelled(host1={"block": "b1", "rack": "r1"}, host2={"block": "b2", "rack": "r1"}),
        )
    assert str(refused.value) == (
        "labels of nodes: rack 'r1' is in block 'b1' (host1) and in block 'b2' (host2), and a rack can be in one"
        " block only; mend the labels, give racks of two blocks two names, or write placement.topology=off"
    )


def test_levels_named_twice_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"cluster.topology.levels=\[rack,rack\]: has 'rack' twice"):
        levels_of(["rack", "rack"])


def test_hosts_are_in_the_order_of_their_numbers() -> None:
    tree = tree_of(levels_of([]), labelled(**{f"host-{number}": {"rack": "r"} for number in (10, 2, 1)}))
    assert tree.in_order(tree.paths) == ["host-1", "host-2", "host-10"]
