"""Model states against DeepSpeed's estimators, whole models by hand, and properties."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.config.schema import Device, GpuConfig, ModelConfig
from orchestrator.plan.layout.layout import Layout
from orchestrator.plan.layout.zero import Zero
from orchestrator.plan.perf.memory import (
    FRAGMENTATION,
    GIB,
    HEAP_FRAGMENTATION,
    NCCL_BYTES,
    PIPELINE_FRAGMENTATION,
    activation_bytes,
    memory_of,
    model_states,
)
from orchestrator.plan.perf.software import MEGATRON
from orchestrator.plan.perf.transformer import parameters

LLAMA_8B = ModelConfig("llama3_8b", 32, 4096, 32, 8, 14336, 128256, 8192)
LLAMA_70B = ModelConfig("llama3_70b", 80, 8192, 64, 8, 28672, 128256, 8192)
MIXTRAL = ModelConfig("mixtral_8x7b", 32, 4096, 32, 8, 14336, 32000, 4096, experts=8, experts_per_token=2)
H100 = GpuConfig(name="H100", memory_bytes=80_000_000_000)
CPU = GpuConfig(name="CPU core", device=Device.cpu, memory_bytes=4 * GIB)
ONE_NODE = Layout(
    nodes=1,
    ranks_per_node=8,
    ranks=8,
    dp=8,
    tp=1,
    pp=1,
    sp=1,
    ep=1,
    zero_stage=3,
    offload=False,
    recompute=True,
    precision="bf16",
    micro_batch=1,
    accumulation=8,
    global_batch=64,
)
COLD = Zero(live_parameters=0)  # the estimators count no parameters that stay gathered


# microsoft/DeepSpeed docs/code-docs/source/memory.rst@edaa722: stage, millions of parameters and of those
# of the largest layer, GPUs, offload of optimizer and parameters, then GiB per GPU and per CPU (printed "GB";
# the CPU figure holds a buffer factor of 1.5 and is given with zero_init=1).
ESTIMATES = [
    (2, 2851, 0, 8, True, False, 5.31, None),
    (1, 2851, 0, 8, False, False, 15.93, None),  # printed for stage 2, with gradients whole as in stage 1
    (2, 2851, 0, 8, False, False, 11.28, None),  # what the estimator of DeepSpeed 0.19.8 says
    (3, 2851, 32, 8, True, True, 0.12, 71.69),
    (3, 2851, 32, 8, True, False, 0.78, 63.72),
    (3, 2851, 32, 8, False, False, 6.09, None),
    (3, 737.67, 32.9, 4, False, False, 3.2139, None),
    (3, 737.67, 32.9, 4, True, True, 0.1221, None),
    (3, 737.67, 32.9, 4, True, False, 0.4658, None),
]


@pytest.mark.parametrize(
    ("stage", "total", "largest", "gpus", "optimizer", "weights", "gpu_gib", "cpu_gib"), ESTIMATES
)
def test_states_agree_with_deepspeeds_estimators(
    stage: int,
    total: float,
    largest: float,
    gpus: int,
    optimizer: bool,
    weights: bool,
    gpu_gib: float,
    cpu_gib: float,
) -> None:
    zero = replace(COLD, stage=stage, offload_optimizer=optimizer, offload_parameters=weights)
    states = model_states(int(total * 1e6), int(largest * 1e6), zero, gpus, "bf16")
    on_gpu = states.weights + states.gradients + states.optimizer
    assert on_gpu / GIB == pytest.approx(gpu_gib, abs=0.01)
    if cpu_gib is not None:
        assert 1.5 * gpus * states.host / GIB == pytest.approx(cpu_gib, rel=0.01)


def test_mixed_precision_adam_takes_twenty_four_bytes_per_parameter_unsharded() -> None:
    """Rajbhandari et al. 2020: 16 bytes. DeepSpeed's fused step makes float32 gradients of them, tensor by
    tensor, and flattens those into one more copy; the unfused one of a processor does without the latter."""
    states = model_states(10**9, 0, Zero(), 1, "bf16")
    assert (states.weights, states.gradients, states.optimizer) == (2 * 10**9, 10 * 10**9, 12 * 10**9)
    assert model_states(10**9, 0, Zero(), 1, "bf16", flattens=False).gradients == 6 * 10**9
    plain = model_states(10**9, 0, Zero(), 1, "fp32")
    assert (plain.weights, plain.gradients, plain.optimizer) == (4 * 10**9, 4 * 10**9, 8 * 10**9)


def test_megatron_takes_eighteen_bytes_per_parameter_and_six_where_its_optimizer_is_distributed() -> None:
    """Megatron-Core's documentation of its distributed optimizer: 18 bytes, and 6 + 12 / d."""
    whole, divided = (model_states(10**9, 0, Zero(stage), 8, "bf16", software=MEGATRON) for stage in (0, 1))
    assert whole.weights + whole.gradients + whole.optimizer == 18 * 10**9
    assert divided.weights + divided.gradients + divided.optimizer == (6 + 12 / 8) * 10**9
    assert whole.gradients == divided.gradients == 4 * 10**9


