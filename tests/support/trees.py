"""Clusters that are not there: nodes in racks and blocks, some of them free."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import combinations

from orchestrator.topology.levels import levels_of
from orchestrator.topology.tree import Labelled, Tree, tree_of

BLOCK, RACK = 0, 1


def cluster(*blocks: Sequence[int]) -> Tree:
    """Of each block the sizes of its racks; a node is called by block, rack and its own number."""
    nodes = [
        Labelled(
            f"b{block}r{rack}n{number}",
            f"host-{block}-{rack}-{number}",
            {"block": f"b{block}", "rack": f"b{block}r{rack}"},
        )
        for block, racks in enumerate(blocks)
        for rack, size in enumerate(racks)
        for number in range(size)
    ]
    return tree_of(levels_of(["block", "rack"]), nodes)


def drawn(draw: random.Random, nodes: int) -> tuple[Tree, list[str]]:
    """A cluster of about so many nodes, with racks and blocks of any size, and its free nodes in the order of
    Ray's ids, which says nothing of where they are."""
    blocks, left = [], nodes
    while left > 0:
        racks = [draw.randint(1, 8) for _ in range(draw.randint(1, 12))]
        blocks.append(racks)
        left -= sum(racks)
    tree = cluster(*blocks)
    share = draw.uniform(0.2, 1.0)
    free = [node for node in tree.paths if draw.random() < share]
    draw.shuffle(free)
    return tree, free


def aims(tree: Tree, nodes: Sequence[str], unit: int, ratio: float = 1.0) -> tuple[int, ...]:
    """What a choice is judged by, most important first, less is better: domains, units that are not whole in
    one, and hundredths that a ring waits for thin parts of an oversubscribed network, far to near."""
    found: list[int] = []
    for level in range(len(tree.levels)):
        counts = tree.domains(level, nodes).values()
        thin = sum(int(max(0.0, ratio / count - 1) * 100) for count in counts if count < len(nodes))
        found += [len(counts), -sum(count // unit for count in counts), thin]
    return tuple(found)


def best(tree: Tree, free: Sequence[str], nodes: int, unit: int, ratio: float) -> tuple[int, ...]:
    """The best that any choice can do, by trying them all."""
    return min(aims(tree, chosen, unit, ratio) for chosen in combinations(free, nodes))


def ring_crossings(tree: Tree, nodes: Sequence[str], unit: int, level: int) -> int:
    """How often the rings of each unit go from one domain into another."""
    crossings = 0
    for start in range(0, len(nodes), unit):
        ring = [tree.paths[node][level] for node in nodes[start : start + unit]]
        crossings += sum(one != other for one, other in zip(ring, [*ring[1:], ring[0]], strict=True))
    return crossings
