"""In which order a pool's nodes get their numbers: along the tree of the network.

A gang takes the first numbers that are free, so that with neighbouring numbers it has near nodes; which of
them comes first in its ranks the run finds by itself.
"""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator.dispatch.seen import SeenNode
from orchestrator.topology.levels import KNOWN, domain_at
from orchestrator.topology.tree import natural


def along_the_tree(nodes: Iterable[SeenNode]) -> list[SeenNode]:
    """By zone, block, rack and so on as their labels say, then by host; those that say nothing come last."""

    def place(node: SeenNode) -> tuple[object, ...]:
        labels = dict(node.labels)
        domains = [domain_at(level, labels) for level in KNOWN]
        return [(not domain, natural(domain)) for domain in domains], natural(node.host), node.node_id

    return sorted(nodes, key=place)
