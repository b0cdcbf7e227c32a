"""Machines, constants and layouts of the planner's tests, as conf/ describes them."""

from __future__ import annotations

import functools
from dataclasses import replace

from hypothesis import strategies as st

from orchestrator.config.schema import ModelConfig, PlannerConfig
from orchestrator.plan.layout.layout import Layout
from orchestrator.plan.perf.kernels import Kernels
from orchestrator.plan.perf.machine import Machine
from orchestrator.plan.perf.software import DEEPSPEED, Software
from tests.unit.config.test_conf import composed, loaded
from tests.unit.plan.test_memory import ONE_NODE

CLUSTERS = ("dgx_a100", "azure_nd_a100_v4", "dgx_h100", "azure_nd_h100_v5", "dgx_b200")


@functools.cache
def machine(cluster: str = "dgx_h100") -> Machine:
    config = composed(f"cluster={cluster}")
    return Machine.of_config(config)


@functools.cache
def constants() -> PlannerConfig:
    found: PlannerConfig = loaded("planner", "default", PlannerConfig)
    return found


def kernels(model: ModelConfig, cluster: str = "dgx_h100", software: Software = DEEPSPEED) -> Kernels:
    return Kernels(model, machine(cluster), constants(), "bf16", software)


def layout(
    dp: int = 1, tp: int = 1, pp: int = 1, sp: int = 1, ep: int = 1, *, stage: int = 1, micro: int = 1,
    accumulation: int = 1, recompute: bool = False, vp: int = 1, selective: bool = False,
) -> Layout:  # fmt: skip
    """Of nodes with eight accelerators each, or of a part of one."""
    ranks = dp * tp * pp * sp
    return replace(
        ONE_NODE, nodes=max(1, ranks // 8), ranks_per_node=min(8, ranks), ranks=ranks, dp=dp, tp=tp, pp=pp,
        sp=sp, ep=ep, zero_stage=stage, recompute=recompute, micro_batch=micro, accumulation=accumulation,
        global_batch=micro * accumulation * dp, vp=vp, selective=selective,
    )  # fmt: skip


@st.composite
def trained_models(draw: st.DrawFn) -> ModelConfig:
    """Shapes as they are trained, from about 0.1 to 100 billion parameters; sizes that 8 ranks can share."""
    heads = 8 * draw(st.integers(1, 8))
    hidden = 128 * heads
    return ModelConfig(
        name="drawn",
        layers=8 * draw(st.integers(1, 10)),
        hidden=hidden,
        heads=heads,
        kv_heads=draw(st.sampled_from([8, heads])),
        ffn=hidden * draw(st.integers(2, 4)),
        vocab=1024 * draw(st.integers(32, 128)),
        seq_len=1024 * draw(st.sampled_from([1, 2, 4, 8])),
        gated_mlp=draw(st.booleans()),
    )
