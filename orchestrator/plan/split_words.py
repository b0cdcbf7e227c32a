"""What a plan says of where its nodes are, and of what a split costs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from orchestrator.text import figure, plural, seconds_in_words, usd
from orchestrator.topology.tree import in_words

if TYPE_CHECKING:
    from orchestrator.plan.forecast.split import Split
    from orchestrator.plan.plan import Plan

# A difference below it is not one that a prediction can tell.
LEAST_SHARE = 0.001


def placement_rows(plan: Plan) -> Iterator[tuple[str, str]]:
    """Rows of a plan; none where nobody says where nodes are, nor that it matters."""
    split, domains = plan.split, plan.domains
    if domains:
        yield "placement", f"{plural(plan.layout.nodes, 'node')} in {in_words(domains)}"
        if split is not None:
            yield "", _counted(split)
    elif split is not None and split.slowdown > 1 + LEAST_SHARE:
        yield "placement", _if_split(split)


def _counted(split: Split) -> str:
    between = (
        f"between {split.level}s the network carries 1/{figure(split.oversubscription)} of what nodes send"
    )
    if split.slowdown <= 1 + LEAST_SHARE:
        return f"{between}, which no step waits for: rings leave a {split.level} once"
    together = seconds_in_words(split.together_step_time_s)
    return f"{between}: a step takes {_longer(split)} than in one {split.level} ({together})"


def _if_split(split: Split) -> str:
    return (
        f"counted in one {split.level}; split over {split.domains}, between which the network carries"
        f" 1/{figure(split.oversubscription)} of what nodes send, a step would take"
        f" {seconds_in_words(split.step_time_s)}: {_longer(split).rstrip(',')}"
    )


def _longer(split: Split) -> str:
    share = f"{split.slowdown - 1:.1%} longer"
    return f"{share}, {usd(split.more_usd)} of the run," if split.more_usd is not None else share
