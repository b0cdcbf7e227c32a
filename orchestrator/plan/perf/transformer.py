"""Parameters and floating-point operations of a decoder-only transformer.

The biases of a model with ``biases`` follow GPT-2 and GPT-3: one per output of each matrix of a
layer, and LayerNorm with scale and shift. Without, norms have a scale only (RMSNorm). There is
one embedding matrix when it is tied to the head, and two otherwise.

A model with experts has one router without bias per layer, and its experts are gated or plain MLPs
as a dense model's are. Left out: experts that every token shares, layers that stay dense among
others that do not, latent attention (DeepSeek), and tokens that a router drops.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from orchestrator.config.schema import ModelConfig
from orchestrator.errors import ConfigError

Attention = Literal["full", "causal"]


@dataclass(frozen=True)
class Parameters:
    """Counts of trainable parameters. ``layer`` is one layer, ``experts`` the part of it in all experts
    (0 in a dense model) and ``idle_experts`` the part in those that a token does not pass;
    ``embedding`` covers tokens and positions, ``head`` the output matrix where it is not tied to it."""

    layer: int
    layers: int
    embedding: int
    head: int
    final_norm: int
    experts: int = 0
    idle_experts: int = 0

    @property
    def total(self) -> int:
        return self.layer * self.layers + self.embedding + self.head + self.final_norm

    @property
    def active(self) -> int:
        """What one token passes: everything but the experts that it is not sent to."""
        return self.total - self.idle_experts * self.layers


def parameters(model: ModelConfig) -> Parameters:
    """Trainable parameters by part: Brown et al. 2020 (GPT-3) for learned positions and biases,
    Touvron et al. 2023 (LLaMA), Ainslie et al. 2023 for SwiGLU and grouped queries, Jiang et al. 2024
    (Mixtral) for experts, Yang et al. 2024 and 2025 (Qwen2.5, Qwen3) for QKV biases and QK norms.

    Raises ConfigError when the sizes do not fit each other.
    """
    _check(model)
    h = model.hidden
    norm = h * (2 if model.biases else 1)
    positions = model.seq_len * h if model.learned_positions else 0
    expert = mlp_matrix_elements(model) + _mlp_biases(model)
    router = router_elements(model)
    return Parameters(
        layer=attention_matrix_elements(model)
        + _attention_vectors(model)
        + router
        + model.experts * expert
        + 2 * norm,
        layers=model.layers,
        embedding=model.vocab * h + positions,
        head=0 if model.tie_embeddings else model.vocab * h,
        final_norm=norm,
        experts=model.experts * expert if model.experts > 1 else 0,
        idle_experts=(model.experts - model.experts_per_token) * expert,
    )


def head_width(model: ModelConfig) -> int:
    """Width of one attention head."""
    return model.head_dim or model.hidden // model.heads


def query_width(model: ModelConfig) -> int:
    """Width of the queries, and of the attention output, of one token."""
    return head_width(model) * model.heads


def kv_width(model: ModelConfig) -> int:
    """Width of the keys, and of the values, of one token."""
    return head_width(model) * model.kv_heads


def attention_matrix_elements(model: ModelConfig) -> int:
    """Elements of one layer's matrices for queries, keys, values and output."""
    return 2 * model.hidden * (query_width(model) + kv_width(model))


def mlp_matrix_elements(model: ModelConfig) -> int:
    """Elements of the two or three matrices of one MLP, which is one expert where there are several."""
    return model.hidden * model.ffn * (3 if model.gated_mlp else 2)


def router_elements(model: ModelConfig) -> int:
    """Elements of the matrix that chooses experts for a token; a dense model has none."""
    return model.hidden * model.experts if model.experts > 1 else 0


def active_layer_elements(model: ModelConfig) -> int:
    """Elements of the matrices of one layer that compute one token."""
    experts = model.experts_per_token * mlp_matrix_elements(model)
    return attention_matrix_elements(model) + router_elements(model) + experts


def forward_flops_per_token(model: ModelConfig, attention: Attention = "full") -> float:
    """FLOPs of one token's forward pass: 2 per matrix element that it passes, head included, embedding
    look-up not, plus attention (Narayanan et al. 2021, appendix; Chowdhery et al. 2022, PaLM, appendix B).

    ``attention="full"`` counts every pair of positions, 4 x seq_len x query width per layer, which is the
    convention of published MFU; ``"causal"`` counts the lower triangle, half of that. A sliding window
    leaves a band of that triangle, and of the square twice as much.
    """
    return _layers_forward_flops(model, attention) + 2.0 * model.vocab * model.hidden


def training_flops_per_token(model: ModelConfig, attention: Attention = "full") -> float:
    """FLOPs of one token's forward and backward pass, three times the forward pass: each matrix is
    used once forward and twice backward. What recomputing repeats is not in it."""
    return 3.0 * forward_flops_per_token(model, attention)


def recompute_flops_per_token(model: ModelConfig, attention: Attention = "full") -> float:
    """FLOPs that recomputing every layer in the backward pass adds per token: the layers' forward pass
    once more, without the head (Korthikanti et al. 2022)."""
    return _layers_forward_flops(model, attention)


def _layers_forward_flops(model: ModelConfig, attention: Attention) -> float:
    window = min(model.sliding_window or model.seq_len, model.seq_len)
    causal_pairs = window * (1 - window / (2 * model.seq_len))  # mean over the positions of a sequence
    pairs = 2 * causal_pairs if attention == "full" else causal_pairs
    return model.layers * (2.0 * active_layer_elements(model) + 4.0 * pairs * query_width(model))


def _attention_vectors(model: ModelConfig) -> int:
    """Parameters of a layer's attention that are in no matrix."""
    projected = query_width(model) + 2 * kv_width(model)
    biases = projected + model.hidden if model.biases else projected if model.qkv_biases else 0
    return biases + (2 * head_width(model) if model.qk_norms else 0)


def _mlp_biases(model: ModelConfig) -> int:
    return model.ffn * (2 if model.gated_mlp else 1) + model.hidden if model.biases else 0


def _check(model: ModelConfig) -> None:
    sizes = (
        "layers",
        "hidden",
        "heads",
        "kv_heads",
        "ffn",
        "vocab",
        "seq_len",
        "experts",
        "experts_per_token",
    )
    for name in (*sizes, "head_dim", "sliding_window"):
        value = getattr(model, name)
        if value is not None and value < 1:
            raise ConfigError(f"model.{name}={value} must be at least 1")
    if model.head_dim is None and model.hidden % model.heads:
        raise ConfigError(
            f"model.hidden={model.hidden} is not a multiple of model.heads={model.heads}: change one of them,"
            " or set model.head_dim"
        )
    if model.heads % model.kv_heads:
        raise ConfigError(
            f"model.heads={model.heads} is not a multiple of model.kv_heads={model.kv_heads}: "
            "change one of them (kv_heads = heads means no grouping)"
        )
    if model.experts_per_token > model.experts:
        raise ConfigError(
            f"model.experts_per_token={model.experts_per_token} is more than model.experts={model.experts}: "
            "change one of them"
        )
