"""What a daemon has decided, decided again: the books are folded from the facts up to each decision, and
asked with what was seen then.

The answers are to be the same. Where they are not, another version decides otherwise, or the decision
depended on something that is not on record.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from orchestrator.dispatch.books import Books
from orchestrator.dispatch.facts import Decided, Fact, FleetSeen, NodesSeen
from orchestrator.dispatch.fleet_file import FleetFile, PoolEntry
from orchestrator.dispatch.seen import SeenNode
from orchestrator.dispatch.world import Sight, facts_of, world_of
from orchestrator.fleet.decide import decide

# Sums of floats may come in another order.
_RELATIVE = 1e-9


@dataclass(frozen=True)
class Moment:
    """One decision: what came of it then, and what comes of it now."""

    at: float
    then: tuple[Fact, ...]
    now: tuple[Fact, ...]

    @property
    def same(self) -> bool:
        """Whether both are alike."""
        return _alike(self.then, self.now)


class Recorder:
    """Says what has to be on record beside a decision; what is on record already is not said again."""

    def __init__(self) -> None:
        self._fleet: FleetSeen | None = None
        self._nodes: NodesSeen | None = None

    def with_what_was_seen(
        self, decided: Sequence[Fact], fleet: FleetFile, sight: Sight, running: Iterable[str]
    ) -> list[Fact]:
        """The facts of a decision, after those of what it was made upon."""
        if not decided:
            return []
        progress = sight.progress or {}
        tallies = tuple((key, progress[key]) for key in sorted(running) if key in progress)
        seen = FleetSeen(tuple(each.pool for each in fleet.pools), fleet.teams, fleet.policy)
        nodes = NodesSeen(sight.nodes)
        before: list[Fact] = []
        if seen != self._fleet:
            before.append(seen)
        if nodes != self._nodes:
            before.append(nodes)
        self._fleet, self._nodes = seen, nodes
        return [*before, Decided(len(decided), tallies), *decided]


def replayed(facts: Iterable[tuple[float, str, Fact]]) -> Iterator[Moment]:
    """Each decision of a queue's facts, from the first that has on record what it was made upon."""
    books, left = Books(), iter(facts)
    fleet: FleetFile | None = None
    nodes: tuple[SeenNode, ...] | None = None
    for at, by, fact in left:
        match fact:
            case FleetSeen():
                pools = tuple(PoolEntry(pool) for pool in fact.pools)
                fleet = FleetFile(Path(), Path(), pools, fact.teams, policy=fact.policy)
            case NodesSeen():
                nodes = fact.nodes
            case Decided():
                assert fleet is not None, "what the fleet file said comes before the first decision"
                sight = Sight(nodes, dict(fact.running))
                again = facts_of(decide(world_of(books, fleet, sight, at), fleet.policy))
                then = [next(left) for _ in range(fact.decisions)]
                yield Moment(at, tuple(one for _, _, one in then), tuple(again))
                for each_at, each_by, one in then:
                    books.fold(each_at, each_by, one)
            case _:
                books.fold(at, by, fact)
        books.tidy()


@dataclass(frozen=True)
class Differing:
    """A decision that comes out otherwise."""

    at_unix_s: float  # when it was made
    then: list[str]  # what was decided, as KIND and fields
    now: list[str]  # what is decided now, likewise


@dataclass(frozen=True)
class Replay:
    """What a queue's daemon has decided, decided again."""

    decisions: int  # that were made
    first_unix_s: float | None  # when the first was; null where there is none
    last_unix_s: float | None  # when the last was; null where there is none
    differing: list[Differing]  # those that come out otherwise


def replay_of(facts: Iterable[tuple[float, str, Fact]]) -> Replay:
    """All decisions of a queue's facts."""
    moments = list(replayed(facts))
    differing = [
        Differing(one.at, [*map(str, one.then)], [*map(str, one.now)]) for one in moments if not one.same
    ]
    return Replay(
        len(moments), moments[0].at if moments else None, moments[-1].at if moments else None, differing
    )


def _alike(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return math.isclose(one, other, rel_tol=_RELATIVE, abs_tol=_RELATIVE) or one == other
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(_alike, one, other))
    if is_dataclass(one):
        return all(_alike(getattr(one, each.name), getattr(other, each.name)) for each in fields(one))
    return bool(one == other)
