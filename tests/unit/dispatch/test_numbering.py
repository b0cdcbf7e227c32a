"""Nodes of a pool are numbered along the network, so that a gang's numbers are near each other."""

from __future__ import annotations

from orchestrator.dispatch.numbering import along_the_tree
from orchestrator.dispatch.seen import SeenNode


def seen(host: str, **labels: str) -> SeenNode:
    return SeenNode(f"id of {host}", host, 8.0, 8.0, tuple(labels.items()))


def test_racks_are_together_and_hosts_in_the_order_of_their_numbers() -> None:
    nodes = [
        seen("host-10", block="b1", rack="r2"), seen("host-1", block="b2", rack="r1"), seen("host-9", block="b1", rack="r2"),
        seen("host-3"), seen("host-2", block="b1", rack="r10"),
    ]  # fmt: skip
    assert [node.host for node in along_the_tree(nodes)] == [
        "host-9",
        "host-10",
        "host-2",
        "host-1",
        "host-3",
    ]
