"""The daemon: it looks, writes down what has happened and what is meant, and then does it.

It holds nothing that the books do not have, so it may be killed at any moment: the next one looks at what is
there and goes on. All that it does to the world goes through `Drivers`, and each of these may be done twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from orchestrator.dispatch.books import Books
from orchestrator.dispatch.clusters_seen import ClustersSeen
from orchestrator.dispatch.entries import Entry
from orchestrator.dispatch.facts import Fact, HeldBack, LeaderTook, Left, Tally
from orchestrator.dispatch.fleet_file import FleetFile
from orchestrator.dispatch.moments import Recorder
from orchestrator.dispatch.reconcile import NODE_S, AskToStop, Say, Signal, StartDriver, next_action
from orchestrator.dispatch.seen import Presence, SeenNode
from orchestrator.dispatch.store import Store
from orchestrator.dispatch.world import Sight, bindings, facts_of, running_in, world_of
from orchestrator.errors import ConfigError
from orchestrator.fleet.decide import decide
from orchestrator.fleet.decisions import Decision, Hold
from orchestrator.fleet.jobs import JobState

BY = "daemon"
# Without anything new the world is weighed again after so long: worth grows with waiting. Sooner where it is
# known when something begins to be possible.
WEIGH_S = 10.0
# An action that follows from another is done in the same look; more than these wait for the next.
_MOST_ACTIONS = 4
_HAS_A_DRIVER = frozenset({JobState.STARTING, JobState.RUNNING, JobState.STOPPING})


class Drivers(Protocol):
    """What the daemon sees of jobs' drivers, and does to them."""

    def seen(self, entry: Entry) -> Presence: ...

    def start(self, entry: Entry, node_ids: tuple[str, ...]) -> str | None:
        """Start a driver for the entry's epoch, unless one was started that may still be on its way. Returns
        why that cannot be until somebody has mended something."""

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
    _weigh_at: float = 0.0
    _progress: dict[str, Tally] = field(default_factory=dict)
    unknown: Callable[[], frozenset[str]] = frozenset
    _clusters: ClustersSeen = field(default_factory=ClustersSeen)
    _recorder: Recorder = field(default_factory=Recorder)

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
        nodes = self.nodes()
        self._clusters.look(fleet.clusters, nodes, self.unknown(), self.clock())
        books = self.store.read()
        if nodes is not None and (bound := bindings(books, fleet, nodes, self.clock())):
            books = self._write(bound)
        for key in [entry.key for entry in books.live() if entry.job.state in _HAS_A_DRIVER]:
            self._settle(key)
        for key in self._decide(fleet, nodes):
            self._settle(key)

    def forget_moments(self) -> None:
        """What decisions were made upon longer ago than people want to know goes, a little at a time."""
        if self._fleet is not None:
            before = self.clock() - self._fleet.keep_decisions_days * 86400.0
            self.store.forget_moments(before, self.epoch)

    def mind_leaving(self) -> bool:
        """Look at those who are to leave, and at nothing else: whether that has changed anything. Others wait
        for their GPUs meanwhile, and few are at once."""
        before = self.store.read().seq
        for key in self._leaving():
            self._settle(key)
        return self.store.read().seq != before

    @property
    def somebody_leaves(self) -> bool:
        """Whether a job is to leave its nodes and has not."""
        return bool(self._leaving())

    def _leaving(self) -> list[str]:
        return [
            entry.key
            for entry in self.store.read().live()
            if (entry.job.state is JobState.STOPPING and entry.job.placement is not None)
            or entry.job.leaving is not None
        ]

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
        for remark in fleet.remarks(self.clock()) if fleet is not self._fleet else ():
            self.say(remark)
        self._fleet, self._refused = fleet, ""
        return fleet

    def _settle(self, key: str) -> None:
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
            there = self._are_there(entry, node_ids, seen)
            action = next_action(entry, seen, there, self.clock())
            match action:
                case Say():
                    self._write(list(action.facts), entry)
                    continue
                case StartDriver():
                    if (why := self.drivers.start(entry, node_ids)) is not None:
                        left = Left(key, entry.job.epoch, seen.run.tally, why)
                        self._write([HeldBack(key, why), left], entry)
                case AskToStop():
                    self.drivers.ask_to_stop(entry)
                case Signal():
                    self.drivers.signal(action.pid, action.number)
            return

    def _are_there(self, entry: Entry, node_ids: tuple[str, ...], seen: Presence) -> bool | None:
        """Whether all of its nodes are there; None where nobody knows. For whom no driver speaks that is so
        for a while only, if nobody listens at its cluster either."""
        placement, fleet = entry.job.placement, self._fleet
        pools = {each.pool.name: each.ray_address for each in fleet.pools} if fleet is not None else {}
        cluster = pools.get(placement.pool) if placement is not None else None
        there = self._clusters.are_there(cluster, node_ids)
        if there is not None or seen.is_there or self._clusters.is_unknown(cluster or ""):
            return there
        return False if self._clusters.silent_s(cluster, self.clock()) > NODE_S else None

    def _decide(self, fleet: FleetFile, nodes: tuple[SeenNode, ...] | None) -> list[str]:
        """Weigh the world; returns the jobs about which something was decided."""
        now = self.clock()
        # A stop is possible, and cheapest, right after a save.
        saved = {key: tally.saved_step for key, tally in self._progress.items()}
        if (self.store.read().seq, nodes, fleet, saved) == self._weighed and now < self._weigh_at:
            return []
        sight = Sight(nodes, self._progress)
        decisions: tuple[Decision, ...] = ()

        def choose(books: Books) -> list[Fact]:
            nonlocal decisions
            decisions = decide(world_of(books, fleet, sight, now), fleet.policy)
            return self._recorder.with_what_was_seen(
                facts_of(decisions), fleet, nodes, self._progress, running_in(books)
            )

        try:
            books = self.store.write(BY, now, choose, self.epoch)
        except BaseException:
            self._recorder = Recorder()  # nothing of it may be on record
            raise
        self._weighed, self._weigh_at = (
            (books.seq, nodes, fleet, saved),
            _next_at(books, fleet, decisions, now),
        )
        return [one.job for one in decisions if not isinstance(one, Hold)]

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


def _next_at(books: Books, fleet: FleetFile, decisions: Sequence[Decision], now: float) -> float:
    """When the answer may be another although nothing has happened."""
    times = [one.until_at for one in decisions if isinstance(one, Hold) and one.until_at is not None]
    times += [entry.again_at for entry in books.live() if entry.again_at is not None]
    times += [one.at for each in fleet.pools for one in each.changes_after(now)]
    return min([now + WEIGH_S, *(at for at in times if at > now)])


def _node_ids(books: Books, entry: Entry) -> tuple[str, ...]:
    placement = entry.job.placement
    if placement is None:
        return ()
    slots = [books.nodes.get((placement.pool, number)) for number in placement.nodes]
    return tuple(slot.node_id for slot in slots if slot is not None) if all(slots) else ()
