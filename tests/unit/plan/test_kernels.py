"""Times of kernels against the machine's limits, and how they change with shape and software."""

from __future__ import annotations

import dataclasses
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.config.schema import ModelConfig
from orchestrator.errors import ConfigError
from orchestrator.plan.perf.kernels import (
    ADAM_BYTES_PER_PARAMETER,
    FLASH_BACKWARD,
    PARTLY_ALIGNED,
    UNALIGNED,
    Kernels,
    Passes,
)
from orchestrator.plan.perf.software import DEEPSPEED, Software
from orchestrator.plan.perf.transformer import forward_flops_per_token
from tests.support.planned_machines import CLUSTERS, constants, kernels, machine, trained_models
from tests.unit.plan.test_memory import LLAMA_8B, MIXTRAL

UNFUSED = Software(fused_attention=False)
clusters = st.sampled_from(CLUSTERS)
sizes = st.integers(1, 20_000)
widths = st.sampled_from([512, 1024, 2048, 4096, 8192, 12288, 28672])


def sustained(cluster: str) -> float:
    return machine(cluster).sustained_flops("bf16")


@given(clusters, sizes, sizes, sizes, st.integers(1, 8))
def test_a_product_is_never_faster_than_arithmetic_or_memory_allow(
    cluster: str, rows: int, columns: int, depth: int, count: int
) -> None:
    seconds = kernels(LLAMA_8B, cluster).matmul_s(rows, columns, depth, sustained(cluster), count)
    assert seconds >= count * 2.0 * rows * columns * depth / sustained(cluster)
    moved = 2 * count * (rows * depth + depth * columns + rows * columns)
    assert seconds >= moved / machine(cluster).hbm_bytes_per_s


@given(clusters)
def test_a_large_product_comes_close_to_the_sustained_rate_and_a_thin_one_to_memory(cluster: str) -> None:
    times = kernels(LLAMA_8B, cluster)
    n = 32768
    assert times.matmul_s(n, n, n, sustained(cluster)) == pytest.approx(
        2 * n**3 / sustained(cluster), rel=0.03
    )
    weights_s = 2 * n * n / (machine(cluster).hbm_bytes_per_s * constants().hbm_efficiency)
    assert times.matmul_s(1, n, n, sustained(cluster)) == pytest.approx(weights_s, rel=0.01)


@given(clusters, sizes, sizes, sizes, st.integers(1, 4), st.integers(0, 2))
def test_a_product_takes_longer_in_every_dimension(
    cluster: str, rows: int, columns: int, depth: int, times_larger: int, which: int
) -> None:
    times, small = kernels(LLAMA_8B, cluster), [rows, columns, depth]
    large = list(small)
    large[which] = small[which] * times_larger + 1
    assert times.matmul_s(*small, sustained(cluster)) <= times.matmul_s(*large, sustained(cluster))
    # Twice the tiles never take more than twice as long: the tail of the last wave is shared.
    large[which] = 256 * small[which]
    doubled = [*large]
    doubled[which] *= 2
    once, twice = (times.matmul_s(*shape, sustained(cluster)) for shape in (large, doubled))
    assert once <= twice <= 2 * once * (1 + 1e-9)


@given(clusters, st.integers(1, 1000), widths, widths)
def test_a_linear_layer_takes_longer_backward(cluster: str, tokens: int, inputs: int, outputs: int) -> None:
    """Of whole tiles, and as many tokens as a sequence has: else one pass has an idle wave that others have
    not."""
    forward, backward = kernels(LLAMA_8B, cluster).linear_s(
        1024 * tokens, inputs, outputs, sustained(cluster)
    )
    assert forward < backward


@given(trained_models(), clusters, st.sampled_from([2, 4, 8]), st.integers(1, 4))
def test_tensor_parallelism_divides_a_layer_by_no_more_than_its_ranks(
    model: ModelConfig, cluster: str, tp: int, sequences: int
) -> None:
    times = kernels(model, cluster)
    for whole, part in ((times.layer(sequences, 1, 1), times.layer(sequences, tp, 1)),
                        (times.head(sequences, 1), times.head(sequences, tp))):  # fmt: skip
        for name in (field.name for field in dataclasses.fields(Passes)):
            assert getattr(whole, name) / tp <= getattr(part, name) * (1 + 1e-9)
        assert part.forward_s <= whole.forward_s
        assert part.backward_s <= whole.backward_s


@given(trained_models(), clusters)
def test_sequence_parallelism_divides_a_layer_by_no_more_than_its_ranks(
    model: ModelConfig, cluster: str
) -> None:
    times = kernels(model, cluster)
    whole, half = times.layer(2, 1, 1), times.layer(2, 1, 2)
    assert whole.forward_s / 2 <= half.forward_s * (1 + 1e-9)
    assert half.forward_s < whole.forward_s
    assert half.attention_forward_s == pytest.approx(whole.attention_forward_s / 2)
    assert times.head(2, 1, 2).forward_s < times.head(2, 1, 1).forward_s


