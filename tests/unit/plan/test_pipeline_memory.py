"""How pipelines are cut, what their stages hold, and that the fullest one counts: against published runs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.config.schema import ModelConfig
from orchestrator.plan.layout.stages import Schedule, cuts, in_flight, stage_layers
from orchestrator.plan.perf.memory import GIB, memory_of
from orchestrator.plan.perf.software import MEGATRON
from tests.support.planned_machines import layout
from tests.unit.plan.test_memory import H100

WIDE_VOCABULARY = ModelConfig("gpt-4b", 32, 3072, 24, 24, 12288, 262144, 2048, gated_mlp=False)


@given(st.integers(1, 200), st.integers(1, 64), st.booleans())
def test_stages_have_all_layers_and_differ_by_one(layers: int, pp: int, balanced: bool) -> None:
    cut = stage_layers(layers, min(pp, layers), balanced)
    assert sum(cut) == layers
    assert max(cut) - min(cut) <= 1


def test_llama_405b_has_a_layer_less_in_its_first_and_last_stage() -> None:
    """Grattafiori et al. 2024, section 3.3.2: one layer removed from the first and the last stage each."""
    assert stage_layers(126, 16, balanced_ends=True) == (7, *[8] * 14, 7)
    assert stage_layers(126, 16) == (*[8] * 14, 7, 7)
    assert stage_layers(31, 4, balanced_ends=True) == (8, 8, 8, 7)
    assert stage_layers(32, 4, balanced_ends=True) == (8, 8, 8, 8)
    assert cuts(126, 16, 8, balanced_ends=True)
    assert not cuts(126, 16, 8, balanced_ends=False)
    assert not cuts(126, 16, 7, balanced_ends=True)


@pytest.mark.parametrize(("pp", "vp"), [(4, 2), (8, 3), (35, 3), (64, 2)])
def test_interleaved_stages_hold_what_is_published(pp: int, vp: int) -> None:
    """Korthikanti et al. 2022, section 4.2.3: the first stage stores L (1 + (p - 1) / (p m)) layers."""
    assert in_flight(0, pp, vp, 1000) == pytest.approx(pp * (1 + (pp - 1) / (pp * vp)))
    assert in_flight(0, pp, 1, 1000) == pp
    assert in_flight(pp - 1, pp, 1, 1000) == 1
    assert in_flight(0, pp, vp, 2) == in_flight(0, pp, 1, 2) == 2  # no more than a step has


@given(st.integers(2, 32), st.integers(1, 6), st.integers(1, 100))
def test_later_stages_hold_no_more_and_gpipe_holds_all(pp: int, vp: int, accumulation: int) -> None:
    held = [in_flight(stage, pp, vp, accumulation) for stage in range(pp)]
    assert held == sorted(held, reverse=True)
    assert held[0] <= in_flight(0, pp, vp, accumulation, Schedule.gpipe) == accumulation


def test_states_and_activations_of_trillion_parameter_models_are_the_published_ones() -> None:
    """Korthikanti et al. 2022, figure 1: GiB of weights, gradients and optimizer, and of activations with
    sequence parallelism and selective recomputation; embeddings not counted there."""
    published = [(96, 12288, 96, 8, 3, 45.56, 12.35), (105, 20480, 128, 35, 3, 31.64, 23.08)]
    unfused = replace(MEGATRON, fused_attention=False, dropout=True)
    for layers, hidden, heads, pp, vp, states, activations in published:
        model = ModelConfig("gpt", layers, hidden, heads, heads, 4 * hidden, 51200, 2048, gated_mlp=False)
        laid = layout(tp=8, pp=pp, vp=vp, stage=0, accumulation=64 * pp, selective=True)
        found = memory_of(model, H100, laid, software=unfused)
        assert (found.weights + found.gradients + found.optimizer) / GIB == pytest.approx(states, rel=0.08)
        assert found.activations / GIB == pytest.approx(activations, rel=0.01)


# Qi et al. 2023 (Zero Bubble Pipeline Parallelism, arXiv 2401.10241), tables 3 and 4: layers, hidden size,
# heads, stages, micro-batch, schedule, GB at the most of any rank. Nothing is fitted to these.
ZERO_BUBBLE = [
    (22, 2304, 24, 8, 6, Schedule.one_forward_one_backward, 30),
    (30, 4096, 32, 8, 3, Schedule.one_forward_one_backward, 39),
    (46, 5120, 40, 16, 1, Schedule.one_forward_one_backward, 32),
    (62, 6144, 48, 32, 1, Schedule.one_forward_one_backward, 43),
    (22, 2304, 24, 8, 6, Schedule.zero_bubble, 59),
    (30, 4096, 32, 8, 3, Schedule.zero_bubble, 70),
    (46, 5120, 40, 16, 1, Schedule.zero_bubble, 51),
    (62, 6144, 48, 32, 1, Schedule.zero_bubble, 74),
]


@pytest.mark.parametrize(
    ("layers", "hidden", "heads", "pp", "micro", "schedule", "published_gb"), ZERO_BUBBLE
)
def test_memory_of_published_pipelines_is_not_predicted_too_low(
    layers: int, hidden: int, heads: int, pp: int, micro: int, schedule: Schedule, published_gb: float
) -> None:
    model = ModelConfig("gpt", layers, hidden, heads, heads, 4 * hidden, 50304, 1024, gated_mlp=False)
    software = replace(MEGATRON, fused_attention=False, schedule=schedule)
    found = memory_of(
        model, H100, layout(pp=pp, stage=0, micro=micro, accumulation=8 * pp), software=software
    )
    allocated = found.total_bytes - found.framework
    assert published_gb * 1e9 < allocated < 1.15 * published_gb * 1e9


def test_a_large_vocabulary_fills_the_first_and_the_last_stage() -> None:
    """Yeung et al. 2024 (arXiv 2411.05288): at 256k entries the embedding alone is 0.8 of the 4 billion
    parameters, on one stage of eight."""
    laid = layout(pp=8, stage=0, accumulation=64)
    wide = memory_of(WIDE_VOCABULARY, H100, laid, software=MEGATRON)
    narrow = memory_of(replace(WIDE_VOCABULARY, vocab=32768), H100, laid, software=MEGATRON)
    embedding = (262144 - 32768) * 3072
    assert wide.weights - narrow.weights == 2 * embedding
    assert wide.total_bytes - narrow.total_bytes == 18 * embedding


def test_a_stage_between_the_ends_is_the_fullest_where_these_have_a_layer_less() -> None:
    """22 layers in eight stages: two and the embedding, then six times three, of seven micro-batches."""
    small = ModelConfig("gpt", 22, 2304, 24, 24, 9216, 1024, 1024, gated_mlp=False)
    laid = layout(pp=8, stage=0, micro=6, accumulation=64)
    found = memory_of(small, H100, laid, software=MEGATRON)
    layer = memory_of(replace(small, layers=8), H100, laid, software=MEGATRON).activations / 8
    assert found.activations == pytest.approx(3 * 7 * layer, rel=1e-6)
