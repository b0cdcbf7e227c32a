"""Gangs on nodes: best fit, else with the fewest others moved, else not at all.

A gang of up to a node's GPUs is on one node. A larger one has whole nodes, and what is left over on one more.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from orchestrator.fleet.jobs import Placement
from orchestrator.fleet.trace import Bools, Ints

_KEPT = "_rows"


@dataclass
class Nodes:
    """The nodes of one pool. On those that are ``closed`` nothing may start. ``leaving`` marks those on which
    somebody still is whose GPUs count as free: they are taken last, since who starts there has to wait."""

    pool: str
    gpus_per_node: int
    free: Ints
    closed: Bools
    leaving: Bools
    beyond: bool = False  # whether somebody is on nodes that it has no more

    def copy(self) -> Nodes:
        return Nodes(self.pool, self.gpus_per_node, self.free.copy(), self.closed, self.leaving.copy())

    def has_room(self, placement: Placement) -> bool:
        """Whether nobody has to leave these nodes for a gang that is to be there."""
        nodes = list(placement.nodes)
        if placement.pool != self.pool or max(nodes) >= len(self.free) or self.leaving[nodes].any():
            return False
        return bool((self.free[nodes] >= np.array(placement.gpus, int)).all())

    def take(self, placement: Placement) -> None:
        self.free[list(placement.nodes)] -= np.array(placement.gpus, int)

    def leave(self, placement: Placement) -> None:
        nodes = list(placement.nodes)
        self.free[nodes] += np.array(placement.gpus, int)
        self.free[self.closed] = -1
        self.leaving[nodes] = True

    def fit(self, gpus: int, avoid: set[int] | None = None) -> Placement | None:
        """Where a gang fits as things are."""
        whole, rest = divmod(gpus, self.gpus_per_node)
        free = self.free
        if avoid:
            free = free.copy()
            free[list(avoid)] = -1
        nodes: list[int] = []
        if whole:
            empty = np.flatnonzero(free == self.gpus_per_node)
            if len(empty) < whole:
                return None
            order = np.argsort(self.leaving[empty], kind="stable")
            nodes = [int(node) for node in empty[order[:whole]]]
        counts = [self.gpus_per_node] * whole
        if rest:
            fits = np.flatnonzero(free >= rest)
            if whole:
                fits = fits[~np.isin(fits, nodes)]
            if not len(fits):
                return None
            best = int(np.lexsort((self.leaving[fits], free[fits]))[0])
            nodes.append(int(fits[best]))
            counts.append(rest)
        return Placement(self.pool, tuple(nodes), tuple(counts))


@dataclass(frozen=True)
class Movable:
    """Who may be moved: it runs on one node, and the price of it."""

    node: int
    gpus: int
    price_usd: float


@dataclass(frozen=True)
class Room:
    """A place for a gang, and who has to move where for it."""

    placement: Placement
    moves: tuple[tuple[int, Placement], ...]
    price_usd: float


def make_room(
    nodes: Nodes,
    gpus: int,
    movable: dict[int, Movable],
    most_moves: int,
    most_usd: float,
    avoid: set[int] | None = None,
) -> Room | None:
    """The nodes that are emptied with the fewest moves, then for the least, and all who leave them placed on
    others; None where that takes too many, costs too much, or there is no place for one of them. Only who
    moves may be on those to ``avoid``."""
    there: dict[int, list[int]] = defaultdict(list)
    for row, one in movable.items():
        there[one.node].append(row)
    whole, rest = divmod(gpus, nodes.gpus_per_node)
    wants = [nodes.gpus_per_node] * whole + ([rest] if rest else [])
    chosen: list[tuple[int, int, list[int]]] = []  # node, GPUs of the gang there, who leaves
    taken: set[int] = set()
    for want in wants:
        ways = [
            (len(leaves), sum(movable[row].price_usd for row in leaves), node, leaves)
            for node in _could_be_emptied(nodes, want, taken | (avoid or set()))
            if (leaves := _fewest_to_leave(want - int(nodes.free[node]), there[node], movable)) is not None
        ]
        if not ways:
            return None
        _, _, node, leaves = min(ways, key=lambda way: way[:3])
        chosen.append((node, want, leaves))
        taken.add(node)
    leaving = [row for _, _, leaves in chosen for row in leaves]
    price_usd = sum(movable[row].price_usd for row in leaving)
    if len(leaving) > most_moves or price_usd >= most_usd:
        return None
    moves = _place_leaving(nodes, leaving, movable, taken)
    if moves is None:
        return None
    placement = Placement(
        nodes.pool, tuple(node for node, _, _ in chosen), tuple(want for _, want, _ in chosen)
    )
    return Room(placement, tuple(moves), price_usd)


def _could_be_emptied(nodes: Nodes, want: int, taken: set[int]) -> list[int]:
    """The nodes with the most free GPUs, which have the least to move: more of them would not help."""
    order = np.argsort(-nodes.free, kind="stable")[: 64 + len(taken)]
    return [int(node) for node in order if int(node) not in taken and nodes.free[node] >= 0]


def _fewest_to_leave(missing: int, there: list[int], movable: dict[int, Movable]) -> list[int] | None:
    """The largest first, until there is room."""
    leaves: list[int] = []
    for row in sorted(there, key=lambda row: (-movable[row].gpus, row)):
        if missing <= 0:
            break
        leaves.append(row)
        missing -= movable[row].gpus
    if missing > 0:
        return None
    for row in list(leaves):  # a large one that left first may not have had to
        if missing + movable[row].gpus <= 0:
            leaves.remove(row)
            missing += movable[row].gpus
    return leaves


def _place_leaving(
    nodes: Nodes, leaving: list[int], movable: dict[int, Movable], avoid: set[int]
) -> list[tuple[int, Placement]] | None:
    before, moves = nodes.free.copy(), []
    for row in sorted(leaving, key=lambda row: (-movable[row].gpus, row)):
        placement = nodes.fit(movable[row].gpus, avoid)
        if placement is None:
            nodes.free = before
            return None
        nodes.free[list(placement.nodes)] -= np.array(placement.gpus, int)
        moves.append((row, placement))
    nodes.free = before
    return moves


def free_nodes(pool: str, nodes: int, gpus_per_node: int, not_up: Bools, placed: list[Placement]) -> Nodes:
    """The nodes of a pool, less what is placed there."""
    free, beyond = np.full(nodes, gpus_per_node), False
    if placed:
        rows = b"".join([placement.__dict__.get(_KEPT) or _keep(placement) for placement in placed])
        there = np.frombuffer(rows, int).reshape(-1, 2)
        inside = there[:, 0] < nodes
        beyond = not inside.all()
        if beyond:
            there = there[inside]
        np.subtract.at(free, there[:, 0], there[:, 1])
    free[not_up] = -1
    return Nodes(pool, gpus_per_node, free, not_up, np.zeros(nodes, bool), beyond)


def _keep(placement: Placement) -> bytes:
    """Its nodes and its GPUs there, kept with it as `figures.rows_of` keeps the numbers of a job: a large
    fleet has fifty thousand of them."""
    rows = np.column_stack([placement.nodes, placement.gpus]).astype(int).tobytes()
    placement.__dict__[_KEPT] = rows
    return rows