@given(trained_models(), clusters, st.integers(1, 8))
def test_a_layer_is_never_faster_than_its_flops(model: ModelConfig, cluster: str, sequences: int) -> None:
    layer, head = kernels(model, cluster).layer(sequences, 1, 1), kernels(model, cluster).head(sequences, 1)
    needed = sequences * model.seq_len * forward_flops_per_token(model, "causal")
    forward_s = model.layers * layer.forward_s + head.forward_s
    backward_s = model.layers * layer.backward_s + head.backward_s
    assert forward_s >= needed / sustained(cluster)
    assert backward_s >= 2 * needed / sustained(cluster)


@pytest.mark.parametrize("software", [DEEPSPEED, UNFUSED])
@given(trained_models(), clusters)
def test_attention_grows_with_the_square_of_the_sequence_and_the_rest_does_not(
    software: Software, model: ModelConfig, cluster: str
) -> None:
    longer = replace(model, seq_len=2 * model.seq_len)
    here, there = (
        kernels(model, cluster, software).layer(2, 1, 1),
        kernels(longer, cluster, software).layer(1, 1, 1),
    )
    # of half as many sequences
    assert there.attention_forward_s == pytest.approx(2 * here.attention_forward_s)
    assert there.attention_backward_s == pytest.approx(2 * here.attention_backward_s)
    assert there.matmul_forward_s == here.matmul_forward_s
    assert there.memory_backward_s == here.memory_backward_s


@given(trained_models(), clusters)
def test_fused_attention_is_the_faster(model: ModelConfig, cluster: str) -> None:
    fused, unfused = kernels(model, cluster).layer(1, 1, 1), kernels(model, cluster, UNFUSED).layer(1, 1, 1)
    assert fused.attention_forward_s < unfused.attention_forward_s
    assert fused.attention_backward_s < unfused.attention_backward_s
    assert fused.attention_backward_s == pytest.approx(FLASH_BACKWARD * fused.attention_forward_s)


def test_hoppers_own_instructions_speed_up_attention_on_hopper_alone() -> None:
    modern = Software(hopper_attention=True)
    for cluster, faster in (("dgx_h100", True), ("dgx_a100", False)):
        before, after = (
            kernels(LLAMA_8B, cluster).layer(1, 1, 1),
            kernels(LLAMA_8B, cluster, modern).layer(1, 1, 1),
        )
        assert (after.attention_forward_s < before.attention_forward_s) == faster
        assert after.matmul_forward_s == before.matmul_forward_s


def test_products_of_heads_that_tensor_cores_do_not_take_are_slower() -> None:
    """They take 16 bytes at a time. BigScience's runs, whose heads of 108 and 150 are off by one halving and by
    two, were as slow as each other for it."""
    seconds = {
        width: kernels(replace(LLAMA_8B, head_dim=width), "dgx_a100", UNFUSED)
        .layer(1, 1, 1)
        .attention_forward_s
        for width in (8, 10, 12, 16)
    }
    # for each element of the width; what scores move is the same for all
    product_s = (seconds[16] - seconds[8]) / 8
    moved_s = seconds[8] - 8 * product_s
    assert moved_s > 0
    factor = constants().misaligned_factor
    assert seconds[12] == pytest.approx(12 * product_s * factor + moved_s)
    assert seconds[10] == pytest.approx(10 * product_s * factor + moved_s)


@given(clusters, st.integers(64, 2000), st.integers(1, 63))
def test_a_vocabulary_is_the_slower_the_less_of_it_is_copied_at_once(
    cluster: str, lines: int, ragged: int
) -> None:
    """Filled up to what tensor cores take, a vocabulary costs less than its own odd number of tokens."""
    full, model = 64 * lines, replace(LLAMA_8B, tie_embeddings=True)
    forward_s = {
        vocab: kernels(replace(model, vocab=vocab), cluster).head(4, 1).matmul_forward_s
        for vocab in (full - ragged, full)
    }
    slower = UNALIGNED if ragged % 2 else PARTLY_ALIGNED if ragged % 8 else 1.0
    same = kernels(model, cluster).matmul_s(
        4 * model.seq_len, full - ragged, model.hidden, sustained(cluster)
    )
    assert forward_s[full - ragged] == pytest.approx(slower * same, rel=0.01)
    if slower > 1:
        assert forward_s[full] < forward_s[full - ragged]


