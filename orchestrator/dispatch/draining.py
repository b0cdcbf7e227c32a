"""Nodes on which nothing more is to start."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.dispatch.books import Books
from orchestrator.errors import ConfigError, near_miss


@dataclass(frozen=True)
class NodeDrain:
    """A node on which nothing more is started, or again."""

    host: str  # its name
    is_drained: bool  # whether nothing is started there
    jobs: list[str]  # keys of those that have it now, and may end there


def jobs_on(host: str, books: Books) -> list[str]:
    """Who has a node now. Raises :class:`ConfigError` where there is none of that name."""
    hosts = {slot.host for slot in books.nodes.values()}
    if host not in hosts:
        there = f"there are {', '.join(sorted(hosts))}" if hosts else "the daemon has seen none yet"
        raise ConfigError(f"drain {host}: no such node{near_miss(host, hosts)}; {there}")
    places = {at for at, slot in books.nodes.items() if slot.host == host}
    found = []
    for entry in books.live():
        where = entry.job.leaving or entry.job.placement
        if where is not None and places & {(where.pool, number) for number in where.nodes}:
            found.append(entry.key)
    return sorted(found)
