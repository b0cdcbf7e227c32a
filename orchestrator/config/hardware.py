"""What accelerators and processors this machine has, without importing torch.

NVML answers in milliseconds and creates no CUDA context, so ``plan`` can ask it too.
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass


@dataclass(frozen=True)
class LocalGpu:
    """One visible GPU as NVML names it, e.g. ``NVIDIA H100 80GB HBM3``."""

    index: int
    uuid: str
    product: str
    memory_bytes: int


@functools.cache
def all_gpus() -> tuple[LocalGpu, ...]:
    """Every NVIDIA GPU of the machine; empty without a driver."""
    import pynvml  # here, as a plan for another cluster never asks

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        return tuple(
            LocalGpu(
                index=index,
                uuid=str(pynvml.nvmlDeviceGetUUID(handle)),
                product=str(pynvml.nvmlDeviceGetName(handle)),
                memory_bytes=int(pynvml.nvmlDeviceGetMemoryInfo(handle).total),
            )
            for index, handle in enumerate(handles)
        )
    finally:
        pynvml.nvmlShutdown()


def local_gpus() -> tuple[LocalGpu, ...]:
    """The GPUs that ``CUDA_VISIBLE_DEVICES`` leaves visible, in its order."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return all_gpus()
    chosen = []
    for token in filter(None, (part.strip() for part in visible.split(","))):
        match = [g for g in all_gpus() if token == str(g.index) or g.uuid.startswith(token)]
        if not match:
            break  # as CUDA does: an invalid entry hides itself and all that follow
        chosen.append(match[0])
    return tuple(chosen)


def threads_per_gpu() -> int:
    """Processor threads that each visible GPU's rank may use."""
    return max(1, cores() // max(1, len(local_gpus())))


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0))
