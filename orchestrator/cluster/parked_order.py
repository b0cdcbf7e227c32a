"""Which node takes which ranks, where nodes still have ranks' checkpoints in memory. Pure.

Ray hands out the nodes of a placement group in any order: a run that is taken up may have the same nodes,
each with memory of other ranks than those that it would run now.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence


def order_of(parked: Sequence[Collection[int]], ranks_per_node: int) -> list[int]:
    """For each node, which has the memory of these ranks, its index in the run: that of its ranks where it
    has all of them, and no node before it has; the others keep to the order in which they are."""
    wanted: dict[int, int] = {}  # node by index
    for node, ranks in enumerate(parked):
        for index in range(len(parked)):
            first = index * ranks_per_node
            if index not in wanted and set(range(first, first + ranks_per_node)) <= set(ranks):
                wanted[index] = node
                break
    found = {node: index for index, node in wanted.items()}
    left = iter([index for index in range(len(parked)) if index not in wanted])
    return [found[node] if node in found else next(left) for node in range(len(parked))]
