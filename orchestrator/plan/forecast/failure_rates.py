"""What interrupts a run, what a checkpoint costs, and how often to save between them."""

from __future__ import annotations

import math
from dataclasses import dataclass

# From a fault to training again, without loading: MegaScale needs less than 600 s to detect and diagnose one,
# and 30 s to initialise more than 10,000 GPUs (Jiang et al., NSDI 2024, arXiv 2402.15627, sections 3.5 and
# 6.3).
RESTART_S = 630.0
# Staging in memory, of one rank; writing with hashes and fsync, of one node: 0.15 GB in 26 ms by two ranks,
# and in 0.54 s, measured on 4 CPU cores with one disk (docs/benchmarks.md, 2026-11). Published for 405B on
# 1,120 nodes: 0.59 s of stall, 51 s to write, 129 s to load (ByteCheckpoint, arXiv 2407.20143, table 8).
STAGED_BYTES_PER_S = 2.9e9
DURABLE_BYTES_PER_S = 0.28e9
# Of the jobs' `--checkpoint_every=auto` (jobs/intervals.py): never rarer than an hour, five steps apart at
# least.
LONGEST_INTERVAL_S = 3600.0
FEWEST_STEPS = 5


@dataclass(frozen=True)
class Hazards:
    """What interrupts a run, and for how long. `gpu_hours_per_failure` may be infinite: never. `restart_s` is
    from the fault to training again (noticing it, another node, initialisation) without loading the
    checkpoint; `reclaim_restart_s` the same after a spot node was taken away, with the wait for another, null
    as a fault. `spot_node_hours_per_interruption` is None where nodes are not reclaimed."""

    gpu_hours_per_failure: float
    restart_s: float = RESTART_S
    spot_node_hours_per_interruption: float | None = None
    reclaim_restart_s: float | None = None

    def per_s(self, gpus: int, nodes: int) -> tuple[float, float]:
        """Failures and reclaims per second of so many accelerators on so many nodes."""
        reclaims = (
            nodes / self.spot_node_hours_per_interruption if self.spot_node_hours_per_interruption else 0.0
        )
        return gpus / self.gpu_hours_per_failure / 3600.0, reclaims / 3600.0

    def mean_restart_s(self, gpus: int, nodes: int) -> float:
        """Of an interruption, whichever it is."""
        failures, reclaims = self.per_s(gpus, nodes)
        reclaim_s = self.restart_s if self.reclaim_restart_s is None else self.reclaim_restart_s
        return (failures * self.restart_s + reclaims * reclaim_s) / ((failures + reclaims) or math.inf)


@dataclass(frozen=True)
class Checkpoints:
    """What a checkpoint costs: `stall_s` of training that stands still, `write_s` until it is durable behind
    the training (0 where the training waits for the disk), `load_s` to restore it. `every_s` None is the best
    interval."""

    stall_s: float
    write_s: float = 0.0
    load_s: float = 0.0
    every_s: float | None = None
    state_bytes: float = 0.0  # of one; 0 is not known

    @classmethod
    def of(
        cls,
        state_bytes: float,
        gpus: int,
        nodes: int,
        *,
        staged: bool,
        storage_bytes_per_s: float | None = None,
    ) -> Checkpoints:
        """Checkpoints of `state_bytes` in all, spread evenly, at the rates measured here, or what the storage
        of all nodes takes where that is less; loaded as fast as written."""
        rate = nodes * DURABLE_BYTES_PER_S
        if storage_bytes_per_s is not None:
            rate = min(rate, storage_bytes_per_s)
        write_s = state_bytes / rate
        if not staged:
            return cls(stall_s=write_s, load_s=write_s, state_bytes=state_bytes)
        stall_s = state_bytes / gpus / STAGED_BYTES_PER_S
        return cls(stall_s=stall_s, write_s=write_s, load_s=write_s, state_bytes=state_bytes)


def checkpoint_interval_s(
    checkpoints: Checkpoints, rate_per_s: float, work_s: float, step_s: float = 0.0
) -> float:
    """Seconds of work between two checkpoints: the chosen interval, else the best (`best_interval_s`) as the
    jobs limit it; never shorter than a checkpoint takes to be written, nor longer than the run, which ends
    with one."""
    if checkpoints.every_s is not None:
        wanted_s = checkpoints.every_s
    else:
        best_s = best_interval_s(checkpoints.stall_s, 1 / rate_per_s) if rate_per_s else math.inf
        # Without a stall the best interval is none at all: a second stands for steps of unknown length.
        wanted_s = max(min(LONGEST_INTERVAL_S, best_s), FEWEST_STEPS * step_s or 1.0)
    return min(max(wanted_s, checkpoints.write_s), work_s)


def best_interval_s(stall_s: float, mtbf_s: float) -> float:
    """Seconds of work between two checkpoints that lose the least to stalls and to redoing work.

    Young, "A first order approximation to the optimum checkpoint interval", 1974, has sqrt(2 stall mtbf);
    this is equation 37 of Daly 2006, the same rule as a job's `--checkpoint_every=auto`.
    """
    if stall_s >= 2 * mtbf_s:
        return mtbf_s
    ratio = stall_s / (2 * mtbf_s)
    return math.sqrt(2 * stall_s * mtbf_s) * (1 + math.sqrt(ratio) / 3 + ratio / 9) - stall_s