def test_llama_8b_on_one_node_by_hand() -> None:
    zero = Zero(stage=3, live_parameters=10**9, reduce_bucket=2 * 10**8)
    needed = memory_of(LLAMA_8B, H100, ONE_NODE, zero)
    count, tokens = parameters(LLAMA_8B).total, 8192
    assert needed.weights == pytest.approx(2 * count / 8 + 2 * max(10**9, 2 * 128256 * 4096), rel=1e-6)
    assert needed.optimizer == pytest.approx(12 * count / 8, rel=1e-6)
    assert needed.logits == tokens * 128256 * 14
    layer = tokens * (2 * (6 * 4096 + 2 * 1024 + 4 * 14336) + 4 * 32)
    assert needed.activations == 32 * tokens * 4096 * 2
    assert needed.transient == 0  # the logits take more, and are gone before a layer is computed again
    again = memory_of(replace(LLAMA_8B, vocab=1024), H100, ONE_NODE, zero)
    of_backward = tokens * 2 * (2 * 4096 + 2 * 14336)  # gradients of output, input, and of gate and up
    assert again.transient == layer + of_backward - again.logits
    assert activation_bytes(LLAMA_8B, ONE_NODE, 32, 1) == needed.activations + layer
    assert needed.total_bytes < 80e9


