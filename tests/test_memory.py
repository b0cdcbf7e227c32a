"""Model states against DeepSpeed's estimators, activations against what torch saves, and properties."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.config import Device, GpuConfig, ModelConfig
from orchestrator.plan.layout import Layout
from orchestrator.plan.memory import GIB, Zero, activation_bytes, memory_of, model_states
from orchestrator.plan.transformer import parameters

LLAMA_8B = ModelConfig("llama3_8b", 32, 4096, 32, 8, 14336, 128256, 8192)
LLAMA_70B = ModelConfig("llama3_70b", 80, 8192, 64, 8, 28672, 128256, 8192)
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


@pytest.mark.parametrize(("stage", "total", "largest", "gpus", "optimizer", "weights", "gpu_gib", "cpu_gib"), ESTIMATES)
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


def test_mixed_precision_adam_takes_twenty_bytes_per_parameter_unsharded() -> None:
    """Rajbhandari et al. 2020: 16 bytes, and 4 for the float32 gradients that DeepSpeed makes at the step."""
    states = model_states(10**9, 0, Zero(), 1, "bf16")
    assert (states.weights, states.gradients, states.optimizer) == (2 * 10**9, 6 * 10**9, 12 * 10**9)
    plain = model_states(10**9, 0, Zero(), 1, "fp32")
    assert (plain.weights, plain.gradients, plain.optimizer) == (4 * 10**9, 4 * 10**9, 8 * 10**9)


def saved_bytes(model: ModelConfig, batch: int, dtype: torch.dtype) -> int:
    """Bytes that autograd keeps for one layer; LayerNorm, which is fused on CPU, stands in for RMSNorm."""
    h, head_dim = model.hidden, model.hidden // model.heads
    kv = model.kv_heads * head_dim
    shapes = [(h, h), (kv, h), (kv, h), (h, h), (model.ffn, h), (model.ffn, h), (h, model.ffn)]
    weights = [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]
    query, key, value, out, gate, up, down = weights
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if not any(tensor.untyped_storage().data_ptr() == w.untyped_storage().data_ptr() for w in weights):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    def split(x: torch.Tensor) -> torch.Tensor:
        return x.view(batch, model.seq_len, -1, head_dim).transpose(1, 2)

    x = torch.randn(batch, model.seq_len, h, dtype=dtype, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        normed = F.layer_norm(x, (h,))
        heads = (split(F.linear(normed, w)).contiguous() for w in (query, key, value))
        mixed = F.scaled_dot_product_attention(*heads, is_causal=True, enable_gqa=model.heads != model.kv_heads)
        middle = x + F.linear(mixed.transpose(1, 2).reshape(batch, model.seq_len, h), out)
        normed = F.layer_norm(middle, (h,))
        wide = (
            F.silu(F.linear(normed, gate)) * F.linear(normed, up) if model.gated_mlp else F.gelu(F.linear(normed, up))
        )
        result = middle + F.linear(wide, down)
    assert result.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("kv_heads", [8, 2])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_activations_are_what_autograd_saves(gated: bool, kv_heads: int, precision: str) -> None:
    model = ModelConfig("m", 1, 256, 8, kv_heads, 640, 512, 256, gated_mlp=gated)
    layout = replace(ONE_NODE, recompute=False, precision=precision, micro_batch=2)
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    # The CPU kernel's memory layout forces one copy of the attention output that CUDA's does not need.
    copy = 2 * 256 * 256 * dtype.itemsize
    measured = saved_bytes(model, 2, dtype) - copy
    assert activation_bytes(model, layout, layers=1, in_flight=1) == pytest.approx(measured, rel=0.01)


def test_activations_are_korthikantis_without_scores_and_dropout() -> None:
    """Korthikanti et al. 2022, equation 2: s b h (10 + 24 / t), of which 2 are dropout masks."""
    model = ModelConfig("gpt", 1, 4096, 32, 32, 16384, 50304, 2048, gated_mlp=False)
    for tp in (1, 8):
        layout = replace(ONE_NODE, recompute=False, tp=tp, micro_batch=4)
        expected = 2048 * 4 * 4096 * (8 + 24 / tp)
        assert activation_bytes(model, layout, layers=1, in_flight=1) == pytest.approx(expected, rel=0.005)


def test_llama_8b_on_one_node_by_hand() -> None:
    zero = Zero(stage=3, live_parameters=10**9, reduce_bucket=2 * 10**8)
    needed = memory_of(LLAMA_8B, H100, ONE_NODE, zero)
    count, tokens = parameters(LLAMA_8B).total, 8192
    assert needed.weights == pytest.approx(2 * count / 8 + 2 * max(10**9, 2 * 128256 * 4096), rel=1e-6)
    assert needed.optimizer == pytest.approx(12 * count / 8, rel=1e-6)
    assert needed.logits == tokens * 128256 * 14
    layer = tokens * (2 * (6 * 4096 + 2 * 1024 + 4 * 14336) + 4 * 32)
    assert needed.activations == 32 * tokens * 4096 * 2 + layer
    assert needed.total_bytes < 80e9


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
        needed.logits,
        needed.framework,
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
    model, gpu, layout = case
    kept = replace(layout, offload=False)
    here = memory_of(model, gpu, kept).total_bytes
    assert memory_of(model, gpu, replace(layout, offload=True)).total_bytes <= here
    assert memory_of(model, gpu, replace(kept, tp=2 * kept.tp, ranks=2 * kept.ranks)).total_bytes <= here


@given(cases())
def test_recompute_saves_memory_of_more_than_two_layers(case: tuple[ModelConfig, GpuConfig, Layout]) -> None:
    model, gpu, layout = case
    with_it = memory_of(model, gpu, replace(layout, recompute=True)).total_bytes
    assert with_it <= memory_of(model, gpu, replace(layout, recompute=False)).total_bytes
