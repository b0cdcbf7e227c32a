"""What is said of a cluster that is too small or taken."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.cluster.placement import (
    ClusterState,
    PlacementRequest,
    bundle,
    check_named_nodes,
    missing,
    waiting,
)
from orchestrator.errors import NotEnoughResources


def node(name: str, **resources: float) -> dict[str, Any]:
    return {"NodeID": f"id-{name}", "NodeManagerHostname": name, "Resources": resources}


ASKED = PlacementRequest(2, bundle(8, gpus=True), 60.0)


def test_a_bundle_is_gpus_with_a_cpu_each_or_cpus() -> None:
    assert bundle(8, gpus=True) == {"CPU": 8.0, "GPU": 8.0}
    assert bundle(2, gpus=False) == {"CPU": 2.0}


def test_a_cluster_that_is_too_small_is_told_node_by_node() -> None:
    seen = ClusterState([node("a", CPU=96.0, GPU=8.0, memory=1e12), node("b", CPU=96.0)])
    assert (
        missing(ASKED, seen)
        == "the plan needs 2 nodes with 8 CPU, 8 GPU each, the cluster has 1 such (a has 96 CPU, 8 GPU; b has"
        " 96 CPU, 0 GPU); add nodes, or lower cluster.nodes or cluster.gpus_per_node"
    )


def test_what_others_hold_has_their_name() -> None:
    taken = {"id-b": [("orchestrator big", {"CPU": 8.0, "GPU": 8.0, "memory": 1.0}), ("", {"CPU": 1.0})]}
    seen = ClusterState([node("a", CPU=96.0, GPU=8.0), node("b", CPU=96.0, GPU=8.0)], taken)
    text = missing(ASKED, seen)
    assert text.startswith(
        "2 nodes with 8 CPU, 8 GPU each were not free within 60 s (a has 96 CPU, 8 GPU; b has "
    )
    assert (
        "b has 96 CPU, 8 GPU, of which 'orchestrator big' holds 8 CPU, 8 GPU and 'a placement group' holds 1 "
        in text
    )
    assert text.endswith("wait for the other runs, or raise launch.wait_for_resources_s")


def test_a_node_that_is_being_drained_counts_for_nothing() -> None:
    seen = ClusterState(
        [node("a", CPU=96.0, GPU=8.0), node("b", CPU=96.0, GPU=8.0)], draining=frozenset({"id-b"})
    )
    assert (
        missing(ASKED, seen)
        == "the plan needs 2 nodes with 8 CPU, 8 GPU each, the cluster has 1 such (a has 96 CPU, 8 GPU; b has"
        " 96 CPU, 8 GPU, and is being drained); add nodes, or lower cluster.nodes or cluster.gpus_per_node"
    )


def test_a_large_cluster_is_not_listed_whole() -> None:
    seen = ClusterState([node(f"n{number}", CPU=4.0) for number in range(100)])
    text = waiting(PlacementRequest(1, {"CPU": 8.0}, 5.0), seen)
    assert text.startswith("waiting up to 5 s for 1 node with 8 CPU each: n0 has 4 CPU; ")
    assert text.endswith("n7 has 4 CPU; and 92 more")


ON_TWO = PlacementRequest(2, bundle(8, gpus=True), 60.0, ("id-a", "id-b", "id-c"))


def test_nodes_that_are_named_are_the_only_ones_asked() -> None:
    assert ASKED.selector([]) == {}
    assert ASKED.selector(["id-a"]) == {"ray.io/node-id": "!in(id-a)"}
    assert ON_TWO.selector([]) == {"ray.io/node-id": "in(id-a,id-b,id-c)"}
    assert ON_TWO.selector(["id-b"]) == {"ray.io/node-id": "in(id-a,id-c)"}
    seen = ClusterState([node(name, CPU=96.0, GPU=8.0) for name in ("a", "x", "y")])
    assert missing(ON_TWO, seen).startswith(
        "the plan needs 2 nodes with 8 CPU, 8 GPU each among those of launch.node_ids, the cluster has 1 such"
    )


def test_named_nodes_that_are_gone_are_not_waited_for() -> None:
    check_named_nodes(ASKED, [], [])
    check_named_nodes(ON_TWO, ["id-a", "id-b", "id-x"], [])
    with pytest.raises(NotEnoughResources, match=r"of those named 1 can be had \(id-b, id-c cannot\)"):
        check_named_nodes(ON_TWO, ["id-a", "id-b"], avoid=["id-b"])
