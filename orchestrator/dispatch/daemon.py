"""The daemon: it looks, writes down what has happened and what is meant, and then does it.

It holds nothing that the books do not have, so it may be killed at any moment: the next one looks at what is
there and goes on. All that it does to the world goes through `Drivers`, and each of these may be done twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from orchestrator.dispatch.books import Books
from orchestrator.dispatch.entries import Entry
from orchestrator.dispatch.facts import Fact, LeaderTook, Tally
from orchestrator.dispatch.fleet_file import FleetFile
from orchestrator.dispatch.reconcile import AskToStop, Say, Signal, StartDriver, next_action
from orchestrator.dispatch.seen import Presence, SeenNode
from orchestrator.dispatch.store import Store
from orchestrator.dispatch.world import Sight, bindings, facts_of, world_of
from orchestrator.errors import ConfigError
from orchestrator.fleet.decide import decide
from orchestrator.fleet.decisions import Hold
from orchestrator.fleet.jobs import JobState

BY = "daemon"
# Without anything new the world is weighed again after so long: worth grows with waiting.
WEIGH_S = 10.0
# An action that follows from another is done in the same look; more than these wait for the next.
_MOST_ACTIONS = 4
_HAS_A_DRIVER = frozenset({JobState.STARTING, JobState.RUNNING, JobState.STOPPING})


class Drivers(Protocol):
    """What the daemon sees of jobs' drivers, and does to them."""

    def seen(self, entry: Entry) -> Presence: ...

    def start(self, entry: Entry, node_ids: tuple[str, ...]) -> None:
        """Start a driver for the entry's epoch, unless one was started that may still be on its way."""

    def ask_to_stop(self, entry: Entry) -> None: ...

    def signal(self, pid: int, number: int) -> None: ...


@dataclass
class Daemon:
    """``nodes`` are those alive, None where no cluster answers; ``read_fleet`` reads the fleet file anew;
    ``say`` is told what a person should know; ``unknown`` are the addresses of clusters whose nodes nobody
    knows yet."""

    store: Store
    drivers: Drivers
    nodes: Callable[[], tuple[SeenNode, ...] | None]
    read_fleet: Callable[[], FleetFile]
    clock: Callable[[], float]
    say: Callable[[str], None] = lambda _text: None
    epoch: int = 0
    _fleet: FleetFile | None = None
    _refused: str = ""
    _weighed: tuple[object, ...] = ()
    _weighed_at: float = 0.0
    _progress: dict[str, Tally] = field(default_factory=dict)
    _unknown_pools: frozenset[str] = frozenset()
    unknown: Callable[[], frozenset[str]] = frozenset

    def lead(self, host: str, pid: int) -> None:
        """Take the lead: whoever had it may write nothing any more."""

        def take(books: Books) -> list[Fact]:
            self.epoch = books.leader.epoch + 1
            return [LeaderTook(self.epoch, host, pid)]

        self.store.write(BY, self.clock(), take)

    def step(self) -> None:
        """Look once at everything. Raises :class:`~orchestrator.dispatch.store.Deposed`."""
        fleet = self._current_fleet()
        if fleet is None:
            return
        nodes, unknown = self.nodes(), self.unknown()
        self._unknown_pools = frozenset(each.pool.name for each in fleet.pools if each.ray_address in unknown)
        books = self.store.read()
        if nodes is not None and (bound := bindings(books, fleet, nodes)):
            books = self._write(bound)
        alive = {node.node_id for node in nodes or ()}
        for key in [entry.key for entry in books.live() if entry.job.state in _HAS_A_DRIVER]:
            self._settle(key, alive)
        for key in self._decide(fleet, nodes):
            self._settle(key, alive)

    @property
    def fleet(self) -> FleetFile | None:
        """As it was last taken."""
        return self._fleet

    def _current_fleet(self) -> FleetFile | None:
        """As it is written now; a file that cannot be taken is told once, and the one before it stays."""
        try:
            fleet = self.read_fleet()
        except ConfigError as error:
            if str(error) != self._refused:
                going_on = "; going on with what it said before" if self._fleet else ""
                self.say(f"{error}{going_on}")
            self._refused = str(error)
            return self._fleet
        if self._refused:
            self.say(f"{fleet.path}: can be read again")
        self._fleet, self._refused = fleet, ""
        return fleet

    def _settle(self, key: str, alive: set[str]) -> None:
        """Do for one job what has to be done, until that is nothing, or has to show first."""
        for _ in range(_MOST_ACTIONS):
            books = self.store.read()
            entry = books.jobs.get(key)
            if entry is None or entry.job.state not in _HAS_A_DRIVER:
                self._progress.pop(key, None)
                return
            seen = self.drivers.seen(entry)
            self._progress[key] = seen.run.tally
            node_ids = _node_ids(books, entry)
            there = self._are_there(entry, node_ids, alive)
            action = next_action(entry, seen, there, self.clock())
            match action:
                case Say():
                    self._write(list(action.facts), entry)
                    continue
                case StartDriver():
                    self.drivers.start(entry, node_ids)
                case AskToStop():
                    self.drivers.ask_to_stop(entry)
                case Signal():
                    self.drivers.signal(action.pid, action.number)
            return

    def _are_there(self, entry: Entry, node_ids: tuple[str, ...], alive: set[str]) -> bool | None:
        """Whether all of its nodes are there; None where nobody knows."""
        placement = entry.job.placement
        if placement is not None and placement.pool in self._unknown_pools:
            return None
        return bool(node_ids) and set(node_ids) <= alive

    def _decide(self, fleet: FleetFile, nodes: tuple[SeenNode, ...] | None) -> list[str]:
        """Weigh the world; returns the jobs about which something was decided."""
        now = self.clock()
        weighed = (self.store.read().seq, nodes, fleet)
        if weighed == self._weighed and now - self._weighed_at < WEIGH_S:
            return []
        sight = Sight(nodes, self._progress)

        decided: list[str] = []

        def choose(books: Books) -> list[Fact]:
            decisions = decide(world_of(books, fleet, sight, now), fleet.policy)
            decided.extend(one.job for one in decisions if not isinstance(one, Hold))
            return facts_of(decisions)

        books = self.store.write(BY, now, choose, self.epoch)
        self._weighed, self._weighed_at = (books.seq, nodes, fleet), now
        return decided

    def _write(self, facts: Sequence[Fact], seen_with: Entry | None = None) -> Books:
        """Write down what was seen, unless somebody has changed the job meanwhile: then it is looked at
        again."""

        def still(books: Books) -> Sequence[Fact]:
            if seen_with is None:
                return facts
            entry = books.jobs.get(seen_with.key)
            same = entry is not None and (entry.job.state, entry.job.epoch) == (
                seen_with.job.state,
                seen_with.job.epoch,
            )
            return facts if same else []

        return self.store.write(BY, self.clock(), still, self.epoch)


def _node_ids(books: Books, entry: Entry) -> tuple[str, ...]:
    placement = entry.job.placement
    if placement is None:
        return ()
    slots = [books.nodes.get((placement.pool, number)) for number in placement.nodes]
    return tuple(slot.node_id for slot in slots if slot is not None) if all(slots) else ()
