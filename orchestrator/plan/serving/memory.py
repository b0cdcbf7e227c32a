"""Bytes of weights and of the key-value cache on one accelerator."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.config.schema import ModelConfig
from orchestrator.plan.perf.kv_cache import layer_elements
from orchestrator.plan.perf.transformer import parameters
from orchestrator.plan.serving.request import ELEMENT_BYTES, Load, Software


@dataclass(frozen=True)
class Footprint:
    """Bytes of one accelerator: the weights, and the cache of one token of context in its layers."""

    weights_bytes: float
    kv_bytes_per_token: float


def footprint(model: ModelConfig, software: Software, tp: int, pp: int, ep: int = 1) -> Footprint:
    """Weights are cut by ranks and stages, the cache by stages and as far as there are heads: with more ranks
    than key-value heads each head has copies, and what latent attention keeps every rank has whole. Of
    ``ep`` ranks each has its part of the experts, all of the rest, and requests of its own."""
    size = parameters(model)
    experts = size.experts * size.layers
    each = ELEMENT_BYTES[software.kv_precision]
    elements = float(software.kv_elements_per_layer or layer_elements(model))
    if software.kv_elements_per_layer is None and not model.kv_lora_rank:
        elements /= min(tp, model.kv_heads)
    return Footprint(
        weights_bytes=(size.total - experts + experts / ep) * ELEMENT_BYTES[software.precision] / (tp * pp),
        kv_bytes_per_token=elements * each * model.layers / pp,
    )


def mean_context(model: ModelConfig, load: Load) -> float:
    """Tokens that a request has behind it on the mean of its answer, as far as the model looks back."""
    return looked_back(model, load.tokens_in + load.tokens_out / 2)


def looked_back(model: ModelConfig, tokens: float) -> float:
    """How many of so many tokens a layer attends to, on the mean over the layers."""
    if not model.sliding_window:
        return tokens
    full = model.layers // model.full_attention_every if model.full_attention_every else 0
    return (full * tokens + (model.layers - full) * min(tokens, model.sliding_window)) / model.layers
