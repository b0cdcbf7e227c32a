"""Bytes of the keys and values that serving keeps for each sequence."""

from __future__ import annotations

from orchestrator.config.schema import ModelConfig
from orchestrator.plan.perf.transformer import head_width


def kv_bytes_per_token(model: ModelConfig, element_bytes: float = 2.0) -> float:
    """Of one token over all layers, as long as no window has moved past it: keys and values of each group of
    heads (Ainslie et al. 2023), or the latent with the shared rotary key (DeepSeek-AI 2024, DeepSeek-V2,
    section 2.1)."""
    return model.layers * layer_elements(model) * element_bytes


def kv_bytes(model: ModelConfig, tokens: int, element_bytes: float = 2.0) -> float:
    """Of one sequence of so many tokens: layers with a sliding window keep that many at most."""
    window = min(tokens, model.sliding_window or tokens)
    full = model.layers // model.full_attention_every if model.full_attention_every else 0
    kept = full * tokens + (model.layers - full) * window
    return kept * layer_elements(model) * element_bytes


def layer_elements(model: ModelConfig) -> int:
    """Of one token in one layer's cache."""
    if model.kv_lora_rank:
        return model.kv_lora_rank + (model.rope_head_dim or 0)
    return 2 * head_width(model) * model.kv_heads
