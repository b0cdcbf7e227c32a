"""In which order a run numbers its nodes, so that ranks which talk most are near each other.

Ranks are numbered node by node, so tensor parallel ranks share a node. A unit, the nodes of one data parallel
ring, say, has numbers that follow each other. Units are made of one domain's nodes as far as these go, of
racks first, then of what is left over of the racks of one block; and where one is of several domains, those
of each follow each other, so that a ring leaves a domain once. NCCL and gloo join rings in the order of the
ranks.
"""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.topology.tree import Tree

_Nodes = list[str]


def ordered(tree: Tree, nodes: Sequence[str], unit: int = 0) -> list[str]:
    """The nodes in their new order; ``unit`` 0 is one of all of them."""
    units, rest = _units(tree, tree.in_order(nodes), 0, unit or len(nodes))
    return [node for one in [*units, [node for piece in rest for node in piece]] for node in one]


def _units(tree: Tree, nodes: _Nodes, level: int, unit: int) -> tuple[list[_Nodes], list[_Nodes]]:
    """Whole units of the nodes of one domain, and what is left over: a piece of each part."""
    if level == len(tree.levels):
        whole = len(nodes) - len(nodes) % unit
        rest = [nodes[whole:]] if nodes[whole:] else []
        return [nodes[at : at + unit] for at in range(0, whole, unit)], rest
    parts: dict[str, _Nodes] = {}
    for node in nodes:
        parts.setdefault(tree.paths[node][level], []).append(node)
    units: list[_Nodes] = []
    pieces: list[_Nodes] = []
    for part in parts.values():
        whole_ones, left = _units(tree, part, level + 1, unit)
        units += whole_ones
        pieces += [[node for piece in left for node in piece]] if left else []
    made, rest = _put_together(pieces, unit)
    return units + made, rest


def _put_together(pieces: list[_Nodes], unit: int) -> tuple[list[_Nodes], list[_Nodes]]:
    """Units of as few pieces each as can be had: the largest piece, with what fits it best. A piece is cut
    where nothing else fits."""
    pieces = sorted(pieces, key=len, reverse=True)
    units: list[_Nodes] = []
    while sum(map(len, pieces)) >= unit:
        made = pieces.pop(0)
        while len(made) < unit:
            missing = unit - len(made)
            at = next((at for at, piece in enumerate(pieces) if len(piece) <= missing), len(pieces) - 1)
            piece = pieces.pop(at)
            made = made + piece[:missing]
            if piece[missing:]:
                pieces = sorted([*pieces, piece[missing:]], key=len, reverse=True)
        units.append(made)
    return units, pieces
