"""How fast a GPU, or a processor core, multiplies matrices and moves memory."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from orchestrator.rank.check.messages import Measured

# Of the side of a square matrix: large enough for every tensor core, and for a core's caches.
_GPU_SIDE, _CORE_SIDE = 8192, 384
_GPU_BYTES, _CORE_BYTES = 1 << 30, 32 << 20
_WARM_UP = 3


def measure(gpu: int | None, seconds: float) -> Measured:
    """On the GPU of that index, or on a processor core."""
    return _on_core(seconds) if gpu is None else _on_gpu(gpu, seconds)


def _on_gpu(gpu: int, seconds: float) -> Measured:
    torch.cuda.set_device(gpu)
    a = torch.randn(_GPU_SIDE, _GPU_SIDE, device="cuda", dtype=torch.bfloat16)
    b, out = torch.randn_like(a), torch.empty_like(a)
    flops = 2.0 * _GPU_SIDE**3
    matmul = flops * _times_a_second(lambda: torch.mm(a, b, out=out), seconds)
    source = torch.empty(_GPU_BYTES, device="cuda", dtype=torch.uint8)
    target = torch.empty_like(source)
    moved = 2.0 * _GPU_BYTES  # read and written
    return Measured(matmul, moved * _times_a_second(lambda: target.copy_(source), seconds), 1.0)


def _times_a_second(work: Callable[[], object], seconds: float) -> float:
    """As the GPU's own clock has it, over so many calls that they take the time."""
    for _ in range(_WARM_UP):
        work()
    first = _elapsed_s(work, 1)
    calls = max(1, int(seconds / max(first, 1e-6)))
    return calls / _elapsed_s(work, calls)


def _elapsed_s(work: Callable[[], object], calls: int) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(calls):
        work()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1000


def _on_core(seconds: float) -> Measured:
    """By the processor time that the work had: other work on the node makes no core slower. How much of the
    time it had says ``given``."""
    torch.set_num_threads(1)
    a = torch.randn(_CORE_SIDE, _CORE_SIDE)
    b, out = torch.randn_like(a), torch.empty_like(a)
    source = torch.ones(_CORE_BYTES, dtype=torch.uint8)
    target = torch.ones_like(source)
    began_s, began_cpu_s = time.monotonic(), time.process_time()
    matmul = _times_a_processor_second(lambda: torch.mm(a, b, out=out), seconds)
    memory = _times_a_processor_second(lambda: target.copy_(source), seconds)
    given = (time.process_time() - began_cpu_s) / (time.monotonic() - began_s)
    return Measured(2.0 * _CORE_SIDE**3 * matmul, 2.0 * _CORE_BYTES * memory, min(1.0, given))


def _times_a_processor_second(work: Callable[[], object], seconds: float) -> float:
    """The best of short stretches: what shares the caches comes and goes."""
    work()
    deadline_s, best = time.monotonic() + seconds, 0.0
    while True:
        began_cpu_s, calls = time.process_time(), 0
        while time.process_time() - began_cpu_s < seconds / 10:
            work()
            calls += 1
        best = max(best, calls / (time.process_time() - began_cpu_s))
        if time.monotonic() > deadline_s:
            return best
