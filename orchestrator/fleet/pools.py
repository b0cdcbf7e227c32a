"""Where jobs run: pools of equal nodes, what is reserved in them, and what comes and goes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class NodeState(StrEnum):
    UP = "up"
    DRAINING = "draining"  # what runs there may end, nothing starts there
    DOWN = "down"


@dataclass(frozen=True)
class Pool:
    """Nodes of one kind at one site, numbered from 0. Only those that are not up are listed."""

    name: str
    nodes: int
    gpus_per_node: int
    usd_per_gpu_hour: float = 2.0
    gpu: str = ""
    site: str = ""
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
