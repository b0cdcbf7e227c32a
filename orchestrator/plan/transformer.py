"""Parameters and floating-point operations of a decoder-only transformer.

The biases of a model with ``biases`` follow GPT-2 and GPT-3: one per output of each matrix of a
layer, and LayerNorm with scale and shift. Without, norms have a scale only (RMSNorm). There is
one embedding matrix when it is tied to the head, and two otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from orchestrator.config import ModelConfig
from orchestrator.errors import ConfigError

Attention = Literal["full", "causal"]


@dataclass(frozen=True)
class Parameters:
    """Counts of trainable parameters. ``layer`` is one layer; ``embedding`` covers tokens and positions,
    ``head`` the output matrix where it is not tied to the embedding."""

    layer: int
    layers: int
    embedding: int
    head: int
    final_norm: int

    @property
    def total(self) -> int:
        return self.layer * self.layers + self.embedding + self.head + self.final_norm

    @property
    def without_embedding(self) -> int:
        return self.total - self.embedding - self.head


def parameters(model: ModelConfig) -> Parameters:
    """Trainable parameters by part: Brown et al. 2020 (GPT-3) for learned positions and biases, and
    Touvron et al. 2023 (LLaMA), Ainslie et al. 2023 for SwiGLU and grouped queries.

    Raises ConfigError when the heads do not divide the sizes.
    """
    _check(model)
    h, f = model.hidden, model.ffn
    matrices = layer_matrix_elements(model)
    norm = h * (2 if model.biases else 1)
    biases = (2 * h + 2 * kv_width(model)) + (f * (2 if model.gated_mlp else 1) + h) if model.biases else 0
    positions = model.seq_len * h if model.learned_positions else 0
    return Parameters(
        layer=matrices + biases + 2 * norm,
        layers=model.layers,
        embedding=model.vocab * h + positions,
        head=0 if model.tie_embeddings else model.vocab * h,
        final_norm=norm,
    )


def kv_width(model: ModelConfig) -> int:
    """Width of the keys, and of the values, of one token."""
    return model.hidden // model.heads * model.kv_heads


def layer_matrix_elements(model: ModelConfig) -> int:
    """Elements of one layer's matrices: queries and output, keys and values, and the MLP's two or three."""
    attention = 2 * model.hidden * (model.hidden + kv_width(model))
    return attention + model.hidden * model.ffn * (3 if model.gated_mlp else 2)


def forward_flops_per_token(model: ModelConfig, attention: Attention = "full") -> float:
    """FLOPs of one token's forward pass: 2 per matrix element, head included, embedding look-up not,
    plus attention (Narayanan et al. 2021, appendix; Chowdhery et al. 2022, PaLM, appendix B).

    ``attention="full"`` counts every pair of positions, 4 x seq_len x hidden per layer, which is the
    convention of published MFU; ``"causal"`` counts the lower triangle, half of that.
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
    pairs = model.seq_len if attention == "full" else model.seq_len / 2
    return model.layers * (2.0 * layer_matrix_elements(model) + 4.0 * pairs * model.hidden)


def _check(model: ModelConfig) -> None:
    sizes = ("layers", "hidden", "heads", "kv_heads", "ffn", "vocab", "seq_len")
    for name in sizes:
        if getattr(model, name) < 1:
            raise ConfigError(f"model.{name}={getattr(model, name)} must be at least 1")
    if model.hidden % model.heads:
        raise ConfigError(
            f"model.hidden={model.hidden} is not a multiple of model.heads={model.heads}: change one of them"
        )
    if model.heads % model.kv_heads:
        raise ConfigError(
            f"model.heads={model.heads} is not a multiple of model.kv_heads={model.kv_heads}: "
            f"change one of them (kv_heads = heads means no grouping)"
        )
