"""Nodes kept for a team or a job for a time."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.dispatch.books import Books
from orchestrator.dispatch.facts import Reserved, Unreserved
from orchestrator.dispatch.fleet_file import FleetFile
from orchestrator.dispatch.times import time_of, told
from orchestrator.errors import ConfigError, near_miss
from orchestrator.fleet.pools import Reservation
from orchestrator.papers import short


def reserve_facts(words: Mapping[str, str], fleet: FleetFile, books: Books, now: float) -> list[Reserved]:
    """Raises :class:`ConfigError` for what cannot be kept."""
    team, job = words.get("team"), words.get("job", "")
    if (team is None) == (not job):
        raise ConfigError("reserve: for whom? say team= or job=, one of them")
    if job and job not in books.jobs:
        raise ConfigError(f"job={short(job)}: no such job in the queue{near_miss(job, books.jobs)}")
    missing = [key for key in ("nodes", "until") if key not in words]
    if missing:
        raise ConfigError(f"reserve: {' and '.join(missing)} is missing; e.g. nodes=2 from=18:00 until=20:00")
    pool = fleet.pool(words["pool"]).pool if "pool" in words or len(fleet.pools) > 1 else fleet.pools[0].pool
    text = words["nodes"]
    nodes = int(text) if text.isdigit() else 0
    if not 0 < nodes <= pool.nodes:
        raise ConfigError(
            f"nodes={short(text)}: has to be a number from 1 to {pool.nodes}, those of {pool.name}"
        )
    from_at = time_of("from", words["from"], now) if "from" in words else now
    until_at = time_of("until", words["until"], from_at)
    if until_at <= max(from_at, now):
        raise ConfigError(
            f"until={short(words['until'])}: is not after {told(max(from_at, now), now)}, where it begins"
        )
    made = Reservation(
        pool.name, nodes, from_at, until_at, fleet.team(team) if team is not None else "", job,
        words.get("why", ""),
    )  # fmt: skip
    _check_overlap(made, pool.nodes, books, now)
    name = words.get("name") or next(
        f"r{number}" for number in range(1, 1_000_000) if f"r{number}" not in books.reservations
    )
    if name in books.reservations:
        raise ConfigError(f"name={short(name)}: is reserved under that name already; choose another")
    return [Reserved(name, made)]


def end_facts(name: str | None, books: Books) -> list[Unreserved]:
    """The end of one. Raises :class:`ConfigError` where there is none of that name."""
    known = sorted(books.reservations)
    if name is None or name not in known:
        there = f"there are {', '.join(known)}" if known else "there is none"
        raise ConfigError(f"reserve --off: name={name or ''}: no such reservation; {there}")
    return [Unreserved(name)]


def _check_overlap(made: Reservation, most: int, books: Books, now: float) -> None:
    """At no moment more nodes are kept than the pool has."""
    others = [
        (name, named.reservation)
        for name, named in books.reservations.items()
        if named.reservation.pool == made.pool
        and named.reservation.until_at > max(made.from_at, now)
        and named.reservation.from_at < made.until_at
    ]
    for at in [made.from_at, *(one.from_at for _, one in others if one.from_at >= made.from_at)]:
        on = [(name, one) for name, one in others if one.is_on(at)]
        kept = sum(one.nodes for _, one in on)
        if kept + made.nodes > most:
            said = " and ".join(
                f"{name} ({one.nodes} nodes until {told(one.until_at, now)})" for name, one in on
            )
            raise ConfigError(
                f"nodes={made.nodes}: {said} overlaps: at {told(at, now)} {made.pool} has {most - kept} nodes"
                f" left of {most}; reserve fewer, another time, or end one with 'reserve name={on[0][0]}"
                f" --off'"
            )
