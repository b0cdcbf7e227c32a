"""Parameters and floating-point operations of a decoder-only transformer.

The biases of a model with ``biases`` follow GPT-2 and GPT-3: one per output of each matrix of a
layer, and LayerNorm with scale and shift. Without, norms have a scale only (RMSNorm). There is
one embedding matrix when it is tied to the head, and two otherwise.

A layer with experts has one router, and its experts are gated or plain MLPs as a dense model's are; some
may be shared by all tokens, and the first layers may have none (DeepSeek-AI 2024, DeepSeek-V3). Left out:
tokens that a router drops.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from orchestrator.config.schema import ModelConfig
from orchestrator.plan.perf.shape_checks import check_shape

Attention = Literal["full", "causal"]


@dataclass(frozen=True)
class Parameters:
    """Counts of trainable parameters. ``layer`` is one of the ``layers`` ordinary layers, ``experts`` the
    part of it in experts that a router chooses from (0 in a dense model) and ``idle_experts`` the part in
    those that a token does not pass; ``dense_layer`` is one of the ``dense_layers`` before them.
    ``embedding`` covers tokens and ``positions``, ``head`` the output matrix where it is not tied to it,
    ``mtp`` the layers that predict further tokens, which published totals leave out."""

    layer: int
    layers: int
    embedding: int
    positions: int
    head: int
    final_norm: int
    experts: int = 0
    idle_experts: int = 0
    dense_layer: int = 0
    dense_layers: int = 0
    mtp: int = 0

    @property
    def total(self) -> int:
        """Of the model as it is served, without ``mtp``."""
        in_layers = self.layer * self.layers + self.dense_layer * self.dense_layers
        return in_layers + self.embedding + self.head + self.final_norm

    @property
    def active(self) -> int:
        """What one token is computed with: everything but the experts that it is not sent to, and the
        embedding, in which it only looks up a row. The cards of gpt-oss, DeepSeek-V3 and Kimi K2 count so. A
        matrix that is tied to the head is computed with."""
        return self.active_with_embedding - (self.embedding if self.head else self.positions)

    @property
    def active_with_embedding(self) -> int:
        """The same with the whole embedding, as the cards of Mixtral and Qwen3 count."""
        return self.total - self.idle_experts * self.layers

    @property
    def trained(self) -> int:
        """All that has a gradient."""
        return self.total + self.mtp

    def of_layers(self, count: int, dense: int = 0) -> int:
        """Of ``count`` layers, the first ``dense`` of which have no experts."""
        return count * self.layer - dense * (self.layer - self.dense_layer)


def parameters(model: ModelConfig) -> Parameters:
    """Trainable parameters by part: Brown et al. 2020 (GPT-3) for learned positions and biases,
    Touvron et al. 2023 (LLaMA), Ainslie et al. 2023 for SwiGLU and grouped queries, Jiang et al. 2024
    (Mixtral) for experts, Yang et al. 2024 and 2025 (Qwen2.5, Qwen3) for QKV biases and QK norms, DeepSeek-AI
    2024 (DeepSeek-V3) for latent attention, shared experts and further tokens, OpenAI 2025 (gpt-oss) for
    sinks.

    Raises ConfigError when the sizes do not fit each other.
    """
    check_shape(model)
    h = model.hidden
    norm = h * (2 if model.biases else 1)
    positions = model.seq_len * h if model.learned_positions else 0
    expert = mlp_matrix_elements(model) + _mlp_biases(model, model.ffn)
    common = attention_matrix_elements(model) + _attention_vectors(model) + 2 * norm
    layer = common + router_elements(model) + _router_biases(model)
    layer += (model.experts + model.shared_experts) * expert
    dense_width = model.dense_ffn or model.ffn
    dense = common + h * dense_width * matrices(model) + _mlp_biases(model, dense_width)
    return Parameters(
        layer=layer,
        layers=model.layers - model.dense_layers,
        embedding=model.vocab * h + positions,
        positions=positions,
        head=0 if model.tie_embeddings else model.vocab * h,
        final_norm=norm,
        experts=model.experts * expert if model.experts > 1 else 0,
        idle_experts=(model.experts - model.experts_per_token) * expert,
        dense_layer=dense if model.dense_layers else 0,
        dense_layers=model.dense_layers,
        # each has a layer, norms of the two that it joins, the matrix that joins them, and a final norm
        mtp=model.mtp_layers * (layer + 2 * h * h + 3 * norm),
    )


def head_width(model: ModelConfig) -> int:
    """Width of one attention head, without the rotary part that latent attention has beside it."""
    return model.head_dim or model.hidden // model.heads


def query_width(model: ModelConfig) -> int:
    """Width of the queries of one token, over all heads."""
    return (head_width(model) + _rope_width(model)) * model.heads


def output_width(model: ModelConfig) -> int:
    """Width of the attention output of one token, over all heads."""
    return (model.value_head_dim or head_width(model)) * model.heads


def key_width(model: ModelConfig) -> int:
    """Width of the keys of one token as attention computes with them in training: latent ones are made as
    wide as the queries."""
    return query_width(model) if model.kv_lora_rank else head_width(model) * model.kv_heads


def value_width(model: ModelConfig) -> int:
    """Width of the values of one token, in the same sense."""
    return output_width(model) if model.kv_lora_rank else head_width(model) * model.kv_heads


def _rope_width(model: ModelConfig) -> int:
    return (model.rope_head_dim or 0) if model.kv_lora_rank else 0


def attention_projections(model: ModelConfig) -> list[tuple[int, int, bool, bool]]:
    """Inputs and outputs of attention's linear layers, and which of the two tensor parallelism divides."""
    h, queries, keys, values = model.hidden, query_width(model), key_width(model), value_width(model)
    out = (output_width(model), h, True, False)
    if not model.kv_lora_rank:
        return [(h, queries + keys + values, False, True), out]
    latent = model.kv_lora_rank
    q = [(h, queries, False, True)]
    if model.q_lora_rank:
        q = [(h, model.q_lora_rank, False, False), (model.q_lora_rank, queries, False, True)]
    without_position = head_width(model) * model.heads
    kv = [(h, latent + _rope_width(model), False, False), (latent, without_position + values, False, True)]
    return [*q, *kv, out]


