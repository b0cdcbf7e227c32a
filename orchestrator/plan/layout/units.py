"""Which of a run's nodes talk most among themselves: those have to be near each other."""

from __future__ import annotations

from orchestrator.plan.layout.layout import Layout


def nodes_of_unit(layout: Layout) -> int:
    """Nodes, one after the other, that are to be in one domain of the network as far as they can be.

    Ranks that exchange tokens, of experts or of parts of a sequence, send each to each; after them come those
    of one pipeline stage, which are a data parallel ring. Neighbours in the pipeline send least. All nodes
    are one unit where nothing divides them.
    """
    for ranks in (
        layout.ep * layout.tp,
        layout.sequence_ranks * layout.tp,
        layout.tp,
        layout.ranks // layout.pp,
    ):
        nodes, rest = divmod(ranks, layout.ranks_per_node)
        if nodes > 1 and rest == 0 and layout.nodes % nodes == 0:
            return nodes
    return layout.nodes
