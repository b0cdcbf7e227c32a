"""What a run holds of a cluster while it lives, and where that is: nodes are lost, given up and replaced."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import ray

from orchestrator.cluster import holding, placement
from orchestrator.cluster.domains import Domains, PlacementRules
from orchestrator.cluster.holding import Bundle, Holding
from orchestrator.cluster.placement import Cancel, Notice, PlacementRequest


@dataclass(frozen=True)
class Gone:
    """A node whose agent is lost: the number of its bundle, Ray's id of it and what people call it."""

    bundle: int
    node_id: str
    name: str


class Held:
    """The bundles of a run called ``name``, none at first. ``avoided`` tells the ids of nodes to leave
    out."""

    def __init__(
        self, name: str, rules: PlacementRules, notice: Notice, avoided: Callable[[], list[str]]
    ) -> None:
        self._name, self._notice, self._avoided = name, notice, avoided
        self._domains = Domains(rules, notice)
        self._holding = Holding()
        self.cancelled: Cancel = lambda: False

    def hold(self, asked: PlacementRequest) -> None:
        """Take nodes, after those that were held before have been given back."""
        self._holding.release()
        self._holding = holding.hold(
            self._name, asked, self.cancelled, self._notice, self._domains, self._avoided()
        )

    def release(self) -> None:
        """Give all of it back."""
        self._holding.release()

    @property
    def named(self) -> bool:
        """Whether its bundles name their nodes, so that Ray places none of them anew."""
        return self._holding.named

    def bundle(self, index: int) -> Bundle:
        """Of this number."""
        return self._holding.bundles[index]

    def node_ids(self) -> dict[int, str]:
        """By the bundle's number, of those that are on a node."""
        return self._holding.node_ids()

    def regain(self, lost: Sequence[Gone], asked: PlacementRequest, suffix: str) -> None:
        """A bundle for each: its own where only the agent died, or where Ray has placed it anew; of a node
        that was chosen, and is gone, another near it."""
        if not self._holding.named:
            for group in self._holding.groups:
                placement.regain(group, [each.name for each in lost], asked, self.cancelled, self._notice)
            return
        alive, one = {node["NodeID"] for node in ray.nodes() if node["Alive"]}, replace(asked, nodes=1)
        for each in lost:
            if each.node_id not in alive:
                name = placement.successor_name(self._name, each.bundle, suffix)
                own = set(self.node_ids().values())
                found = holding.succeed(
                    name, each, own, one, self.cancelled, self._notice, self._domains, self._avoided()
                )
                self._holding.replace(each.bundle, found)

    def crossed(self, node_ids: Sequence[str]) -> dict[str, int]:
        """In how many domains of each level these nodes are; empty for one, and where nobody has said."""
        tree = self._domains.tree(ray.nodes()) if len(node_ids) > 1 else None
        known = tree is not None and all(each in tree.paths for each in node_ids)
        return tree.crossed(node_ids) if tree is not None and known else {}

    def move_in_words(self, before: Gone, after: Gone) -> str | None:
        """What is said of a successor in another domain than its predecessor's: what its ranks send goes
        further now. None where it is in the same, or nobody has said."""
        tree = self._domains.tree(ray.nodes())
        if tree is None or not {before.node_id, after.node_id} <= tree.paths.keys():
            return None
        level = tree.nearness(before.node_id, after.node_id)
        if level == len(tree.levels):
            return None
        here, there = (tree.domain(node.node_id, level) or "one unknown" for node in (after, before))
        another = f"another {tree.levels[level]}: {here} instead of {there}"
        return f"{after.name} takes the place of {before.name}, in {another}"