def test_mixtral_on_one_node_by_hand() -> None:
    """Expert parallel ranks hold an eighth of the experts each, and all of everything else."""
    size = parameters(MIXTRAL)
    experts = 32 * 8 * 3 * 4096 * 14336
    assert size.experts * size.layers == experts
    layout = replace(ONE_NODE, zero_stage=1, ep=8)
    needed = memory_of(MIXTRAL, H100, layout, Zero(stage=1))
    held = size.total - experts + experts // 8
    assert needed.weights == 2 * held
    assert needed.optimizer == 12 * ((size.total - experts) // 8 + experts // 8)
    whole = memory_of(MIXTRAL, H100, replace(layout, ep=1), Zero(stage=1))
    assert whole.weights == 2 * size.total
    assert whole.optimizer == pytest.approx(needed.optimizer, rel=1e-6)
    token = 2 * (4 * 4096 + 2 * 2 * 4096 + 2 * 4096 + 2 * 1024 + 2 * 4 * 14336) + 4 * 32 + 4 * 8
    assert needed.activations == 32 * 4096 * 4096 * 2
    assert activation_bytes(MIXTRAL, layout, 32, 1) == needed.activations + 4096 * token


def test_cpu_offload_moves_nothing_on_a_cpu() -> None:
    layout = replace(ONE_NODE, precision="fp32", offload=True)
    assert memory_of(LLAMA_8B, CPU, layout) == memory_of(LLAMA_8B, CPU, replace(layout, offload=False))
    assert memory_of(LLAMA_8B, CPU, layout).host_bytes == 0


def test_zero_is_read_from_the_deepspeed_configuration() -> None:
    section = {"stage": 3, "offload_param": {"device": "cpu"}, "offload_optimizer": {"device": "none"}}
    zero = Zero.from_config({"zero_optimization": {**section, "reduce_bucket_size": 5e7}})
    assert zero == Zero(3, False, True, 50_000_000, overlap_comm=True)
    assert Zero.from_config({}) == Zero()
    assert Zero.from_config({"zero_optimization": {"stage": 2, "cpu_offload": True}}).offload_optimizer


@st.composite
def cases(draw: st.DrawFn) -> tuple[ModelConfig, GpuConfig, Layout]:
    heads = draw(st.sampled_from([4, 8]))
    hidden = heads * 64 * draw(st.integers(1, 8))
    model = ModelConfig(
        name="drawn",
        layers=4 * draw(st.integers(1, 8)),
        hidden=hidden,
        heads=heads,
        kv_heads=4,
        ffn=hidden * draw(st.integers(1, 4)),
        vocab=draw(st.integers(256, 1024)),
        seq_len=128 * draw(st.integers(1, 16)),
        gated_mlp=draw(st.booleans()),
        experts=draw(st.sampled_from([1, 4])),
    )
    tp, pp, dp = (
        draw(st.sampled_from([1, 2])),
        draw(st.sampled_from([1, 2])),
        draw(st.sampled_from([2, 4, 8])),
    )
    layout = replace(
        ONE_NODE,
        tp=tp,
        pp=pp,
        dp=dp,
        ep=draw(st.sampled_from([1, 2])) if model.experts > 1 else 1,
        ranks=tp * pp * dp,
        zero_stage=draw(st.integers(0, 3)),
        offload=draw(st.booleans()),
        recompute=draw(st.booleans()),
        precision=draw(st.sampled_from(["bf16", "fp32"])),
        micro_batch=draw(st.integers(1, 8)),
    )
    return model, draw(st.sampled_from([H100, CPU])), layout


@given(cases())
def test_total_is_the_sum_of_positive_parts(case: tuple[ModelConfig, GpuConfig, Layout]) -> None:
    model, gpu, layout = case
    needed = memory_of(model, gpu, layout)
    parts = (
        needed.weights,
        needed.gradients,
        needed.optimizer,
        needed.activations,
        needed.transient,
        needed.logits,
        needed.framework,
        needed.fragmentation,
    )
    assert all(part >= 0 for part in parts)
    assert needed.total_bytes == sum(parts) > 0


@given(cases())
def test_memory_grows_with_the_micro_batch(case: tuple[ModelConfig, GpuConfig, Layout]) -> None:
    model, gpu, layout = case
    larger = replace(layout, micro_batch=layout.micro_batch + 1)
    assert memory_of(model, gpu, layout).total_bytes < memory_of(model, gpu, larger).total_bytes


@given(cases())
def test_states_shrink_with_ranks_and_stage(case: tuple[ModelConfig, GpuConfig, Layout]) -> None:
    """Of 2 ranks and more; what ZeRO-3 keeps gathered is left out, for it does not shrink."""
    model, _, layout = case
    count = parameters(model).total

    def total(stage: int, shards: int) -> int:
        states = model_states(count, 0, replace(COLD, stage=stage), shards, layout.precision)
        return states.weights + states.gradients + states.optimizer

    for stage in range(3):
        assert total(stage + 1, layout.dp) <= total(stage, layout.dp)
        assert total(stage + 1, 2 * layout.dp) < total(stage + 1, layout.dp)


@given(cases())
def test_offload_and_tensor_parallelism_never_cost_memory(
    case: tuple[ModelConfig, GpuConfig, Layout],
) -> None:
    """But for the communicator of a dimension of parallelism that was not there."""
    model, gpu, layout = case
    kept = replace(layout, offload=False)
    here = memory_of(model, gpu, kept)
    assert memory_of(model, gpu, replace(layout, offload=True)).total_bytes <= here.total_bytes
    divided = memory_of(model, gpu, replace(kept, tp=2 * kept.tp, ranks=2 * kept.ranks))
    assert divided.total_bytes <= here.total_bytes + communicators(gpu, kept.tp == 1)


def communicators(gpu: GpuConfig, count: int) -> int:
    return count * NCCL_BYTES if gpu.device is Device.cuda else 0


@given(cases())
def test_recompute_saves_memory_of_more_than_two_layers(case: tuple[ModelConfig, GpuConfig, Layout]) -> None:
    model, gpu, layout = case
    with_it = memory_of(model, gpu, replace(layout, recompute=True)).total_bytes
    assert with_it <= memory_of(model, gpu, replace(layout, recompute=False)).total_bytes


@given(cases())
def test_expert_parallelism_never_costs_memory(case: tuple[ModelConfig, GpuConfig, Layout]) -> None:
    """But for a communicator, and what rounding up over fewer ranks adds: a parameter or two, 20 bytes
    each."""
    model, gpu, layout = case
    alone, shared = memory_of(model, gpu, replace(layout, ep=1)), memory_of(model, gpu, replace(layout, ep=2))
    difference = shared.total_bytes - alone.total_bytes - communicators(gpu, 1)
    assert difference == 0 if model.experts == 1 else difference <= 40
    if model.experts > 1 and layout.zero_stage < 3:
        assert difference < 0


@given(cases())
def test_what_is_lost_between_blocks_is_a_part_of_what_comes_and_goes(
    case: tuple[ModelConfig, GpuConfig, Layout],
) -> None:
    """Of all that a rank on cores has, whose heap gives little back. The float32 gradients of the step come
    and go as well."""
    model, gpu, layout = case
    needed = memory_of(model, gpu, layout)
    staged = layout.precision != "fp32" or layout.zero_stage > 0
    taken = needed.activations + needed.transient + needed.logits
    lost = FRAGMENTATION if layout.pp == 1 else PIPELINE_FRAGMENTATION
    least, most = lost * taken, lost * (taken + (needed.gradients if staged else 0))
    if gpu.device is Device.cpu:
        lost = HEAP_FRAGMENTATION * (needed.total_bytes - needed.framework - needed.fragmentation)
        least = most = lost
    assert least - 1 <= needed.fragmentation <= most + 1


@given(cases())
def test_gradients_that_add_up_lie_beside_the_bucket_on_a_heap_alone(
    case: tuple[ModelConfig, GpuConfig, Layout],
) -> None:
    model, gpu, layout = case
    once, often = (memory_of(model, gpu, replace(layout, accumulation=count, pp=1)) for count in (1, 2))
    beside = often.weights if gpu.device is Device.cpu and layout.zero_stage == 1 else 0
    assert often.gradients - once.gradients == beside
