"""Nodes kept for a team or a job for a time."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.dispatch.books import Books
from orchestrator.dispatch.facts import Reserved
from orchestrator.dispatch.fleet_file import FleetFile, PoolEntry
from orchestrator.dispatch.times import time_of, told
from orchestrator.errors import ConfigError, near_miss
from orchestrator.fleet.pools import Pool, Reservation
from orchestrator.papers import short
from orchestrator.text import plural


@dataclass(frozen=True)
class NodesReserved:
    """Nodes that are kept for a team or a job."""

    name: str  # by which it is ended
    pool: str  # whose nodes they are
    nodes: int  # so many, any of them
    team: str  # for whom; empty where it is a job
    job: str  # for which job; empty where it is a team
    from_unix_s: float  # when it begins
    until_unix_s: float  # when it ends
    why: str  # as it was typed


def reserved_nodes(books: Books, now: float) -> list[NodesReserved]:
    """Those that are not over, the next to begin first."""
    found = [
        nodes_reserved(name, named.reservation)
        for name, named in sorted(books.reservations.items())
        if named.reservation.until_at > now
    ]
    return sorted(found, key=lambda one: one.from_unix_s)


def nodes_reserved(name: str, one: Reservation) -> NodesReserved:
    """As it is told."""
    return NodesReserved(name, one.pool, one.nodes, one.team, one.job, one.from_at, one.until_at, one.why)


def reserve_fact(words: Mapping[str, str], fleet: FleetFile, books: Books, now: float) -> Reserved:
    """Raises :class:`ConfigError` for what cannot be kept."""
    team, job = words.get("team"), words.get("job", "")
    if (team is None) == (not job):
        raise ConfigError("reserve: for whom? say team= or job=, one of them")
    if job and job not in books.jobs:
        raise ConfigError(f"job={short(job)}: no such job in the queue{near_miss(job, books.jobs)}")
    missing = [key for key in ("nodes", "until") if key not in words]
    if missing:
        raise ConfigError(f"reserve: {' and '.join(missing)} is missing; e.g. nodes=2 from=18:00 until=20:00")
    entry = _pool(words.get("pool"), fleet)
    pool = entry.pool
    if job:
        _check_use(job, pool, books)
    from_at = time_of("from", words["from"], now) if "from" in words else now
    until_at = time_of("until", words["until"], from_at)
    if until_at <= max(from_at, now):
        raise ConfigError(
            f"until={short(words['until'])}: is not after {told(max(from_at, now), now)}, where it begins"
        )
    text, most = words["nodes"], _most_nodes(entry, max(from_at, now), until_at)
    nodes = int(text) if text.isdecimal() else 0
    if not 0 < nodes <= most:
        then = " then" if entry.changes else ""
        raise ConfigError(
            f"nodes={short(text)}: has to be a number from 1 to {most}, those of {pool.name}{then}"
        )
    made = Reservation(
        pool.name, nodes, from_at, until_at, fleet.team(team) if team is not None else "", job,
        words.get("why", ""),
    )  # fmt: skip
    _check_overlap(made, entry, books, now)
    taken = {one.name for one in reserved_nodes(books, now)}
    name = words.get("name") or next(
        f"r{number}" for number in itertools.count(1) if f"r{number}" not in taken
    )
    if name in taken:
        raise ConfigError(f"name={short(name)}: is reserved under that name already; choose another")
    return Reserved(name, made)


def _most_nodes(entry: PoolEntry, from_at: float, until_at: float) -> int:
    """So many it has all that time."""
    times = [from_at, *(one.at for one in entry.changes if from_at < one.at < until_at)]
    return min(entry.pool_at(at).nodes for at in times)


def _pool(name: str | None, fleet: FleetFile) -> PoolEntry:
    if name is None and len(fleet.pools) > 1:
        names = [each.pool.name for each in fleet.pools]
        raise ConfigError(f"pool: which one? there are {', '.join(names)}; say e.g. pool={names[0]}")
    return fleet.pools[0] if name is None else fleet.pool(name)


def _check_use(job: str, pool: Pool, books: Books) -> None:
    """Nodes where the job cannot run are kept for nobody."""
    pools = [plan.pool for plan in books.jobs[job].job.spec.plans]
    if pool.name not in pools:
        raise ConfigError(
            f"pool={pool.name}: {job} may run in {', '.join(pools)} only; reserve there, or move it first:"
            f" 'move {job} pool={pool.name}'"
        )


def reservation_named(name: str, books: Books) -> NodesReserved:
    """Raises :class:`ConfigError` where there is none of that name."""
    known = sorted(books.reservations)
    there = f"there are {', '.join(known)}" if known else "there is none"
    if not name:
        raise ConfigError(f"reserve --off: which one? {there}; say name=NAME")
    if name not in known:
        raise ConfigError(
            f"reserve --off: name={short(name)}: no such reservation{near_miss(name, known)}; {there}"
        )
    return nodes_reserved(name, books.reservations[name].reservation)


def _check_overlap(made: Reservation, entry: PoolEntry, books: Books, now: float) -> None:
    """At no moment more nodes are kept than the pool has."""
    others = [
        (name, named.reservation)
        for name, named in books.reservations.items()
        if named.reservation.pool == made.pool
        and named.reservation.until_at > max(made.from_at, now)
        and named.reservation.from_at < made.until_at
    ]
    begins = [one.from_at for _, one in others] + [one.at for one in entry.changes if one.at < made.until_at]
    for at in [max(made.from_at, now), *sorted(at for at in begins if at >= max(made.from_at, now))]:
        most = entry.pool_at(at).nodes
        on = [(name, one) for name, one in others if one.is_on(at)]
        kept = sum(one.nodes for _, one in on)
        if kept + made.nodes > most:
            said = " and ".join(
                f"{name} ({plural(one.nodes, 'node')} until {told(one.until_at, now)})" for name, one in on
            )
            raise ConfigError(
                f"nodes={made.nodes}: overlaps with {said}: at {told(at, now)} {made.pool} has"
                f" {plural(most - kept, 'node')} left of {most}; reserve fewer, choose another time, or end"
                f" one with 'reserve name={on[0][0]} --off'"
            )