def attention_matrix_elements(model: ModelConfig) -> int:
    """Elements of one layer's matrices for queries, keys, values and output."""
    return sum(inputs * outputs for inputs, outputs, _, _ in attention_projections(model))


def matrices(model: ModelConfig) -> int:
    """Of one MLP."""
    return 3 if model.gated_mlp else 2


def mlp_matrix_elements(model: ModelConfig) -> int:
    """Elements of the two or three matrices of one MLP, which is one expert where there are several."""
    return model.hidden * model.ffn * matrices(model)


def mlp_width(model: ModelConfig) -> float:
    """Inner width of what a token passes of a layer's MLPs, shared experts included; the mean over the
    layers."""
    routed = model.experts_per_token if model.experts > 1 else 1
    with_experts, dense = (routed + model.shared_experts) * model.ffn, model.dense_ffn or model.ffn
    return with_experts + (dense - with_experts) * model.dense_layers / model.layers


def router_elements(model: ModelConfig) -> int:
    """Elements of the matrix that chooses experts for a token; a dense model has none."""
    return model.hidden * model.experts if model.experts > 1 else 0


def windows(model: ModelConfig) -> list[tuple[float, int]]:
    """Shares of the layers, and how many positions a token of theirs attends to at most."""
    whole = model.seq_len
    if not model.sliding_window or model.sliding_window >= whole:
        return [(1.0, whole)]
    every = model.full_attention_every
    full = model.layers // every / model.layers if every else 0.0
    return [(1 - full, model.sliding_window), (full, whole)] if full else [(1.0, model.sliding_window)]


def forward_flops_per_token(model: ModelConfig, attention: Attention = "full") -> float:
    """FLOPs of one token's forward pass: 2 per matrix element that it passes, head included, embedding
    look-up not, plus attention (Narayanan et al. 2021, appendix; Chowdhery et al. 2022, PaLM, appendix B).

    ``attention="full"`` counts every pair of positions, 2 x seq_len x the widths of queries and output per
    layer, which is the convention of published MFU; ``"causal"`` counts the lower triangle, half of that. A
    sliding window leaves a band of that triangle, and of the square twice as much. Layers that predict
    further tokens are part of training, each with the head once more.
    """
    head = 2.0 * model.vocab * model.hidden
    further = model.mtp_layers * (
        _layers_forward_flops(model, attention) / model.layers + 4.0 * model.hidden**2 + head
    )
    return _layers_forward_flops(model, attention) + head + further


def training_flops_per_token(model: ModelConfig, attention: Attention = "full") -> float:
    """FLOPs of one token's forward and backward pass, three times the forward pass: each matrix is
    used once forward and twice backward. What recomputing repeats is not in it."""
    return 3.0 * forward_flops_per_token(model, attention)


def recompute_flops_per_token(model: ModelConfig, attention: Attention = "full") -> float:
    """FLOPs that recomputing every layer in the backward pass adds per token: the layers' forward pass
    once more, without the head (Korthikanti et al. 2022)."""
    return _layers_forward_flops(model, attention)


def attention_pairs(model: ModelConfig, attention: Attention = "full") -> float:
    """Positions that one attends to, the mean over layers and over the positions of a sequence."""
    causal = sum(share * width * (1 - width / (2 * model.seq_len)) for share, width in windows(model))
    return 2 * causal if attention == "full" else causal


def _layers_forward_flops(model: ModelConfig, attention: Attention) -> float:
    with_experts = (model.layers - model.dense_layers) / model.layers
    elements = attention_matrix_elements(model) + with_experts * router_elements(model)
    elements += model.hidden * mlp_width(model) * matrices(model)
    scores = 2.0 * attention_pairs(model, attention) * (query_width(model) + output_width(model))
    return model.layers * (2.0 * elements + scores)


def _attention_vectors(model: ModelConfig) -> int:
    """Parameters of a layer's attention that are in no matrix."""
    projected = query_width(model) + key_width(model) + value_width(model)
    biases = projected if model.biases or model.qkv_biases else 0
    biases += model.hidden if model.biases or model.output_biases else 0
    norms = 2 * head_width(model) if model.qk_norms else 0
    if model.kv_lora_rank:
        norms += model.kv_lora_rank + (model.q_lora_rank or 0)
    return biases + norms + (model.heads if model.attention_sinks else 0)


def _mlp_biases(model: ModelConfig, width: int) -> int:
    has_them = model.biases or model.mlp_biases
    return width * (matrices(model) - 1) + model.hidden if has_them else 0


def _router_biases(model: ModelConfig) -> int:
    return model.experts if model.router_biases and model.experts > 1 else 0
