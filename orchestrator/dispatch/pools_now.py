"""What there is to run on at this moment."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.fleet.jobs import JobState
from orchestrator.fleet.pools import NodeState, Pool
from orchestrator.fleet.world import World

HOLDS = frozenset({JobState.STARTING, JobState.RUNNING, JobState.STOPPING})


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

    @property
    def gpus(self) -> int:
        return self.nodes * self.gpus_per_node


def pool_now(world: World, pool: Pool) -> PoolNow:
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
    )
