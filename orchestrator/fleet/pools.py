"""Where jobs run: pools of equal nodes, what is reserved in them, and what comes and goes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from orchestrator.fleet.trace import Bools, Floats, Ints


class NodeState(StrEnum):
    UP = "up"
    DRAINING = "draining"  # what runs there may end, nothing starts there
    DOWN = "down"


@dataclass(frozen=True)
class Pool:
    """Nodes of one kind, numbered from 0. Only those that are not up are listed."""

    name: str
    nodes: int
    gpus_per_node: int
    usd_per_gpu_hour: float = 2.0
    gpu: str = ""
    kw_per_gpu: float = 0.0
    cap_kw: float | None = None
    from_at: float | None = None
    until_at: float | None = None
    not_up: tuple[tuple[int, NodeState], ...] = ()

    @property
    def gpus(self) -> int:
        return self.nodes * self.gpus_per_node

    def is_open(self, at: float) -> bool:
        """Whether its nodes can be had at that time."""
        return (self.from_at is None or at >= self.from_at) and (self.until_at is None or at < self.until_at)


@dataclass(frozen=True)
class CapacityChange:
    """Nodes that come to a pool (they get the next numbers) or leave it (those of the highest numbers)."""

    pool: str
    nodes: int  # below zero: so many leave
    at: float
    why: str = ""


@dataclass(frozen=True)
class Reservation:
    """Nodes of a pool, any of them, kept for a team or for one job."""

    pool: str
    nodes: int
    from_at: float
    until_at: float
    team: str = ""
    job: str = ""
    why: str = ""

    def is_on(self, at: float) -> bool:
        return self.from_at <= at < self.until_at


def where_nothing_starts(pool: Pool) -> Bools:
    """By node: whether it drains or is down."""
    out = np.zeros(pool.nodes, bool)
    out[[node for node, state in pool.not_up if state is not NodeState.UP and node < pool.nodes]] = True
    return out


def capacity_at(pools: Sequence[Pool], changes: Sequence[CapacityChange], at: float) -> Ints:
    """GPUs of each pool on which something may start then: of its nodes of today and those that will have
    come, without those that will have left."""
    found = []
    for pool in pools:
        nodes = pool.nodes + sum(one.nodes for one in changes if one.pool == pool.name and one.at <= at)
        out = sum(
            1 for node, state in pool.not_up if state is not NodeState.UP and node < min(nodes, pool.nodes)
        )
        found.append(max(nodes - out, 0) * pool.gpus_per_node if pool.is_open(at) else 0)
    return np.array(found, int)


def most_gpus(pools: Sequence[Pool], changes: Sequence[CapacityChange]) -> dict[str, int]:
    """GPUs that each pool has, or will have once."""
    return {pool.name: most_nodes(pool, changes) * pool.gpus_per_node for pool in pools}


def most_nodes(pool: Pool, changes: Sequence[CapacityChange]) -> int:
    """Nodes that it has, or will have once."""
    nodes = most = pool.nodes
    for one in sorted((one for one in changes if one.pool == pool.name), key=lambda one: one.at):
        nodes += one.nodes
        most = max(most, nodes)
    return most


def reserved_at(
    pools: Sequence[Pool], reservations: Sequence[Reservation], at: float, but_job: str, but_team: str
) -> Ints:
    """GPUs of each pool that are kept then, but for this job and this team."""
    found = np.zeros(len(pools), int)
    for place, pool in enumerate(pools):
        nodes = sum(
            one.nodes
            for one in reservations
            if one.pool == pool.name and one.is_on(at) and (one.job or one.team) not in (but_job, but_team)
        )
        found[place] = nodes * pool.gpus_per_node
    return found


def changed_until(pool: Pool, changes: Sequence[CapacityChange], at: float) -> Pool:
    """The pool with the nodes that it has then."""
    nodes = pool.nodes + sum(one.nodes for one in changes if one.pool == pool.name and one.at <= at)
    return replace(pool, nodes=max(nodes, 0)) if nodes != pool.nodes else pool


def spans_away(pool: Pool, changes: Sequence[CapacityChange]) -> list[tuple[int, float, float]]:
    """The times at which a node of the pool is yet to come or has left, those that come included."""
    here, nodes = [one for one in changes if one.pool == pool.name], pool.nodes
    since = dict.fromkeys(range(nodes, most_nodes(pool, changes)), -math.inf)
    found = []
    for one in sorted(here, key=lambda one: one.at):
        before, nodes = nodes, nodes + one.nodes
        found += [(number, since.pop(number), one.at) for number in range(before, nodes)]
        since |= dict.fromkeys(range(max(nodes, 0), before), one.at)
    return [*found, *((number, from_at, math.inf) for number, from_at in since.items())]


def leaves_at(pool: Pool, changes: Sequence[CapacityChange]) -> Floats:
    """By node of today, when it leaves first: those of the highest numbers. Infinite where it stays."""
    found, nodes = np.full(pool.nodes, math.inf), pool.nodes
    for one in sorted((one for one in changes if one.pool == pool.name), key=lambda one: one.at):
        nodes += one.nodes
        found[max(nodes, 0) :] = np.minimum(found[max(nodes, 0) :], one.at)
    return found


def fits_from(gpus: int, pool: Pool, changes: Sequence[CapacityChange], now: float) -> float | None:
    """When a pool will first be open with so many GPUs, as far as it is known."""
    times = [now, *(one.at for one in changes if one.pool == pool.name and one.at > now)]
    if pool.from_at is not None and pool.from_at > now:
        times.append(pool.from_at)
    fits = (at for at in sorted(times) if int(capacity_at([pool], changes, at)[0]) >= gpus)
    return next(fits, None)
