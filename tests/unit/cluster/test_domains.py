"""Which nodes of a Ray cluster a run asks for, and what is said where that cannot be."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.cluster.domains import Domains, PlacementRules, free_nodes
from orchestrator.cluster.placement import ClusterState, PlacementRequest, bundle
from orchestrator.config.placement_schema import TopologyUse
from orchestrator.errors import ConfigError
from orchestrator.topology.files import Said
from orchestrator.topology.tree import Tree

ASKED = PlacementRequest(2, bundle(8, gpus=True), 60.0)


def node(name: str, gpus: float = 8.0, **labels: str) -> dict[str, Any]:
    resources = {"CPU": 96.0, "GPU": gpus}
    return {"NodeID": f"id-{name}", "NodeManagerHostname": name, "Resources": resources, "Labels": labels}


def seen(*nodes: dict[str, Any], held: tuple[str, ...] = (), draining: tuple[str, ...] = ()) -> ClusterState:
    taken = {f"id-{name}": [("orchestrator other", {"CPU": 8.0, "GPU": 8.0})] for name in held}
    return ClusterState(list(nodes), taken, frozenset(f"id-{name}" for name in draining))


# Ray tells nodes in no order that means anything.
FOUR = (node("c", rack="r2"), node("a", rack="r1"), node("d", rack="r2"), node("b", rack="r1"))


def rules(use: TopologyUse = TopologyUse.preferred, **more: Any) -> PlacementRules:
    return PlacementRules(use, **more)


def tree_of(domains: Domains, state: ClusterState) -> Tree:
    tree = domains.tree(state.nodes)
    assert tree is not None
    return tree


def chosen(state: ClusterState, asked: PlacementRequest = ASKED, **more: Any) -> list[str] | None:
    domains = Domains(rules(**more))
    return domains.chosen(tree_of(domains, state), asked, state, "orchestrator own")


def test_a_run_takes_a_rack_and_its_nodes_in_order() -> None:
    assert chosen(seen(*FOUR)) == ["id-a", "id-b"]
    assert chosen(seen(*FOUR, held=("b",))) == ["id-c", "id-d"]
    assert chosen(seen(*FOUR, draining=("a",))) == ["id-c", "id-d"]


def test_what_is_preferred_may_be_split_and_what_is_required_may_not() -> None:
    state = seen(*FOUR, held=("a", "c"))
    assert chosen(state) == ["id-b", "id-d"]
    assert chosen(state, use=TopologyUse.required) is None
    assert chosen(seen(*FOUR), use=TopologyUse.required) == ["id-a", "id-b"]


def test_what_is_required_is_in_one_of_the_nearest_domains_that_are_large_enough() -> None:
    nodes = [node(f"{block}{n}", block=block, rack=f"{block}{n // 2}") for block in "xy" for n in range(4)]
    three = PlacementRequest(3, bundle(8, gpus=True), 60.0)
    in_x = chosen(seen(*nodes, held=("x0",)), three, use=TopologyUse.required)
    assert in_x == ["id-x2", "id-x3", "id-x1"], (
        "a block, as no rack has three; nodes of a rack follow each other"
    )
    assert chosen(seen(*nodes, held=("x0", "x1", "y0", "y2")), three, use=TopologyUse.required) is None
    assert chosen(seen(*nodes), three, use=TopologyUse.required, level="rack") is None


def test_nodes_that_are_too_small_or_held_are_not_free() -> None:
    state = seen(node("small", gpus=4.0), *FOUR, held=("a",))
    assert free_nodes(ASKED, state) == ["id-c", "id-d", "id-b"]
    assert free_nodes(ASKED, state, own="orchestrator other") == ["id-c", "id-a", "id-d", "id-b"]
    state.held["id-a"] = [("orchestrator other node 2 attempt 3", {"CPU": 8.0, "GPU": 8.0})]
    assert free_nodes(ASKED, state, own="orchestrator other") == ["id-c", "id-a", "id-d", "id-b"]
    assert free_nodes(ASKED, state, own="orchestrator oth") == ["id-c", "id-d", "id-b"]
    only = PlacementRequest(1, bundle(8, gpus=True), 60.0, ("id-d",))
    assert free_nodes(only, state) == ["id-d"]


def test_where_nobody_says_anything_ray_chooses() -> None:
    assert Domains(rules()).tree([node("a"), node("b")]) is None
    assert Domains(rules(TopologyUse.off)).tree(FOUR) is None


def test_of_nodes_that_are_all_in_one_place_there_is_nothing_to_choose() -> None:
    one = [node(name, **{"ray.io/availability-zone": "z"}) for name in ("a", "b")]
    assert Domains(rules()).tree(one) is None
    assert Domains(rules(TopologyUse.required)).tree(one) is None


def test_what_is_required_of_nodes_without_labels_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"placement.topology=required: no node has a label that says where it is"
    ):
        Domains(rules(TopologyUse.required)).tree([node("a"), node("b")])


def test_a_level_that_no_node_has_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"placement.level=rak: .*; did you mean 'rack'\? \(they have rack\)"
    ):
        Domains(rules(TopologyUse.required, level="rak")).tree(FOUR)


def test_labels_that_contradict_are_refused_by_host() -> None:
    with pytest.raises(ConfigError, match=r"rack 'r' is in block 'x' \(a\) and in block 'y' \(b\)"):
        Domains(rules()).tree([node("a", block="x", rack="r"), node("b", block="y", rack="r")])


def said(**racks: str) -> tuple[Said, ...]:
    return tuple(Said((name,), {"rack": rack}) for name, rack in racks.items())


def test_a_file_wins_over_labels_and_knows_nodes_by_host() -> None:
    file = said(a="r1", c="r1", b="r2", d="r2")
    assert chosen(seen(*FOUR), file="t.yaml", said=file) == ["id-a", "id-c"]


def test_a_file_that_names_others_than_are_there_is_refused() -> None:
    domains = Domains(rules(file="t.yaml", said=said(a="r1", b="r1", c="r2", dd="r2")))
    with pytest.raises(ConfigError) as refused:
        domains.tree(FOUR)
    assert str(refused.value) == (
        "cluster.topology.file=t.yaml: names 'dd', which is not in the cluster, and leaves out 'd'; name nodes by"
        " host or address, or write placement.topology=off"
    )


def test_a_node_of_the_file_that_is_away_is_no_fault_and_one_left_out_is_told_once() -> None:
    told: list[str] = []
    domains = Domains(rules(file="t.yaml", said=said(a="r1", b="r1", c="r2", d="r2", e="r2")), told.append)
    assert domains.tree(FOUR) is not None
    assert told == []
    domains = Domains(rules(file="t.yaml", said=said(a="r1", b="r1", c="r2")), told.append)
    for _ in range(2):
        domains.tree(FOUR)
    assert told == [
        "cluster.topology.file=t.yaml: leaves out 'd', which may be anywhere: each counts as a place of its own"
    ]


def test_a_successor_is_in_the_rack_of_the_lost_node_which_is_gone_from_ray() -> None:
    nodes = [*FOUR, node("e", rack="r2")]
    domains = Domains(rules())
    tree_of(domains, seen(*nodes))
    state = seen(*(each for each in nodes if each["NodeManagerHostname"] != "c"), held=("d",))
    tree = tree_of(domains, state)
    assert domains.successor(tree, "id-c", (), ASKED, state) == "id-e"
    assert domains.successor(tree, "id-c", {"id-e"}, ASKED, state) == "id-a", "e is the run's already"
    taken = seen(*state.nodes, held=("d", "e"))
    assert domains.successor(tree, "id-c", (), ASKED, taken) == "id-a"


def test_what_is_required_has_no_successor_elsewhere() -> None:
    domains = Domains(rules(TopologyUse.required))
    state = seen(*FOUR)
    assert domains.chosen(tree_of(domains, state), ASKED, state, "own") == ["id-a", "id-b"]
    left = seen(*(each for each in FOUR if each["NodeManagerHostname"] != "a"), held=("b",))
    assert domains.successor(tree_of(domains, left), "id-a", (), ASKED, left) is None


def test_what_is_missing_is_said_by_domain() -> None:
    domains = Domains(rules(TopologyUse.required))
    state = seen(*FOUR, held=("a",))
    tree = tree_of(domains, state)
    assert domains.missing(tree, ASKED, state) == (
        "placement.topology=required: the plan needs 2 nodes with 8 CPU, 8 GPU each in one rack, and no rack had so"
        " many free within 60 s (free are 1 of 2 in r1, 2 of 2 in r2); wait for other runs, lower cluster.nodes,"
        " or write placement.topology=preferred to take several"
    )
    assert domains.waiting(tree, ASKED, state) == (
        "waiting up to 60 s for 2 nodes with 8 CPU, 8 GPU each in one rack (free are 1 of 2 in r1, 2 of 2 in r2)"
    )
