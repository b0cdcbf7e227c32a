"""The tree that labels make of a cluster's nodes: each domain is in one of the level above."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.errors import ConfigError
from orchestrator.text import plural
from orchestrator.topology.levels import Level, domain_at

# No label begins so: it marks a domain that one node makes of which nobody has said where it is.
_ALONE = "\0"
_DIGITS = re.compile(r"(\d+)")


@dataclass(frozen=True)
class Labelled:
    """A node by what it is called in the cluster, by people, and what is said of it."""

    node: str
    name: str
    labels: Mapping[str, str]


@dataclass(frozen=True)
class Tree:
    """``paths`` leads to each node, far to near: the domain at each of ``levels``. A node of which nobody has
    said it is in a domain of its own, as far from all others as that level is."""

    levels: tuple[str, ...]
    paths: Mapping[str, tuple[str, ...]]
    names: Mapping[str, str]

    def domains(self, level: int, nodes: Iterable[str]) -> dict[str, int]:
        """How many of these nodes are in each of the domains in which one is."""
        found: dict[str, int] = {}
        for node in nodes:
            domain = self.paths[node][level]
            found[domain] = found.get(domain, 0) + 1
        return found

    def crossed(self, nodes: Sequence[str]) -> dict[str, int]:
        """How many domains of each level these nodes are in, far to near."""
        return {level: len(self.domains(place, nodes)) for place, level in enumerate(self.levels)}

    def nearness(self, one: str, other: str) -> int:
        """How many levels two nodes have in common."""
        shared = 0
        for mine, theirs in zip(self.paths[one], self.paths[other], strict=True):
            if mine != theirs:
                break
            shared += 1
        return shared

    def domain(self, node: str, level: int) -> str:
        """What people call the domain of a node; empty where nobody has said."""
        found = self.paths[node][level]
        return "" if found.startswith(_ALONE) else found

    def in_order(self, nodes: Iterable[str]) -> list[str]:
        """By what people call them, numbers by their size: host-2 before host-10."""
        return sorted(nodes, key=lambda node: (natural(self.names[node]), node))


def tree_of(levels: Sequence[Level], nodes: Sequence[Labelled], where: str = "") -> Tree:
    """Of the levels only those that some node has a label of. ``where`` the labels are from is said in a
    refusal.

    Raises :class:`ConfigError` where a domain is in two of the level above.
    """
    found = {each.node: [domain_at(level, each.labels) for level in levels] for each in nodes}
    used = [place for place in range(len(levels)) if any(path[place] for path in found.values())]
    kept = tuple(levels[place].name for place in used)
    paths = _filled({node: [path[place] for place in used] for node, path in found.items()}, len(used))
    tree = Tree(kept, paths, {each.node: each.name for each in nodes})
    _check(tree, where)
    return tree


def _filled(found: Mapping[str, list[str]], levels: int) -> dict[str, tuple[str, ...]]:
    """Where a node does not say its block, its rack's other nodes may; else the rack is a block by itself."""
    below = {node: node for node in found}
    for level in reversed(range(levels)):
        parents = {below[node]: path[level] for node, path in found.items() if path[level]}
        for node, path in found.items():
            path[level] = path[level] or parents.get(below[node], _ALONE + below[node].lstrip(_ALONE))
            below[node] = path[level]
    return {node: tuple(path) for node, path in found.items()}


def _check(tree: Tree, where: str) -> None:
    """A rack is in one block, whoever says so."""
    for place in range(1, len(tree.levels)):
        parents: dict[str, str] = {}
        for node in tree.in_order(tree.paths):
            above, domain = tree.paths[node][place - 1], tree.paths[node][place]
            first = parents.setdefault(domain, node)
            if tree.paths[first][place - 1] != above:
                raise ConfigError(_contradiction(tree, place, first, node, where))


def _contradiction(tree: Tree, place: int, first: str, second: str, where: str) -> str:
    near, far, domain = tree.levels[place], tree.levels[place - 1], tree.paths[first][place]
    said = [f"{far} '{tree.paths[node][place - 1]}' ({tree.names[node]})" for node in (first, second)]
    return (
        f"{where or 'labels of nodes'}: {near} '{domain}' is in {said[0]} and in {said[1]}, and a {near} can"
        f" be in one {far} only; mend the labels, give {near}s of two {far}s two names, or write"
        " placement.topology=off"
    )


def in_words(crossed: Mapping[str, int], most: Sequence[str] = ()) -> str:
    """``1 block, 2 racks``; only ``most`` levels where they are given."""
    return ", ".join(plural(count, name) for name, count in crossed.items() if not most or name in most)


def natural(name: str) -> list[tuple[int, int | str]]:
    """A key to sort names by, in which numbers count by their size."""
    parts = _DIGITS.split(name)
    return [(0, int(part)) if part.isdigit() else (1, part) for part in parts if part]
