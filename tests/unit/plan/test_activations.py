"""Activations against what autograd saves, and against the published formula."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from orchestrator.config.schema import ModelConfig
from orchestrator.plan.perf.memory import activation_bytes
from tests.unit.plan.test_memory import ONE_NODE


def mlp(model: ModelConfig, dtype: torch.dtype) -> list[torch.Tensor]:
    shapes = [(model.ffn, model.hidden), (model.ffn, model.hidden), (model.hidden, model.ffn)]
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]


def through_mlp(model: ModelConfig, x: torch.Tensor, weights: list[torch.Tensor]) -> torch.Tensor:
    gate, up, down = weights
    wide = F.silu(F.linear(x, gate)) * F.linear(x, up) if model.gated_mlp else F.gelu(F.linear(x, up))
    return F.linear(wide, down)


def through_experts(
    model: ModelConfig, x: torch.Tensor, router: torch.Tensor, experts: list[list[torch.Tensor]]
) -> torch.Tensor:
    """As in Mixtral: each token's copies go through the experts that the router likes best."""
    tokens = x.flatten(0, 1)
    weights, chosen = F.linear(tokens, router).float().softmax(-1).topk(model.experts_per_token)
    result = torch.zeros_like(tokens)
    for number, expert in enumerate(experts):
        rows, places = torch.where(chosen == number)
        out = through_mlp(model, tokens[rows], expert) * weights[rows, places, None].to(x.dtype)
        # index_add would do the same and keep its source, for no more than its shape
        result = result.scatter_add(0, rows[:, None].expand_as(out), out)
    return result.view_as(x)


def saved_bytes(model: ModelConfig, batch: int, dtype: torch.dtype) -> int:
    """Bytes that autograd keeps for one layer; LayerNorm, which is fused on CPU, stands in for RMSNorm."""
    h, head_dim = model.hidden, model.head_dim or model.hidden // model.heads
    q, kv = model.heads * head_dim, model.kv_heads * head_dim
    shapes = [(q, h), (kv, h), (kv, h), (h, q), (model.experts, h)]
    query, key, value, out, router = [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]
    experts = [mlp(model, dtype) for _ in range(model.experts)]
    every = [query, key, value, out, router, *(weight for expert in experts for weight in expert)]
    pointers = {weight.untyped_storage().data_ptr() for weight in every}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in pointers:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    def split(x: torch.Tensor, norm: bool) -> torch.Tensor:
        heads = x.view(batch, model.seq_len, -1, head_dim)
        return (F.layer_norm(heads, (head_dim,)) if norm else heads).transpose(1, 2)

    x = torch.randn(batch, model.seq_len, h, dtype=dtype, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        normed = F.layer_norm(x, (h,))
        heads = (
            split(F.linear(normed, w), model.qk_norms and w is not value).contiguous()
            for w in (query, key, value)
        )
        mixed = F.scaled_dot_product_attention(
            *heads, is_causal=True, enable_gqa=model.heads != model.kv_heads
        )
        middle = x + F.linear(mixed.transpose(1, 2).reshape(batch, model.seq_len, q), out)
        normed = F.layer_norm(middle, (h,))
        dense = model.experts == 1
        wide = (
            through_mlp(model, normed, experts[0])
            if dense
            else through_experts(model, normed, router, experts)
        )
        result = middle + wide
    assert result.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("kv_heads", [8, 2])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_activations_are_what_autograd_saves(gated: bool, kv_heads: int, precision: str) -> None:
    model = ModelConfig("m", 1, 256, 8, kv_heads, 640, 512, 256, gated_mlp=gated)
    assert_saved(model, precision)


@pytest.mark.parametrize(
    "change",
    [
        {"head_dim": 64},
        {"qk_norms": True},
        {"experts": 8, "experts_per_token": 2},
        {"experts": 4, "experts_per_token": 3, "gated_mlp": False},
    ],
)
def test_activations_of_experts_and_other_heads_are_what_autograd_saves(change: dict[str, Any]) -> None:
    model = replace(ModelConfig("m", 1, 256, 8, 2, 640, 512, 256), **change)
    assert_saved(model, "fp32")
    assert_saved(model, "bf16")


def assert_saved(model: ModelConfig, precision: str) -> None:
    layout = replace(ONE_NODE, recompute=False, precision=precision, micro_batch=2)
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    # The CPU kernel's memory layout forces one copy of the attention output that CUDA's does not need.
    copy = 2 * model.seq_len * model.heads * (model.head_dim or model.hidden // model.heads) * dtype.itemsize
    measured = saved_bytes(model, 2, dtype) - copy
    assert activation_bytes(model, layout, layers=1, in_flight=1) == pytest.approx(measured, rel=0.01)


def test_activations_are_korthikantis_without_scores_and_dropout() -> None:
    """Korthikanti et al. 2022, equation 2: s b h (10 + 24 / t), of which 2 are dropout masks."""
    model = ModelConfig("gpt", 1, 4096, 32, 32, 16384, 50304, 2048, gated_mlp=False)
    for tp in (1, 8):
        layout = replace(ONE_NODE, recompute=False, tp=tp, micro_batch=4)
        expected = 2048 * 4 * 4096 * (8 + 24 / tp)
        assert activation_bytes(model, layout, layers=1, in_flight=1) == pytest.approx(expected, rel=0.005)
