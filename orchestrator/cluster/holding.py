"""The bundles of a run, each on the node that was chosen for it: Ray is told their ids.

Of a run that is placed by where nodes are, Ray's own choice is not asked: it packs by resources, and knows of
one level of labels whether a group is in one domain or waits (``topology_strategy``), which neither takes the
fewest of several nor says in which order. A bundle that names its node is not placed anew when the node is
lost; its successor has a group of its own, beside the first.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from ray.util import placement_group_table
from ray.util.placement_group import PlacementGroup, remove_placement_group

from orchestrator.cluster import placement
from orchestrator.cluster.domains import Domains
from orchestrator.cluster.placement import Cancel, ClusterState, Notice, PlacementRequest
from orchestrator.errors import Cancelled, NotEnoughResources
from orchestrator.topology.tree import Tree

# For Ray to give what its table shows as free. Something that is in no table may hold it.
_GIVE_S = 10.0
_TRIES = 3
_LOOK_S = 0.5
_SILENT_S = 1.5


class Lost(Protocol):
    """A node that is gone: Ray's id of it, and what people call it."""

    @property
    def node_id(self) -> str: ...
    @property
    def name(self) -> str: ...


@dataclass(frozen=True)
class Bundle:
    """One node's share of a placement group."""

    group: PlacementGroup
    index: int


@dataclass
class Holding:
    """What a run holds: ``bundles`` by the run's number of the node. ``named``: they name their nodes."""

    bundles: list[Bundle] = field(default_factory=list)
    named: bool = False

    @property
    def groups(self) -> list[PlacementGroup]:
        """Each once."""
        return list({bundle.group.id: bundle.group for bundle in self.bundles}.values())

    def node_ids(self) -> dict[int, str]:
        """By the run's number, of those that are on a node."""
        tables = {group.id: placement_group_table(group)["bundles_to_node_id"] for group in self.groups}
        found = {number: tables[one.group.id].get(one.index) for number, one in enumerate(self.bundles)}
        return {number: str(node_id) for number, node_id in found.items() if node_id}

    def replace(self, number: int, bundle: Bundle) -> None:
        """Another bundle for the run's node with this number. A group of that node alone goes."""
        before, self.bundles[number] = self.bundles[number].group, bundle
        if all(one.group.id != before.id for one in self.bundles):
            remove_placement_group(before)

    def release(self) -> None:
        """Give all of it back."""
        for group in self.groups:
            remove_placement_group(group)
        self.bundles.clear()


def hold(
    name: str,
    asked: PlacementRequest,
    cancelled: Cancel,
    notice: Notice,
    domains: Domains,
    avoid: Sequence[str] = (),
) -> Holding:
    """Hold all that is asked for, in the fewest and nearest domains that are free.

    Where nobody knows where nodes are, or too few are free, Ray chooses among what it has, and only the order
    is ours. Raises what :func:`placement.reserve` does, and :class:`ConfigError` for labels that contradict.
    """
    if asked.nodes == 1:
        return _rays_choice(name, asked, cancelled, notice, domains, avoid)
    deadline_s, noticed = time.monotonic() + asked.wait_s, False
    tries = 0
    while True:
        tree, seen = look(domains, avoid)
        if tree is None:
            return _rays_choice(name, asked, cancelled, notice, domains, avoid)
        chosen = domains.chosen(tree, asked, seen, name)
        if chosen is not None and (group := _on(name, asked, cancelled, avoid, chosen)) is not None:
            return Holding([Bundle(group, index) for index in range(asked.nodes)], named=True)
        tries += chosen is not None
        if not domains.rules.required and (chosen is None or tries >= _TRIES):
            waited_s = round(time.monotonic() - deadline_s + asked.wait_s)
            left = replace(asked, wait_s=max(0.0, asked.wait_s - waited_s))
            return _rays_choice(name, left, cancelled, notice, domains, avoid)
        if time.monotonic() > deadline_s:
            raise NotEnoughResources(domains.missing(tree, asked, seen))
        if not noticed and chosen is None and asked.wait_s > _SILENT_S:
            noticed = True
            notice(domains.waiting(tree, asked, seen))
        _pause(cancelled)


def succeed(
    name: str,
    lost: Lost,
    own: Collection[str],
    asked: PlacementRequest,
    cancelled: Cancel,
    notice: Notice,
    domains: Domains,
    avoid: Sequence[str],
) -> Bundle:
    """A bundle in place of one whose node is gone, on the nearest node that is free and none of the run's
    ``own``, of which one may have room for two. ``asked`` is of one node.

    Raises :class:`NotEnoughResources` and :class:`Cancelled`.
    """
    began_s, noticed = time.monotonic(), ""
    while True:
        tree, seen = look(domains, avoid)
        near = domains.successor(tree, lost.node_id, own, asked, seen)
        if near is not None and (group := _on(name, asked, cancelled, avoid, [near])) is not None:
            return Bundle(group, 0)
        waited_s = time.monotonic() - began_s
        if waited_s > asked.wait_s:
            what = placement.missing(asked, seen)
            raise NotEnoughResources(f"{lost.name} left the cluster and nothing took its place: {what}")
        if waited_s > _SILENT_S and (text := placement.waiting(asked, seen)) != noticed:
            noticed = text
            notice(text)
        _pause(cancelled)


def look(domains: Domains, avoid: Sequence[str]) -> tuple[Tree | None, ClusterState]:
    """The cluster as it is now; nothing is to start on nodes to ``avoid``, as on those that are drained."""
    seen = placement.inspect_cluster()
    seen = replace(seen, draining=seen.draining | frozenset(avoid))
    return domains.tree(seen.nodes), seen


def _rays_choice(
    name: str,
    asked: PlacementRequest,
    cancelled: Cancel,
    notice: Notice,
    domains: Domains,
    avoid: Sequence[str],
) -> Holding:
    """Where Ray finds room. Of nodes that it chose the order is ours."""
    group = placement.reserve(name, asked, cancelled, notice, avoid)
    bundles = {
        node_id: index for index, node_id in placement_group_table(group)["bundles_to_node_id"].items()
    }
    order = list(bundles)
    try:
        tree = look(domains, avoid)[0] if asked.nodes > 1 else None
        if tree is not None and len(bundles) == asked.nodes and all(each in tree.paths for each in bundles):
            order = domains.in_order(tree, list(bundles))
    except BaseException:
        remove_placement_group(group)
        raise
    if len(order) < asked.nodes:  # one has been lost meanwhile
        return Holding([Bundle(group, index) for index in range(asked.nodes)])
    return Holding([Bundle(group, bundles[node_id]) for node_id in order])


def _on(
    name: str, asked: PlacementRequest, cancelled: Cancel, avoid: Sequence[str], nodes: Sequence[str]
) -> PlacementGroup | None:
    """None where Ray does not give what looked free, or a node has gone."""
    try:
        soon = replace(asked, wait_s=_GIVE_S)
        return placement.reserve(name, soon, cancelled, lambda _text: None, avoid, nodes)
    except NotEnoughResources:
        return None


def _pause(cancelled: Cancel) -> None:
    if cancelled():
        raise Cancelled("stopped while waiting for resources")
    time.sleep(_LOOK_S)
