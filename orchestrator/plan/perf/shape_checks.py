"""Whether the sizes of a model fit each other."""

from __future__ import annotations

from orchestrator.config.schema import ModelConfig
from orchestrator.errors import ConfigError

_POSITIVE = (
    "layers", "hidden", "heads", "kv_heads", "ffn", "vocab", "seq_len", "experts", "experts_per_token",
    "head_dim", "sliding_window", "kv_lora_rank", "q_lora_rank", "rope_head_dim", "value_head_dim",
    "dense_ffn", "full_attention_every", "expert_nodes",
)  # fmt: skip
_NOT_NEGATIVE = ("shared_experts", "dense_layers", "mtp_layers")
_LATENT_ONLY = ("q_lora_rank", "rope_head_dim", "value_head_dim")


def check_shape(model: ModelConfig) -> None:
    """Raises :class:`ConfigError` naming the keys, their values and what to write instead."""
    for name in _POSITIVE:
        value = getattr(model, name)
        if value is not None and value < 1:
            raise ConfigError(f"model.{name}={value} must be at least 1")
    for name in _NOT_NEGATIVE:
        if getattr(model, name) < 0:
            raise ConfigError(f"model.{name}={getattr(model, name)} must be 0 or more")
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
    _check_variants(model)


def _check_variants(model: ModelConfig) -> None:
    """What latent attention, experts and windows ask of each other."""
    if model.kv_lora_rank is None:
        for name in _LATENT_ONLY:
            if getattr(model, name) is not None:
                raise ConfigError(
                    f"model.{name}={getattr(model, name)}: is a part of latent attention, which"
                    f" model.kv_lora_rank switches on; set that, or model.{name}=null"
                )
    else:
        if model.kv_heads != model.heads:
            raise ConfigError(
                f"model.kv_heads={model.kv_heads}: latent attention makes keys and values for each head; use"
                f" model.kv_heads={model.heads}"
            )
        if model.rope_head_dim is None or model.head_dim is None:
            raise ConfigError(
                f"model.kv_lora_rank={model.kv_lora_rank}: latent attention has heads of two parts; set"
                " model.head_dim and model.rope_head_dim to their widths"
            )
    if model.dense_layers > model.layers or (model.dense_layers == model.layers and model.experts > 1):
        raise ConfigError(
            f"model.dense_layers={model.dense_layers}: leaves none of the model.layers={model.layers} layers"
            f" to the experts; use model.dense_layers={max(0, model.layers - 1)} or less"
        )
    for name in ("dense_layers", "shared_experts", "expert_nodes"):
        if getattr(model, name) and model.experts == 1:
            raise ConfigError(
                f"model.{name}={getattr(model, name)}: means something beside experts only, and"
                f" model.experts=1; raise that, or set model.{name}=0"
            )
    if model.full_attention_every is not None and model.sliding_window is None:
        raise ConfigError(
            f"model.full_attention_every={model.full_attention_every}: without model.sliding_window every"
            " layer attends to all positions; set one, or model.full_attention_every=null"
        )