@given(clusters, st.sampled_from([1, 2, 4, 8]), st.integers(1000, 200_000))
def test_software_that_fills_its_vocabulary_up_is_as_fast_with_any(cluster: str, tp: int, vocab: int) -> None:
    fills = Software(pads_vocabulary=True)
    ragged, full = (replace(LLAMA_8B, vocab=size) for size in (vocab, vocab // (8 * tp) * 8 * tp))
    assert kernels(full, cluster, fills).head(1, tp) == kernels(full, cluster).head(1, tp)
    filled_s, as_it_is_s = (kernels(ragged, cluster, s).head(1, tp).forward_s for s in (fills, DEEPSPEED))
    if vocab // tp % 8 == 0:
        assert filled_s == as_it_is_s
    else:
        assert filled_s < as_it_is_s


@given(trained_models(), clusters, st.sampled_from([2, 4, 8]))
def test_a_sliding_window_is_cheaper_the_narrower_it_is(model: ModelConfig, cluster: str, part: int) -> None:
    times = {
        window: kernels(replace(model, sliding_window=window), cluster).layer(1, 1, 1)
        for window in (model.seq_len // part, model.seq_len, 2 * model.seq_len)
    }
    whole = kernels(model, cluster).layer(1, 1, 1)
    assert times[model.seq_len] == times[2 * model.seq_len] == whole
    narrow = times[model.seq_len // part].attention_forward_s
    band = 2 / part - 1 / part**2  # of the triangle: the whole less that of the positions outside
    assert narrow == pytest.approx(band * whole.attention_forward_s)


@pytest.mark.parametrize("cluster", CLUSTERS)
@pytest.mark.parametrize("experts", [2, 4, 8])
def test_one_expert_of_several_costs_as_much_as_a_dense_layer_and_the_routing(
    cluster: str, experts: int
) -> None:
    dense = replace(MIXTRAL, experts=1, experts_per_token=1)
    routed = replace(MIXTRAL, experts=experts, experts_per_token=1)
    alone, several = kernels(dense, cluster).layer(4, 1, 1), kernels(routed, cluster).layer(4, 1, 1)
    assert alone.matmul_forward_s <= several.matmul_forward_s <= 1.1 * alone.matmul_forward_s
    assert alone.forward_s < several.forward_s < 1.2 * alone.forward_s
    assert several.attention_forward_s == alone.attention_forward_s
    two = kernels(replace(routed, experts_per_token=2), cluster).layer(4, 1, 1)
    assert several.matmul_forward_s < two.matmul_forward_s < 2 * several.matmul_forward_s


def test_expert_parallelism_leaves_as_many_tokens_to_compute_and_fills_products_better() -> None:
    """Each rank keeps an eighth of the experts, which get the tokens of eight ranks."""
    times = kernels(MIXTRAL)
    alone, shared = times.layer(1, 1, 1, 1), times.layer(1, 1, 1, 8)
    assert 0.8 * alone.matmul_forward_s < shared.matmul_forward_s <= alone.matmul_forward_s
    assert shared.memory_forward_s == alone.memory_forward_s


def test_fewer_element_wise_passes_and_divided_sequences_save_memory_time() -> None:
    plain, fused = kernels(LLAMA_8B), kernels(LLAMA_8B, software=Software(elementwise_share=0.5))
    assert fused.layer(1, 1, 1).memory_forward_s == pytest.approx(plain.layer(1, 1, 1).memory_forward_s / 2)
    divided = kernels(LLAMA_8B, software=Software(sequence_parallel=True))
    assert divided.layer(1, 1, 1) == plain.layer(1, 1, 1)
    assert divided.layer(1, 8, 1).memory_forward_s == pytest.approx(plain.layer(1, 1, 1).memory_forward_s / 8)
    assert plain.layer(1, 8, 1).memory_forward_s > divided.layer(1, 8, 1).memory_forward_s


def test_eight_bits_speed_up_the_layers_products_but_not_attention_or_the_head() -> None:
    wide = kernels(LLAMA_8B)
    narrow = Kernels(LLAMA_8B, machine(), constants(), "fp8", DEEPSPEED)
    assert narrow.layer(1, 1, 1).matmul_forward_s < wide.layer(1, 1, 1).matmul_forward_s
    assert narrow.layer(1, 1, 1).attention_forward_s == wide.layer(1, 1, 1).attention_forward_s
    assert narrow.layer(1, 1, 1).memory_forward_s > wide.layer(1, 1, 1).memory_forward_s
    assert narrow.head(1, 1) == wide.head(1, 1)


@given(clusters, st.floats(1, 1e12))
def test_optimizer_and_accumulation_are_as_fast_as_memory(cluster: str, count: float) -> None:
    times, bytes_per_s = (
        kernels(LLAMA_8B, cluster),
        machine(cluster).hbm_bytes_per_s * constants().hbm_efficiency,
    )
    assert times.optimizer_s(count) * bytes_per_s == pytest.approx(ADAM_BYTES_PER_PARAMETER * count)
    assert times.accumulate_s(count) * bytes_per_s == pytest.approx(6 * count)


def test_a_precision_without_a_peak_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"job.precision=int8.*known: bf16"):
        Kernels(LLAMA_8B, machine(), constants(), "int8", DEEPSPEED)
