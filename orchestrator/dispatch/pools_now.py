"""What there is to run on at this moment."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from orchestrator.fleet.jobs import JobState
from orchestrator.fleet.pools import CapacityChange, NodeState, Pool
from orchestrator.fleet.world import World

HOLDS = frozenset({JobState.STARTING, JobState.RUNNING, JobState.STOPPING})


@dataclass(frozen=True)
class NodesChange:
    """Nodes that come to a pool or leave it, as the fleet file says."""

    at_unix_s: float  # when
    nodes: int  # so many; below zero they leave
    numbers: list[int]  # of those that leave; empty where nodes come
    why: str  # as the file says it


@dataclass(frozen=True)
class PoolNow:
    """One pool of the queue."""

    pool: str  # its name
    nodes: int  # that it has when all are there
    gpus_per_node: int  # of each
    used: int  # GPUs that jobs have now
    down: list[int]  # numbers of the nodes that are not there
    drained: list[int]  # numbers of the nodes on which nothing is started
    usd_per_gpu_hour: float  # what one costs
    opens_unix_s: float | None  # from when its nodes can be had; null where they can be always
    closes_unix_s: float | None  # until when they can be had; null where they can be always
    changes: list[NodesChange] = field(default_factory=list)  # that are to come, the next first
    bad: list[int] = field(default_factory=list)  # of those drained, what a check or a run found bad

    @property
    def gpus(self) -> int:
        return self.nodes * self.gpus_per_node

    @property
    def most_nodes(self) -> int:
        """That it has now, or will have once."""
        has = self.nodes
        return max([has, *(has := has + one.nodes for one in self.changes)])


def pool_now(world: World, pool: Pool, bad: Collection[int] = ()) -> PoolNow:
    """``bad`` are the numbers of nodes that are drained for what was found of them."""
    used = sum(
        sum(job.placement.gpus)
        for job in world.jobs
        if job.placement is not None and job.placement.pool == pool.name and job.state in HOLDS
    )
    return PoolNow(
        pool.name,
        pool.nodes,
        pool.gpus_per_node,
        used,
        [number for number, state in pool.not_up if state is NodeState.DOWN],
        [number for number, state in pool.not_up if state is NodeState.DRAINING],
        pool.usd_per_gpu_hour,
        pool.from_at,
        pool.until_at,
        nodes_changes(pool, world.changes),
        sorted(bad),
    )


def nodes_changes(pool: Pool, changes: Sequence[CapacityChange]) -> list[NodesChange]:
    found, has = [], pool.nodes
    for one in sorted((one for one in changes if one.pool == pool.name), key=lambda one: one.at):
        numbers = list(range(max(has + one.nodes, 0), has))
        has += one.nodes
        found.append(NodesChange(one.at, one.nodes, numbers, one.why))
    return found
