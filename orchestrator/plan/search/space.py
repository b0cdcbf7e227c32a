"""What a search chooses from: values that are free, layouts made of them, and what each leaves of the
memory."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from orchestrator.config.choices import Framework
from orchestrator.config.schema import GpuConfig, ModelConfig, PlannerConfig
from orchestrator.plan.layout.deepspeed_rules import refusal as deepspeed_refusal
from orchestrator.plan.layout.framework_rules import refusal
from orchestrator.plan.layout.layout import Layout
from orchestrator.plan.layout.stages import cuts
from orchestrator.plan.layout.zero import Zero
from orchestrator.plan.perf.calibration import Calibration
from orchestrator.plan.perf.machine import Machine
from orchestrator.plan.perf.memory import Memory, memory_of
from orchestrator.plan.perf.software import Software, software_of
from orchestrator.plan.perf.step import StepModel, StepTime
from orchestrator.plan.plan import OFFLOAD_BUFFER_FACTOR

# The memory model is of first order: context, communicators and fragmentation are allowances in it, and
# nobody looked at what is chosen here. A layout that leaves less of the accelerator free is taken only where
# no other fits.
HEADROOM_SHARE = 0.05
# Predictions are no better than this: of layouts so close the simpler one is taken.
SAME_TIME = 0.005
# Above it, what the memory model may be off is more than what is left.
TIGHT_SHARE = 0.92
# So much of the time is given for a layout that neither offloads nor is tight: far less than predictions are
# off, and what it spares, memory that runs out and a bus that is busy, they do not have in them.
EASE = 0.02


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
    framework: Framework = Framework.deepspeed
    cp: tuple[int, ...] = (1,)
    vp: tuple[int, ...] = (1,)
    selective: tuple[bool, ...] = (False,)  # besides `recompute`
    sequence_parallel: bool | None = None
    ep_overlap: tuple[bool, ...] = (False,)  # where experts are divided
    layers: int = 0  # of the model, which interleaved stages have to divide

    @property
    def again(self) -> list[tuple[bool, bool]]:
        """What is computed again: all, or what selective recomputation repeats."""
        return [(full, part) for full in self.recompute for part in self.selective if not (full and part)]

    def overlaps(self, ep: int, recompute: bool) -> tuple[bool, ...]:
        """Whether experts send beside the computing, which Megatron-Core does not do with full
        recomputation."""
        if ep == 1:
            return (False,)
        return (False,) if recompute and False in self.ep_overlap else self.ep_overlap

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
    tight: bool  # takes more than TIGHT_SHARE of it
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
    def strain(self) -> int:
        """What may go wrong that no step time tells: how much is offloaded, and whether it is tight."""
        zero = self.sharding.zero
        return zero.offload_optimizer + zero.offload_parameters + self.tight

    @property
    def ease(self) -> float:
        """Share of the time that is given for less strain: ``EASE``, or the error of predictions where that
        is less."""
        return min(EASE, self._steps.error)

    @property
    def simplicity(self) -> tuple[int, int, int]:
        """Smaller is simpler: how many knobs are turned, the ZeRO stage, bytes in use."""
        layout, zero = self.layout, self.sharding.zero
        knobs = (layout.tp, layout.pp, layout.sp, layout.cp, layout.ep, layout.vp)
        degrees = sum(degree > 1 for degree in knobs)
        others = (
            layout.recompute
            + layout.selective
            + zero.offload_optimizer
            + zero.offload_parameters
            + (zero.hpz > 1)
        )
        return degrees + others, zero.stage, self.memory.total_bytes


class Steps:
    """Step times of one subject, calibrated where it has a calibration."""

    def __init__(self, subject: Subject, precision: str) -> None:
        self._models: dict[Software, StepModel] = {}
        self._subject, self._precision = subject, precision
        self.error = subject.constants.step_time_error
        self._calibration = subject.calibration

    def time(self, layout: Layout, zero: Zero) -> StepTime:
        subject, software = self._subject, software_of(layout)
        if software not in self._models:
            self._models[software] = StepModel(
                subject.model, subject.machine, subject.constants, self._precision, software
            )
        step = self._models[software].time(layout, zero)
        return self._calibration.apply(step) if self._calibration else step


def best_of(candidates: Sequence[Candidate]) -> Candidate:
    """The fastest with headroom, or the fastest where none has; of those nearly as fast one with less strain,
    and of equally fast ones the simplest."""
    field = [candidate for candidate in candidates if candidate.roomy] or candidates
    near = _within(field, field[0].ease)
    least = min(candidate.strain for candidate in near)
    alike = _within([candidate for candidate in near if candidate.strain == least], SAME_TIME)
    return min(alike, key=lambda c: (c.simplicity, c.step_time_s))


def _within(candidates: Sequence[Candidate], share: float) -> list[Candidate]:
    """Those that are at most that share slower than the fastest."""
    limit = min(candidate.step_time_s for candidate in candidates) * (1 + share)
    return [candidate for candidate in candidates if candidate.step_time_s <= limit]


class Degrees(NamedTuple):
    """Of parallelism, but for data parallelism, which follows."""

    tp: int
    pp: int
    sp: int
    ep: int
    cp: int = 1
    vp: int = 1


def shapes(space: Space) -> Iterator[Degrees]:
    """Degrees that divide the ranks and, ep, what is left to data parallelism, and the layers."""
    balanced = space.framework is not Framework.deepspeed
    for choice in itertools.product(space.tp, space.pp, space.sp, space.ep, space.cp, space.vp):
        degrees = Degrees(*choice)
        if space.ranks % (degrees.tp * degrees.pp * degrees.sp * degrees.cp):
            continue
        if data_parallel(space, degrees) * degrees.cp % degrees.ep:
            continue
        if degrees.vp == 1 or (degrees.pp > 1 and cuts(space.layers, degrees.pp, degrees.vp, balanced)):
            yield degrees


def does_not_run(space: Space, degrees: Degrees, zero: Zero) -> str | None:
    """Why the framework does not run them together; None where it does."""
    if space.framework is Framework.deepspeed:
        return deepspeed_refusal(degrees.tp, degrees.pp, degrees.sp, degrees.ep, zero)
    offloads = zero.offload_optimizer or zero.offload_parameters
    if zero.hpz > 1:
        return f"zero_hpz_partition_size is DeepSpeed's, and job.framework={space.framework.value}"
    return refusal(space.framework, degrees.sp, zero.stage, offloads)


def layout_of(
    space: Space,
    degrees: Degrees,
    zero: Zero,
    micro_batch: int,
    recompute: bool,
    selective: bool = False,
    ep_overlap: bool = False,
) -> Layout:
    """The layout of these choices; accumulation follows from the batch."""
    tp, pp, sp, ep, cp, vp = degrees
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
        vp=vp,
        selective=selective,
        cp=cp,
        framework=space.framework.value,
        sequence_parallel=space.sequence_parallel,
        ep_overlap=ep_overlap,
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
    whole = subject.gpu.memory_bytes
    roomy, tight = free >= HEADROOM_SHARE * whole, memory.total_bytes > TIGHT_SHARE * whole
    return Candidate(layout, sharding, memory, free, host_free, roomy, tight, steps)


def data_parallel(space: Space, degrees: Degrees) -> int:
    return space.ranks // (degrees.tp * degrees.pp * degrees.sp * degrees.cp)
