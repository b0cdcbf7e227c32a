"""One placement group bundle per node: all nodes or none."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RaySystemError
from ray.util import placement_group_table
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from orchestrator.cluster.draining import draining_nodes
from orchestrator.cluster.ray_errors import is_name_taken
from orchestrator.errors import Cancelled, ClusterError, NotEnoughResources

_ASK_S = 0.5
# A wait that is over sooner is not worth a line.
_SILENT_S = 1.5
_MOST_NAMED = 8
_SUCCESSOR = " node "
# Ray gives each node this label.
_NODE_ID = "ray.io/node-id"

Cancel = Callable[[], bool]
Notice = Callable[[str], None]


@dataclass(frozen=True)
class PlacementRequest:
    """``nodes`` bundles of ``needs`` on as many different nodes, within ``wait_s``. ``only`` are the ids of
    the nodes that may give them; empty is any."""

    nodes: int
    needs: dict[str, float]
    wait_s: float
    only: tuple[str, ...] = ()

    def __str__(self) -> str:
        among = " among those of launch.node_ids" if self.only else ""
        return (
            f"{self.nodes} node{'s' if self.nodes != 1 else ''} with"
            f" {_amounts(self.needs, self.needs)} each{among}"
        )

    def may_give(self, node_id: str) -> bool:
        """Whether the node with this id is among those that are asked."""
        return not self.only or node_id in self.only

    def selector(self, avoid: Sequence[str]) -> dict[str, str]:
        """The labels by which Ray is told which nodes may give a bundle; empty for any."""
        if self.only:
            return {_NODE_ID: f"in({','.join(each for each in self.only if each not in avoid)})"}
        return {_NODE_ID: f"!in({','.join(avoid)})"} if avoid else {}


@dataclass
class ClusterState:
    """A look at the cluster: the nodes alive, as :func:`ray.nodes` has them, and which placement groups
    hold what of each: name and bundle by node id; ``draining`` are ids of nodes on which nothing starts
    any more."""

    nodes: list[dict[str, Any]]
    held: dict[str, list[tuple[str, dict[str, float]]]] = field(default_factory=dict)
    draining: frozenset[str] = frozenset()


def bundle(ranks_per_node: int, gpus: bool) -> dict[str, float]:
    """What one node gives: its ranks' GPUs with a CPU each, or a CPU per rank."""
    return {"CPU": float(ranks_per_node)} | ({"GPU": float(ranks_per_node)} if gpus else {})


def reserve(
    name: str,
    asked: PlacementRequest,
    cancelled: Cancel,
    notice: Notice,
    avoid: Sequence[str] = (),
    on: Sequence[str] = (),
) -> PlacementGroup:
    """Hold all that is asked for, on nodes whose ids are not among those to ``avoid``, or ``on`` these, a
    bundle on each in their order.

    While it waits, ``notice`` is told for what, and again when the cluster has changed. Raises
    :class:`NotEnoughResources` in the end (nodes may still join), naming what is missing, and
    :class:`Cancelled`. Nothing stays held after an error.
    """
    strategy = "STRICT_SPREAD" if asked.nodes > 1 else "PACK"
    check_named_nodes(asked, [str(node["NodeID"]) for node in ray.nodes() if node["Alive"]], avoid)
    try:
        where = asked.selector(avoid)
        selectors = [{_NODE_ID: node_id} for node_id in on] or [where] * asked.nodes
        group = placement_group(
            [asked.needs] * asked.nodes,
            strategy=strategy,
            name=name,
            bundle_label_selector=selectors if on or where else None,
        )
    except RaySystemError as error:
        if not is_name_taken(error):
            raise
        raise ClusterError(f"'{name}' is on this cluster already; choose another run_name") from None
    try:
        if not _wait(lambda: bool(group.wait(_ASK_S)), asked, cancelled, notice):
            raise NotEnoughResources(missing(asked, inspect_cluster()))
    except BaseException:
        remove_placement_group(group)
        raise
    return group


def group_name(run: str) -> str:
    """By which the nodes of a run are held."""
    return f"orchestrator {run}"


def successor_name(own: str, index: int, suffix: str) -> str:
    """Of the group of one node that came in place of another."""
    return f"{own}{_SUCCESSOR}{index + 1}{suffix}"


def is_group_of(name: str, own: str) -> bool:
    """Whether nodes are held by this name for the run whose nodes are held by ``own``."""
    return name == own or name.startswith(own + _SUCCESSOR)


