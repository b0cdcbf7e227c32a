"""What a plan asks of a node beside its accelerators: memory to stage checkpoints in, and time to save."""

from __future__ import annotations

import math

from orchestrator.errors import ConfigError
from orchestrator.export.order import Order
from orchestrator.plan.forecast.failure_rates import Checkpoints
from orchestrator.plan.forecast.prediction import CHECKPOINT_BYTES_PER_PARAMETER

SHM = "/dev/shm"
# A rank has two slots: one checkpoint is staged while the one before it is written.
SLOTS = 2
# Ray keeps what tasks return there, of which a run has next to nothing; NCCL's buffers and the queues of data
# loaders are there as well.
OBJECT_STORE_BYTES = 1_000_000_000
OTHERS_BYTES_PER_RANK = 1_000_000_000
# Of a rank's interpreter, libraries and CUDA context, beside what is in /dev/shm.
HOST_BYTES_PER_RANK = 8_000_000_000
# Slurm looks at its clock twice a minute: a signal may come up to 60 s earlier than it is asked for
# (sbatch, --signal), and the job's end is as exact.
SLURM_S = 60.0
_MOST_SHARE = 0.9  # of a node's memory, of which the system keeps some


def checkpoint_bytes(order: Order) -> float | None:
    """Of one checkpoint of all ranks; None where there is no model to count it from."""
    model = order.plan.model
    return None if model is None else float(model.parameters) * CHECKPOINT_BYTES_PER_PARAMETER


def stages_in_memory(order: Order) -> bool:
    snapshot = order.config.snapshot
    return snapshot.enabled and SHM in snapshot.dirs


def shm_bytes(order: Order) -> int | None:
    """Of one node's ``/dev/shm``; None where nobody knows what is staged there."""
    layout = order.plan.layout
    others = OBJECT_STORE_BYTES + OTHERS_BYTES_PER_RANK * layout.ranks_per_node
    if not stages_in_memory(order):
        return others
    whole = checkpoint_bytes(order)
    if whole is None:
        return None
    staged = SLOTS * whole * min(1.0, layout.ranks_per_node / layout.ranks)
    return math.ceil(staged) + others


def memory_bytes(order: Order, shm: int | None) -> int:
    """That a node needs for the run, with what is in ``/dev/shm``.

    Raises :class:`ConfigError` where the node has not so much.
    """
    needed = (shm or 0) + HOST_BYTES_PER_RANK * order.plan.layout.ranks_per_node
    has = order.config.cluster.host_memory_bytes
    if has is not None and needed > has * _MOST_SHARE:
        raise ConfigError(
            f"cluster.host_memory_bytes={has}: two generations of a checkpoint and the ranks need {needed}"
            f" bytes of a node's memory; write 'snapshot.dirs=[durable]', which stages nowhere, or take more"
            f" nodes than cluster.nodes={order.plan.layout.nodes}"
        )
    return needed


def save_s(order: Order) -> float:
    """From the signal to the end of the run: what the script may take, and what is written behind it."""
    layout, whole = order.plan.layout, checkpoint_bytes(order) or 0.0
    written = Checkpoints.of(
        whole, layout.ranks, layout.nodes, staged=stages_in_memory(order),
        storage_bytes_per_s=order.config.cluster.storage_bytes_per_s,
    )  # fmt: skip
    return order.config.recovery.stop_grace_s + written.stall_s + written.write_s
