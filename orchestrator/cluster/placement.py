"""One placement group bundle per node: all nodes or none."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import RaySystemError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from orchestrator.errors import Cancelled, ClusterError, NotEnoughResources

_ASK_S = 0.5


def bundle(ranks_per_node: int, gpus: bool) -> dict[str, float]:
    """What one node gives: its ranks' GPUs with a CPU each, or a CPU per rank."""
    return {"CPU": float(ranks_per_node)} | ({"GPU": float(ranks_per_node)} if gpus else {})


def reserve(
    name: str, nodes: int, needs: dict[str, float], wait_s: float, cancelled: Callable[[], bool]
) -> PlacementGroup:
    """Hold ``nodes`` bundles on as many different nodes.

    Raises :class:`NotEnoughResources` after ``wait_s`` (nodes may still join), naming what is
    missing, and :class:`Cancelled`. Nothing stays held after an error.
    """
    try:
        group = placement_group([needs] * nodes, strategy="STRICT_SPREAD" if nodes > 1 else "PACK", name=name)
    except RaySystemError as error:
        if "already exists" not in str(error):
            raise
        raise ClusterError(f"'{name}' is on this cluster already; choose another run_name") from None
    deadline = time.monotonic() + wait_s
    try:
        while not group.wait(_ASK_S):
            if cancelled():
                raise Cancelled("stopped while waiting for resources")
            if time.monotonic() > deadline:
                raise NotEnoughResources(missing(nodes, needs, wait_s))
    except BaseException:
        remove_placement_group(group)
        raise
    return group


def missing(nodes: int, needs: dict[str, float], wait_s: float) -> str:
    """Which of the nodes can not give a bundle, and what each lacks."""
    alive = [node for node in ray.nodes() if node["Alive"]]
    wanted = ", ".join(f"{amount:g} {kind}" for kind, amount in needs.items())
    able = [node for node in alive if not _lacks(node["Resources"], needs)]
    found = "; ".join(f"{n['NodeManagerHostname']} has {_gives(n['Resources'], needs)}" for n in alive)
    if len(able) < nodes:
        return (
            f"the plan needs {_nodes(nodes)} with {wanted} each, the cluster has {len(able)} such "
            f"({found}); add nodes, or lower cluster.nodes or cluster.gpus_per_node"
        )
    return (
        f"{_nodes(nodes)} with {wanted} each were not free within {wait_s:g} s ({found}; others hold them); "
        "wait for the other runs, or raise launch.wait_for_resources_s"
    )


def _nodes(count: int) -> str:
    return f"{count} node{'s' if count != 1 else ''}"


def _lacks(resources: dict[str, Any], needs: dict[str, float]) -> bool:
    return any(resources.get(kind, 0.0) < amount for kind, amount in needs.items())


def _gives(resources: dict[str, Any], needs: dict[str, float]) -> str:
    return ", ".join(f"{resources.get(kind, 0.0):g} {kind}" for kind in needs)