def check_named_nodes(asked: PlacementRequest, alive: Sequence[str], avoid: Sequence[str]) -> None:
    """Raises :class:`NotEnoughResources` where the nodes that were named cannot be enough: nothing would come
    of waiting for an id, which a node that comes back has not any more."""
    if not asked.only:
        return
    left = [each for each in asked.only if each in alive and each not in avoid]
    if len(left) < asked.nodes:
        gone = ", ".join([each for each in asked.only if each not in left][:_MOST_NAMED])
        raise NotEnoughResources(
            f"launch.node_ids: {asked.nodes} node{'s' if asked.nodes != 1 else ''} are needed, and of those"
            f" named {len(left)} can be had{f' ({gone} cannot)' if gone else ''};"
            " 'orchestrator status --json' has the ids of those that are alive, or leave the key out"
        )


def regain(
    group: PlacementGroup, lost: Sequence[str], asked: PlacementRequest, cancelled: Cancel, notice: Notice
) -> None:
    """Wait until Ray has placed the bundles of ``lost`` nodes anew, which it does by itself.

    Raises :class:`NotEnoughResources` and :class:`Cancelled`.
    """

    def placed() -> bool:
        time.sleep(_ASK_S)
        return bool(placement_group_table(group)["state"] == "CREATED")

    if placement_group_table(group)["state"] == "CREATED":
        return
    if not _wait(placed, asked, cancelled, notice):
        what = missing(asked, inspect_cluster())
        raise NotEnoughResources(f"{', '.join(lost)} left the cluster and nothing took its place: {what}")


def missing(asked: PlacementRequest, seen: ClusterState) -> str:
    """Which of the nodes cannot give a bundle, and what each lacks."""
    able = sum(
        not _lacks(node["Resources"], asked.needs)
        and node["NodeID"] not in seen.draining
        and asked.may_give(node["NodeID"])
        for node in seen.nodes
    )
    found = _found(asked.needs, seen)
    if able < asked.nodes:
        return (
            f"the plan needs {asked}, the cluster has {able} such ({found}); "
            "add nodes, or lower cluster.nodes or cluster.gpus_per_node"
        )
    return (
        f"{asked} were not free within {asked.wait_s:g} s ({found}); "
        "wait for the other runs, or raise launch.wait_for_resources_s"
    )


def waiting(asked: PlacementRequest, seen: ClusterState) -> str:
    """What is said while there is hope."""
    return f"waiting up to {asked.wait_s:g} s for {asked}: {_found(asked.needs, seen)}"


def _wait(placed: Cancel, asked: PlacementRequest, cancelled: Cancel, notice: Notice) -> bool:
    """Whether it came true in time; ``placed`` takes its time to answer."""
    began_s, noticed = time.monotonic(), ""
    while not placed():
        if cancelled():
            raise Cancelled("stopped while waiting for resources")
        waited_s = time.monotonic() - began_s
        if waited_s > asked.wait_s:
            return False
        if waited_s > _SILENT_S and (text := waiting(asked, inspect_cluster())) != noticed:
            noticed = text
            notice(text)
    return True


def inspect_cluster() -> ClusterState:
    """What the cluster has and who holds it; ``ray`` is initialised already."""
    seen = ClusterState([node for node in ray.nodes() if node["Alive"]], draining=frozenset(draining_nodes()))
    for group in placement_group_table().values():
        if group["state"] == "CREATED":
            for index, node_id in group["bundles_to_node_id"].items():
                seen.held.setdefault(node_id, []).append((group["name"], group["bundles"][index]))
    return seen


def _found(needs: Mapping[str, float], seen: ClusterState) -> str:
    found = []
    for node in seen.nodes[:_MOST_NAMED]:
        found.append(f"{node['NodeManagerHostname']} has {_amounts(node['Resources'], needs)}")
        held = seen.held.get(node["NodeID"], [])
        holders = [
            f"'{name or 'a placement group'}' holds {_amounts(bundle, needs)}" for name, bundle in held
        ]
        found[-1] += f", of which {' and '.join(holders)}" if holders else ""
        found[-1] += ", and is being drained" if node["NodeID"] in seen.draining else ""
    more = len(seen.nodes) - _MOST_NAMED
    return "; ".join([*found, f"and {more} more"] if more > 0 else found)


def _amounts(resources: Mapping[str, Any], needs: Mapping[str, float]) -> str:
    return ", ".join(f"{resources.get(kind, 0.0):g} {kind}" for kind in needs)


def _lacks(resources: Mapping[str, Any], needs: Mapping[str, float]) -> bool:
    return any(resources.get(kind, 0.0) < amount for kind, amount in needs.items())
