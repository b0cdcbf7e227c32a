"""What a search chooses from: values that are free, layouts made of them, and what each leaves of the
memory."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from orchestrator.config.schema import GpuConfig, ModelConfig, PlannerConfig
from orchestrator.plan.layout.layout import Layout
from orchestrator.plan.layout.zero import Zero
from orchestrator.plan.perf.calibration import Calibration
from orchestrator.plan.perf.machine import Machine
from orchestrator.plan.perf.memory import Memory, memory_of
from orchestrator.plan.perf.step import StepModel, StepTime
from orchestrator.plan.plan import OFFLOAD_BUFFER_FACTOR

# The memory model is of first order: context, communicators and fragmentation are allowances in it, and
# nobody looked at what is chosen here. A layout that leaves less of the accelerator free is taken only where
# no other fits.
HEADROOM_SHARE = 0.05
# Predictions are no better than this: of layouts so close the simpler one is taken.
SAME_TIME = 0.005


@dataclass(frozen=True)
class Sharding:
    """One ZeRO configuration, and the overrides that choose it; none where it is kept as it is."""

    zero: Zero
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Space:
    """What is chosen from; what is given has one value. ``micro_batch`` and ``accumulation`` None are
    free."""

    nodes: int
    ranks_per_node: int
    global_batch: int
    precision: str
    tp: tuple[int, ...]
    pp: tuple[int, ...]
    sp: tuple[int, ...]
    ep: tuple[int, ...]
    recompute: tuple[bool, ...]
    shardings: tuple[Sharding, ...]
    micro_batch: int | None = None
    accumulation: int | None = None

    @property
    def ranks(self) -> int:
        return self.nodes * self.ranks_per_node

    def micro_batches(self, dp: int) -> list[int]:
        """Sequences that a rank can take at once, ascending: powers of two that divide its part of the
        batch."""
        if self.global_batch % dp:
            return []
        part = self.global_batch // dp
        if self.accumulation is not None:
            sizes = [part // self.accumulation] if part % self.accumulation == 0 else []
        else:
            sizes = [2**power for power in range(part.bit_length()) if part % 2**power == 0]
        if self.micro_batch is not None:
            accumulates = self.accumulation in (None, part // self.micro_batch)
            sizes = [self.micro_batch] if part % self.micro_batch == 0 and accumulates else []
        return sizes


@dataclass(frozen=True)
class Subject:
    """What is trained on what. ``host_memory_bytes`` is a node's; None is not checked."""

    model: ModelConfig
    gpu: GpuConfig
    machine: Machine
    constants: PlannerConfig
    host_memory_bytes: int | None = None
    calibration: Calibration | None = None

    def memory(self, layout: Layout, zero: Zero) -> Memory:
        found = memory_of(self.model, self.gpu, layout, zero)
        return self.calibration.apply_memory(found) if self.calibration else found


@dataclass(frozen=True)
class Candidate:
    """One layout with its memory; ``step`` is computed when it is asked for."""

    layout: Layout
    sharding: Sharding
    memory: Memory
    free_bytes: int  # of the accelerator; negative is what it lacks
    host_free_bytes: int  # of the node, 0 where nothing is offloaded or its memory is not known
    roomy: bool  # leaves HEADROOM_SHARE of the accelerator free
    _steps: Steps = field(repr=False, compare=False)

    @property
    def fits(self) -> bool:
        return self.free_bytes >= 0 and self.host_free_bytes >= 0

    @property
    def lacks_bytes(self) -> int:
        """Per accelerator, its share of the node's memory included."""
        return max(0, -self.free_bytes) + max(0, -self.host_free_bytes) // self.layout.ranks_per_node

    @cached_property
    def step(self) -> StepTime:
        return self._steps.time(self.layout, self.sharding.zero)

    @cached_property
    def step_time_s(self) -> float:
        return self.step.total_s

    @property
    def simplicity(self) -> tuple[int, int, int]:
        """Smaller is simpler: how many knobs are turned, the ZeRO stage, bytes in use."""
        layout, zero = self.layout, self.sharding.zero
        degrees = sum(degree > 1 for degree in (layout.tp, layout.pp, layout.sp, layout.ep))
        others = layout.recompute + zero.offload_optimizer + zero.offload_parameters + (zero.hpz > 1)
        return degrees + others, zero.stage, self.memory.total_bytes


class Steps:
    """Step times of one subject, calibrated where it has a calibration."""

    def __init__(self, subject: Subject, precision: str) -> None:
        self._model = StepModel(subject.model, subject.machine, subject.constants, precision)
        self._calibration = subject.calibration

    def time(self, layout: Layout, zero: Zero) -> StepTime:
        step = self._model.time(layout, zero)
        return self._calibration.apply(step) if self._calibration else step


def best_of(candidates: Sequence[Candidate]) -> Candidate:
    """The fastest with headroom, or the fastest where none has; of equally fast ones the simplest."""
    field = [candidate for candidate in candidates if candidate.roomy] or candidates
    limit = min(candidate.step_time_s for candidate in field) * (1 + SAME_TIME)
    return min((c for c in field if c.step_time_s <= limit), key=lambda c: (c.simplicity, c.step_time_s))


def shapes(space: Space) -> Iterator[tuple[int, int, int, int]]:
    """Degrees (tp, pp, sp, ep) that divide the ranks and, ep, what is left to data parallelism."""
    for tp, pp, sp, ep in itertools.product(space.tp, space.pp, space.sp, space.ep):
        if space.ranks % (tp * pp * sp) == 0 and data_parallel(space, (tp, pp, sp, ep)) % ep == 0:
            yield tp, pp, sp, ep


def layout_of(
    space: Space, degrees: tuple[int, int, int, int], zero: Zero, micro_batch: int, recompute: bool
) -> Layout:
    """The layout of these choices; accumulation follows from the batch."""
    tp, pp, sp, ep = degrees
    dp = data_parallel(space, degrees)
    return Layout(
        nodes=space.nodes,
        ranks_per_node=space.ranks_per_node,
        ranks=space.ranks,
        dp=dp,
        tp=tp,
        pp=pp,
        sp=sp,
        ep=ep,
        zero_stage=zero.stage,
        offload=zero.offload_optimizer or zero.offload_parameters,
        recompute=recompute,
        precision=space.precision,
        micro_batch=micro_batch,
        accumulation=space.global_batch // (dp * micro_batch),
        global_batch=space.global_batch,
    )


def candidate_of(subject: Subject, steps: Steps, layout: Layout, sharding: Sharding) -> Candidate:
    """A layout with what it leaves free."""
    memory = subject.memory(layout, sharding.zero)
    free = subject.gpu.memory_bytes - memory.total_bytes
    host_free = 0
    if memory.host_bytes and subject.host_memory_bytes is not None:
        host_free = subject.host_memory_bytes - int(
            memory.host_bytes * layout.ranks_per_node * OFFLOAD_BUFFER_FACTOR
        )
    roomy = free >= HEADROOM_SHARE * subject.gpu.memory_bytes
    return Candidate(layout, sharding, memory, free, host_free, roomy, steps)


def data_parallel(space: Space, degrees: tuple[int, int, int, int]) -> int:
    tp, pp, sp, _ = degrees
    return space.ranks // (tp * pp * sp)
