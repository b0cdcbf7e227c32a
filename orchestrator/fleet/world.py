"""All that a decision may depend on, at one moment."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, field

from orchestrator.fleet.jobs import Job
from orchestrator.fleet.pools import CapacityChange, Pool, Reservation
from orchestrator.fleet.record import Record
from orchestrator.fleet.teams import Team


@dataclass(frozen=True)
class World:
    """``jobs`` are those that have not ended; of those that have, ``finished`` names who did what it was
    for. Whoever depends on one that is in neither waits for ever."""

    now: float
    jobs: tuple[Job, ...]
    pools: tuple[Pool, ...]
    teams: tuple[Team, ...] = ()
    reservations: tuple[Reservation, ...] = ()
    changes: tuple[CapacityChange, ...] = ()  # to come
    finished: Set[str] = frozenset()
    record: Record = field(default_factory=Record)
