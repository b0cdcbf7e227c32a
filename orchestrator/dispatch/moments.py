"""What a decision was made upon, on record beside it: what has changed since the moment before.

A queue of thousands of jobs would write the same again and again. So each moment says what is new, and now
and then one is whole: whoever reads begins there, and what is before it can be forgotten. Jobs that run are
named by their place among them, which the facts tell.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

from orchestrator.dispatch.facts import Decided, Fact, FleetSeen, NodesSeen, SeenNode, Tally, Weighed
from orchestrator.dispatch.fleet_file import FleetFile, PoolEntry

WHOLE_EVERY = 100
# Of a tally, what is on record by itself, and what is counted otherwise and looked at by no decision.
_ELSEWHERE: dict[str, Any] = {"step": 0, "saved_step": 0, "gpu_s": 0.0, "usd": 0.0}
_rest = attrgetter(*[each.name for each in fields(Tally) if each.name not in _ELSEWHERE])
_NOTHING = Tally()
NodeName = tuple[str, str]  # the cluster, and the node's id there


@dataclass(frozen=True)
class Seen:
    """All that a decision was made upon beside the books; ``tallies`` are those of jobs that run."""

    fleet: FleetSeen | None = None
    nodes: Mapping[NodeName, SeenNode] = field(default_factory=dict)
    tallies: Mapping[str, Tally] = field(default_factory=dict)


class Recorder:
    """Says what has to be on record beside a decision; what is on record already is not said again."""

    def __init__(self) -> None:
        self._seen, self._left = Seen(), 0  # until the next one is whole

    def with_what_was_seen(
        self,
        decided: Sequence[Fact],
        fleet: FleetFile,
        nodes: Sequence[SeenNode] | None,
        progress: Mapping[str, Tally],
        running: Iterable[str],
    ) -> list[Fact]:
        """The facts of a decision, after that of what it was made upon."""
        if not decided:
            return []
        whole, jobs = self._left == 0, sorted(running)
        before = Seen() if whole else self._seen
        now = Seen(
            FleetSeen(
                tuple(each.pool for each in fleet.pools),
                fleet.teams,
                fleet.policy,
                tuple(one for each in fleet.pools for one in each.changes),
            ),
            {(node.cluster, node.node_id): node for node in nodes or ()},
            {key: progress[key] for key in jobs if key in progress},
        )
        steps: list[int | None] = []
        saves, rest = [], []
        for place, key in enumerate(jobs):
            was, tally = before.tallies.get(key, _NOTHING), now.tallies.get(key)
            steps.append(None if tally is None else tally.step - was.step)
            if tally is None or tally is was:
                continue
            if tally.saved_step != was.saved_step:
                saves.append((place, tally.saved_step - was.saved_step))
            if _rest(tally) != _rest(was):
                rest.append((place, replace(tally, **_ELSEWHERE)))
        weighed = Weighed(
            len(decided),
            whole,
            None if now.fleet == before.fleet else now.fleet,
            tuple(name for name in before.nodes if name not in now.nodes),
            tuple(node for name, node in now.nodes.items() if before.nodes.get(name) != node),
            tuple(steps),
            tuple(saves),
            tuple(rest),
        )
        self._seen, self._left = now, WHOLE_EVERY - 1 if whole else self._left - 1
        return [weighed, *decided]


class Recalled:
    """What moments tell, one after the other; ``fleet`` is None until there was one that could be read."""

    def __init__(self) -> None:
        self.fleet: FleetFile | None = None
        self.nodes: tuple[SeenNode, ...] = ()
        self.tallies: Mapping[str, Tally] = {}
        self._seen = Seen()

    def take(self, fact: Weighed | Decided | FleetSeen | NodesSeen, running: Iterable[str]) -> None:
        """``running`` are the jobs that run by the facts so far. The last three are as earlier versions had
        it."""
        match fact:
            case FleetSeen():
                self._take_fleet(fact)
            case NodesSeen():
                self.nodes = fact.nodes or ()
            case Decided():
                self.tallies = dict(fact.running)
            case Weighed():
                self._take_weighed(fact, sorted(running))

    def _take_fleet(self, fact: FleetSeen) -> None:
        pools = tuple(
            PoolEntry(pool, changes=tuple(one for one in fact.changes if one.pool == pool.name))
            for pool in fact.pools
        )
        self.fleet = FleetFile(Path(), Path(), pools, fact.teams, policy=fact.policy)

    def _take_weighed(self, fact: Weighed, jobs: Sequence[str]) -> None:
        before = Seen() if fact.whole else self._seen
        if len(jobs) != len(fact.steps) or (before.fleet is None and fact.fleet is None):
            # What it begins with was forgotten, or by this version others run: the next whole one helps.
            self._seen, self.fleet = Seen(), None
            return
        saves, rest, tallies = dict(fact.saves), dict(fact.rest), {}
        for place, (key, steps) in enumerate(zip(jobs, fact.steps, strict=True)):
            if steps is not None:
                was = before.tallies.get(key, _NOTHING)
                saved_step = was.saved_step + saves.get(place, 0)
                tallies[key] = replace(rest.get(place, was), step=was.step + steps, saved_step=saved_step)
        nodes = {name: node for name, node in before.nodes.items() if name not in fact.gone}
        nodes |= {(node.cluster, node.node_id): node for node in fact.came}
        self._seen = Seen(fact.fleet or before.fleet, nodes, tallies)
        if self._seen.fleet is not None and (fact.fleet is not None or self.fleet is None):
            self._take_fleet(self._seen.fleet)
        self.nodes, self.tallies = tuple(nodes.values()), tallies
