"""What the planner keeps of the published runs that it was measured beside."""

from __future__ import annotations

from dataclasses import dataclass, field

from orchestrator.config.ranges import Count, CountOr0, Factor, FactorOr0


@dataclass
class EvidenceConfig:
    """Published runs of one table that are alike, predicted by constants that were fitted to the other
    tables. Figures of :mod:`orchestrator.plan.perf.likeness`."""

    table: str = "???"  # where they stand, see benchmarks/planner/README.md
    architecture: str = "???"  # of the accelerators
    precision: str = "???"  # of the matrix products: 16-bit, fp8 or fp32
    framework: str = "???"  # deepspeed, megatron or fsdp, or other
    parallelism: str = "???"  # data, tensor or pipeline: the most that they divide
    experts: bool = False  # whether a router chooses among several MLPs
    ranks: Count = 1  # of the middle one
    hidden: CountOr0 = 0  # width of the middle one's model; 0 is like any
    rows: Count = 1  # how many
    # measured / predicted step time: the 10th, 30th, 50th, 70th and 90th percentile
    ratios: list[Factor] = field(default_factory=list)
    best_mfu: FactorOr0 = (
        0.0  # the most of the dense peak that any of them measured, attention counted in full
    )


@dataclass
class BestMfuConfig:
    """The most that published runs of models about as wide reached on such accelerators."""

    table: str = "???"  # where that run stands
    architecture: str = "???"  # of the accelerators
    precision: str = "???"  # of the matrix products: 16-bit, fp8 or fp32
    experts: bool = False  # whether a router chooses among several MLPs
    hidden: Count = 1  # width of its model
    mfu: FactorOr0 = 0.0  # share of the dense peak, attention counted in full


@dataclass(kw_only=True)
class PlannerEvidence:
    """What :class:`~orchestrator.config.schema.PlannerConfig` has beside constants."""

    # mean of |predicted / measured - 1| of the memory per GPU, over published runs
    memory_error: FactorOr0 = 0.0
    # by which a range reaches further on either side than runs like the plan do, as a natural logarithm, and
    # as much again for each step by which no run is like it
    range_widening: FactorOr0 = 0.0
    # file with the two lists below, in conf/planner unless it is an absolute path
    published: str = ""
    # published runs by kind; empty takes step_time_error for every range; null takes those of the file
    evidence: list[EvidenceConfig] | None = None
    # by accelerator, precision, experts and width of the model; null takes those of the file
    best_published: list[BestMfuConfig] | None = None
