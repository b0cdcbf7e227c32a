"""The cheapest changes that make a job fit into memory, as overrides a person can paste."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

from orchestrator.config.choices import Framework
from orchestrator.config.schema import Device, GpuConfig, ModelConfig
from orchestrator.plan.layout.layout import Layout
from orchestrator.plan.layout.zero import Zero
from orchestrator.plan.perf.memory import memory_of

MOST_NODES_FACTOR = 64


@dataclass(frozen=True)
class _Change:
    """How far each knob is turned, cheapest first, and the overrides that turn it."""

    turns: tuple[int, int, int, int]
    overrides: tuple[str, ...]
    offloads: bool

    @property
    def cost(self) -> float:
        """Rough loss of throughput or money: sharding costs traffic, a smaller micro-batch efficiency,
        recompute a third of the FLOPs, offload the bus to the host, nodes their price."""
        zero, micro_batch, recompute, nodes = self.turns
        offload = 20 if self.offloads else 0
        return zero + 2 * micro_batch + 4 * recompute + offload + 30 * nodes + len(self.overrides) / 10

    def covers(self, other: _Change) -> bool:
        """Whether this asks for at least as much of every knob as `other`."""
        return self is not other and all(a >= b for a, b in zip(self.turns, other.turns, strict=True))


def what_fits(
    model: ModelConfig, gpu: GpuConfig, layout: Layout, zero: Zero | None = None, most: int = 3
) -> list[str]:
    """Up to `most` changes that fit, cheapest first; each is one or more overrides, space between them.

    For example ``["deepspeed=zero3", "layout.recompute=true job.micro_batch=2"]``. The global batch stays;
    no change contains a smaller one that would do. More nodes assume that the job takes the whole
    cluster. Empty when the job fits as it is, or when nothing tried here helps.
    """
    zero = zero or Zero.of_layout(layout)
    if _fits(model, gpu, layout, zero):
        return []
    fitting = []
    for parts in itertools.product(
        _zero_options(zero, layout, gpu), _micro_batches(layout), _recomputes(layout), _node_factors(layout)
    ):
        (zero_turn, new_zero, _), (batch_turn, micro_batch, _), (recompute_turn, again, _), nodes = parts
        candidate = replace(
            layout,
            micro_batch=micro_batch,
            recompute=again[0],
            selective=again[1],
            zero_stage=new_zero.stage,
            ranks=layout.ranks * nodes[1],
            dp=layout.dp * nodes[1],
        )
        divisible = layout.global_batch % (candidate.micro_batch * candidate.dp) == 0
        if divisible and _fits(model, gpu, candidate, new_zero):
            turns = (zero_turn, batch_turn, recompute_turn, nodes[0])
            offloads = new_zero.offload_parameters and not zero.offload_parameters
            fitting.append(_Change(turns, tuple(text for part in parts for text in part[2]), offloads))
    minimal = [change for change in fitting if not any(change.covers(other) for other in fitting)]
    return [" ".join(change.overrides) for change in sorted(minimal, key=lambda c: c.cost)[:most]]


def _recomputes(layout: Layout) -> Iterator[tuple[int, tuple[bool, bool], tuple[str, ...]]]:
    """All of a layer and a part of it; the part is Megatron's and FSDP's."""
    yield 0, (layout.recompute, layout.selective), ()
    if layout.recompute:
        return
    part = layout.framework != Framework.deepspeed.value and not layout.selective
    if part:
        yield 1, (False, True), ("layout.selective=true",)
    off = ("layout.selective=false",) * layout.selective
    yield 1 + part, (True, False), ("layout.recompute=true", *off)


def _fits(model: ModelConfig, gpu: GpuConfig, layout: Layout, zero: Zero) -> bool:
    return memory_of(model, gpu, layout, zero).total_bytes <= gpu.memory_bytes


def _zero_options(zero: Zero, layout: Layout, gpu: GpuConfig) -> Iterator[tuple[int, Zero, tuple[str, ...]]]:
    yield 0, zero, ()
    if zero.offload_parameters:
        return
    # DeepSpeed's pipeline engine works with ZeRO-0 and ZeRO-1 only, and Megatron has nothing like the others
    deepspeed = layout.framework == Framework.deepspeed.value
    most = 1 if layout.framework == Framework.megatron.value or (deepspeed and layout.pp > 1) else 3
    for turn, stage in enumerate(range(zero.stage + 1, most + 1), start=1):
        # as conf/deepspeed has it
        sharded = replace(zero, stage=stage, offload_optimizer=False, overlap_comm=True)
        yield turn, sharded, (f"deepspeed=zero{stage}",)
    if deepspeed and most == 3 and gpu.device is not Device.cpu:
        offloaded = replace(zero, stage=3, offload_optimizer=True, offload_parameters=True)
        yield most + 1 - zero.stage, offloaded, ("deepspeed=zero3_offload",)


def _micro_batches(layout: Layout) -> Iterator[tuple[int, int, tuple[str, ...]]]:
    """Divisors of the micro-batch, so that the global batch stays divisible."""
    yield 0, layout.micro_batch, ()
    smaller = [size for size in range(layout.micro_batch - 1, 0, -1) if layout.micro_batch % size == 0]
    for turn, size in enumerate(smaller, start=1):
        yield turn, size, (f"job.micro_batch={size}",)


def _node_factors(layout: Layout) -> Iterator[tuple[int, int, tuple[str, ...]]]:
    yield 0, 1, ()
    factors = [2**power for power in range(1, MOST_NODES_FACTOR.bit_length())]
    for turn, factor in enumerate(factors, start=1):
        yield turn, factor, (f"cluster.nodes={layout.nodes * factor}",)
