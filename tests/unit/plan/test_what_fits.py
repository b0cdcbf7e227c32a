"""Proposals for a job that does not fit: cheapest first, minimal, and each of them fits."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.config.schema import GpuConfig, ModelConfig
from orchestrator.plan.layout.layout import Layout
from orchestrator.plan.layout.zero import Zero
from orchestrator.plan.perf.memory import memory_of
from orchestrator.plan.search.remedies import what_fits
from tests.unit.plan.test_memory import H100, LLAMA_8B, LLAMA_70B, ONE_NODE, cases


def test_what_fits_is_empty_for_a_job_that_fits() -> None:
    assert what_fits(LLAMA_8B, H100, ONE_NODE) == []


def test_higher_zero_stage_is_proposed_first() -> None:
    assert what_fits(LLAMA_8B, H100, replace(ONE_NODE, zero_stage=0))[0] == "deepspeed=zero1"


def test_recompute_or_a_smaller_micro_batch_is_proposed_where_activations_are_too_many() -> None:
    layout = replace(ONE_NODE, recompute=False, micro_batch=8)
    proposals = what_fits(LLAMA_8B, H100, layout)
    assert proposals
    assert all("recompute" in text or "micro_batch" in text for text in proposals)


def test_more_nodes_or_offload_are_proposed_for_a_model_too_large_for_the_node() -> None:
    proposals = what_fits(LLAMA_70B, H100, ONE_NODE)
    assert any(text.startswith("cluster.nodes=") for text in proposals)
    assert any("deepspeed=zero3_offload" in text for text in proposals)


def test_a_higher_stage_is_proposed_without_the_offload_of_the_present_one() -> None:
    """deepspeed=zero3 leaves the optimizer on the GPUs, where 70B is too much for eight."""
    layout = replace(ONE_NODE, zero_stage=2, offload=True)
    proposals = what_fits(LLAMA_70B, H100, layout)
    assert proposals
    assert "deepspeed=zero3" not in proposals


def test_pipelines_are_never_told_to_use_zero_2() -> None:
    layout = replace(ONE_NODE, pp=2, dp=4, zero_stage=0, micro_batch=4)
    for text in what_fits(LLAMA_8B, H100, layout):
        assert "zero2" not in text
        assert "zero3" not in text


def overridden(layout: Layout, zero: Zero, text: str) -> tuple[Layout, Zero]:
    """What the proposed overrides make of a layout."""
    for override in text.split():
        key, value = override.split("=")
        if key == "deepspeed":
            offload = value == "zero3_offload"
            zero = replace(zero, stage=int(value[4]), offload_optimizer=offload, offload_parameters=offload)
            zero = replace(zero, overlap_comm=True)
        elif key == "layout.recompute":
            layout = replace(layout, recompute=True)
        elif key == "job.micro_batch":
            layout = replace(layout, micro_batch=int(value))
        else:
            factor = int(value) // layout.nodes
            layout = replace(layout, nodes=int(value), ranks=layout.ranks * factor, dp=layout.dp * factor)
    return layout, zero


@settings(deadline=None)  # tries hundreds of layouts per example
@given(cases(), st.integers(33, 38))
def test_every_proposal_fits(case: tuple[ModelConfig, GpuConfig, Layout], log2_bytes: int) -> None:
    model, gpu, layout = case
    gpu = replace(gpu, memory_bytes=2**log2_bytes // 3)
    layout = replace(layout, global_batch=layout.micro_batch * layout.dp * 64)
    zero = Zero.of_layout(layout)
    for text in what_fits(model, gpu, layout, zero):
        changed, changed_zero = overridden(layout, zero, text)
        assert memory_of(model, gpu, changed, changed_zero).total_bytes <= gpu.memory_bytes
        assert layout.global_batch % (changed.micro_batch * changed.dp) == 0
