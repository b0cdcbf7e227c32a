"""What a daemon has decided, decided again: the books are folded from the facts up to each decision, and
asked with what was seen then.

The answers are to be the same. Where they are not, another version decides otherwise, or the decision
depended on something that is not on record.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from orchestrator.dispatch.books import Books
from orchestrator.dispatch.facts import MOMENTS, Decided, Fact, Weighed
from orchestrator.dispatch.moments import Recalled
from orchestrator.dispatch.world import Sight, facts_of, running_in, world_of
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


def replayed(facts: Iterable[tuple[float, str, Fact]]) -> Iterator[Moment]:
    """Each decision of a queue's facts that has on record what it was made upon."""
    books, recalled, left = Books(), Recalled(), iter(facts)
    for at, by, fact in left:
        if not isinstance(fact, MOMENTS):
            books.fold(at, by, fact)
        else:
            recalled.take(fact, running_in(books))
            if isinstance(fact, Weighed | Decided):
                then = [next(left) for _ in range(fact.decisions)]
                if (fleet := recalled.fleet) is not None:
                    sight = Sight(recalled.nodes, recalled.tallies)
                    again = facts_of(decide(world_of(books, fleet, sight, at), fleet.policy))
                    yield Moment(at, tuple(one for _, _, one in then), tuple(again))
                for each_at, each_by, one in then:
                    books.fold(each_at, each_by, one)
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

    decisions: int  # that have on record what they were made upon
    first_unix_s: float | None  # when the first was; null where there is none
    last_unix_s: float | None  # when the last was; null where there is none
    differing: list[Differing]  # those that come out otherwise


def replay_of(facts: Iterable[tuple[float, str, Fact]]) -> Replay:
    """All decisions of a queue's facts."""
    found = Replay(0, None, None, [])
    for one in replayed(facts):
        first = one.at if found.first_unix_s is None else found.first_unix_s
        found = replace(found, decisions=found.decisions + 1, first_unix_s=first, last_unix_s=one.at)
        if not one.same:
            found.differing.append(Differing(one.at, [*map(str, one.then)], [*map(str, one.now)]))
    return found


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
