"""What ran on which nodes, what runs, and what is to come: the facts of the queue as stretches of time.

What is to come is one future of many: in it each job takes the time of which half is more and half is less,
and starts on the nodes where it would fit first. The ranges are those of :class:`QueuedJob`.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from orchestrator.dispatch.facts import (
    Began,
    Ended,
    Fact,
    Left,
    Lost,
    MoveMeant,
    NodeBound,
    NodeDrained,
    StartMeant,
    Submitted,
)
from orchestrator.dispatch.pools_now import HOLDS
from orchestrator.fleet.after import after, foreseen
from orchestrator.fleet.books import best_first
from orchestrator.fleet.decide import decide
from orchestrator.fleet.forecast import Forecast, forecast
from orchestrator.fleet.jobs import Job, JobState, Placement
from orchestrator.fleet.pools import CapacityChange, Pool, most_nodes, spans_away
from orchestrator.fleet.settings import Policy
from orchestrator.fleet.world import World

# What :class:`Past` is folded from.
PAST = (Submitted, StartMeant, MoveMeant, Began, Left, Lost, Ended, NodeBound, NodeDrained)
KEPT_S = 7 * 86400.0
# Nobody reads a picture of more; of pools with more nodes nobody asks who will be where.
MOST_TO_COME, MOST_NODES = 300, 64
_FOR_EVER = float("inf")


class Kind(StrEnum):
    RAN = "ran"
    RUNS = "runs"
    TO_COME = "to_come"


@dataclass(frozen=True)
class Stretch:
    """A job on nodes for a time; without nodes where nobody knows on which."""

    job: str
    team: str
    pool: str
    nodes: tuple[int, ...]
    gpus: tuple[int, ...]  # of each of them
    from_at: float
    until_at: float  # infinite where that is not known
    kind: Kind


@dataclass(frozen=True)
class Closed:
    """A node on which nothing is started from then on."""

    pool: str
    node: int
    from_at: float
    until_at: float
    why: str


@dataclass
class Past:
    """Folded from the facts in their order. Whoever asks again folds those that are new."""

    seq: int = 0
    _ran: deque[Stretch] = field(default_factory=deque)
    _team: dict[str, str] = field(default_factory=dict)
    _meant: dict[str, Placement] = field(default_factory=dict)
    _open: dict[str, tuple[Placement, float]] = field(default_factory=dict)
    _number: dict[str, tuple[str, int]] = field(default_factory=dict)  # of a host its place in a pool
    _drained: list[tuple[str, float, float]] = field(default_factory=list)

    def fold(self, seq: int, at: float, fact: Fact) -> None:
        self.seq = seq
        match fact:
            case Submitted():
                self._team[fact.spec.key] = fact.spec.team
            case StartMeant() | MoveMeant():
                self._meant[fact.job] = fact.placement
            case Began():
                if (placement := self._meant.get(fact.job)) is not None:
                    self._open[fact.job] = placement, at
            case Left() | Lost() | Ended():
                self._close(fact.job, at)
                if isinstance(fact, Ended):
                    self._meant.pop(fact.job, None)
                    self._team.pop(fact.job, None)
            case NodeBound():
                self._number[fact.host] = fact.pool, fact.number
            case NodeDrained():
                ended = [
                    (host, since, at if host == fact.host and until == _FOR_EVER else until)
                    for host, since, until in self._drained
                ]
                self._drained = ended if fact.off else [*ended, (fact.host, at, _FOR_EVER)]

    def _close(self, key: str, at: float) -> None:
        if (found := self._open.pop(key, None)) is None:
            return
        placement, since = found
        team = self._team.get(key, "")
        self._ran.append(
            Stretch(key, team, placement.pool, placement.nodes, placement.gpus, since, at, Kind.RAN)
        )
        while self._ran[0].until_at < at - KEPT_S:
            self._ran.popleft()

    def ran(self, since: float) -> list[Stretch]:
        """What has ended since then."""
        return [one for one in self._ran if one.until_at > since]

    def began(self, key: str) -> float | None:
        """When what runs of a job began; None where it does not run."""
        found = self._open.get(key)
        return None if found is None else found[1]

    def drained(self, since: float) -> list[Closed]:
        """Nodes on which nothing was started for a time."""
        return [
            Closed(*self._number[host], from_at, until_at, "drained")
            for host, from_at, until_at in self._drained
            if until_at > since and host in self._number
        ]


def course(world: World, policy: Policy, past: Past) -> list[Stretch]:
    """Who has nodes now, from when it got them until it ends, and who is to have some, as what is decided now
    and one future have it: that in which all take the middle of their times."""
    decisions = decide(world, policy)
    decided = after(world, decisions)
    future = forecast(foreseen(world, decisions), policy, futures=1)
    had = {job.key for job in world.jobs if job.placement is not None}
    there = [
        stretch
        for job in decided.jobs
        if (stretch := _there(job, future.get(job.key), past, world.now, job.key in had)) is not None
    ]
    return [*there, *_to_come(decided, future, there)]


def _there(job: Job, found: Forecast | None, past: Past, now: float, had: bool) -> Stretch | None:
    where = job.leaving or job.placement
    if where is None or job.state not in HOLDS:
        return None
    ends = found.end.at if found is not None and found.end is not None else None
    until = now if job.state is JobState.STOPPING else max(ends or _FOR_EVER, now)
    since = (past.began(job.key) or job.started_at or now) if had else now
    kind = Kind.RUNS if had else Kind.TO_COME
    return Stretch(job.key, job.spec.team, where.pool, where.nodes, where.gpus, since, until, kind)


def _to_come(world: World, future: Mapping[str, Forecast], there: Sequence[Stretch]) -> list[Stretch]:
    """Who starts later, on nodes that are free of ``there`` and of who starts before. Who would not fit has
    none: the forecast counts GPUs and looks at no nodes."""
    rooms = {
        pool.name: _Room(pool, there, world.changes)
        for pool in world.pools
        if most_nodes(pool, world.changes) <= MOST_NODES
    }
    waiting = [
        (one.start.at, one.end.at if one.end is not None else None, job)
        for job in world.jobs
        if job.state in (JobState.QUEUED, JobState.HELD, JobState.STOPPING)
        and (one := future.get(job.key)) is not None
        and one.start is not None
        and one.start.at is not None
    ]
    waiting.sort(key=lambda one: (one[0], one[2].key))
    return [
        _placed(job, from_at, _FOR_EVER if ends_at is None else ends_at, world, rooms)
        for from_at, ends_at, job in waiting[:MOST_TO_COME]
    ]


def _placed(job: Job, from_at: float, until_at: float, world: World, rooms: Mapping[str, _Room]) -> Stretch:
    plan = best_first(job.spec, job.spec.plans, world)[0]
    room = rooms.get(plan.pool)
    nodes = room.take(plan.gpus, from_at, until_at) if room is not None else ()
    gpus = (plan.gpus // len(nodes),) * len(nodes) if nodes else (plan.gpus,)
    return Stretch(job.key, job.spec.team, plan.pool, nodes, gpus, from_at, until_at, Kind.TO_COME)


class _Room:
    """The nodes of a pool with who has them when."""

    def __init__(self, pool: Pool, there: Iterable[Stretch], changes: Sequence[CapacityChange]) -> None:
        self.gpus_per_node = pool.gpus_per_node
        out = {number for number, _ in pool.not_up}
        self._nodes = [number for number in range(most_nodes(pool, changes)) if number not in out]
        self._taken: dict[int, list[tuple[float, float, int]]] = defaultdict(list)
        for number, since, until in spans_away(pool, changes):
            self._enter((number,), (pool.gpus_per_node,), since, until)
        for one in there:
            if one.pool == pool.name and one.until_at > one.from_at:
                self._enter(one.nodes, one.gpus, one.from_at, one.until_at)

    def take(self, gpus: int, from_at: float, until_at: float) -> tuple[int, ...]:
        """The nodes that a gang gets then, the fullest on which it fits; none where there are not enough."""
        each = min(gpus, self.gpus_per_node)
        many = -(-gpus // self.gpus_per_node)
        free = [(self._free(number, from_at, until_at), number) for number in self._nodes]
        fit = sorted((left, number) for left, number in free if left >= each)
        if len(fit) < many:
            return ()
        # the fullest on which it fits, so that whole nodes stay whole; a gang's beside each other
        chosen = (fit[0][1],) if many == 1 else tuple(sorted(number for _, number in fit)[:many])
        self._enter(chosen, (each,) * many, from_at, until_at)
        return chosen

    def _free(self, number: int, from_at: float, until_at: float) -> int:
        met = [one for one in self._taken[number] if one[0] < until_at and one[1] > from_at]
        times = [from_at, *(since for since, _, _ in met if since > from_at)]
        most = max(sum(gpus for since, until, gpus in met if since <= at < until) for at in times)
        return self.gpus_per_node - most

    def _enter(self, nodes: Sequence[int], gpus: Sequence[int], from_at: float, until_at: float) -> None:
        for number, each in zip(nodes, gpus, strict=True):
            self._taken[number].append((from_at, until_at, each))
