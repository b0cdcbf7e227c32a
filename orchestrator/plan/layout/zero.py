"""What DeepSpeed's ZeRO shards, gathers and offloads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.plan.layout.layout import Layout
from orchestrator.plan.sections import count_of, section_of


@dataclass(frozen=True)
class Zero:
    """What ZeRO shards and offloads. Buckets and live parameters are elements, with DeepSpeed's defaults."""

    stage: int = 0  # 0 to 3
    offload_optimizer: bool = False  # optimizer states are in the host's memory
    offload_parameters: bool = False  # weights are in the host's memory
    reduce_bucket: int = 500_000_000  # elements of gradients that are reduced at once
    overlap_comm: bool = False  # gradients travel beside the backward pass
    live_parameters: int = 1_000_000_000  # elements that stage 3 holds gathered at most
    prefetch_bucket: int = 50_000_000  # elements that stage 3 gathers ahead
    hpz: int = 1  # ranks of a node that keep a second copy of the weights among them (ZeRO++)

    @property
    def overlaps(self) -> bool:
        """Whether gradients travel beside the backward pass; stage 3 prefetches weights in any case."""
        return self.overlap_comm or self.stage == 3

    @classmethod
    def of_layout(cls, layout: Layout) -> Zero:
        """What a layout says, with default buckets."""
        stage, offload = layout.zero_stage, layout.offload
        return cls(stage, offload and stage > 0, offload and stage == 3, overlap_comm=stage > 0)

    @classmethod
    def from_config(cls, deepspeed: Mapping[str, Any]) -> Zero:
        """Read the `zero_optimization` section of a DeepSpeed configuration."""
        section = section_of(deepspeed, "zero_optimization")
        where = "zero_optimization."
        stage = count_of(section, "stage", 0, where)
        overlap = section.get("overlap_comm")
        return cls(
            stage=stage,
            offload_optimizer=_offloads(section, "offload_optimizer") or bool(section.get("cpu_offload")),
            offload_parameters=_offloads(section, "offload_param"),
            reduce_bucket=count_of(section, "reduce_bucket_size", cls.reduce_bucket, where),
            # at stage 0 DeepSpeed's engine reduces after the backward pass, whatever it is told
            overlap_comm=stage == 3 if overlap is None else stage > 0 and bool(overlap),
            live_parameters=count_of(section, "stage3_max_live_parameters", cls.live_parameters, where),
            prefetch_bucket=count_of(section, "stage3_prefetch_bucket_size", cls.prefetch_bucket, where),
            hpz=count_of(section, "zero_hpz_partition_size", 1, where) or 1,
        )


def _offloads(zero: Mapping[str, Any], name: str) -> bool:
    return section_of(zero, name, "zero_optimization.").get("device", "none") not in ("none", None)
