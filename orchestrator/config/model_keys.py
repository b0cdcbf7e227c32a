"""Keys of models and training stacks of today: latent attention, shared experts, layers that stay dense,
prediction of several tokens, attention that differs from layer to layer; and what Megatron and FSDP divide
beside what DeepSpeed does."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.config.choices import Framework
from orchestrator.config.ranges import Count, CountOr0, Degree


@dataclass(kw_only=True)
class ModelVariants:
    """What :class:`~orchestrator.config.schema.ModelConfig` has beside sizes; the defaults are a plain
    transformer's."""

    # latent attention (DeepSeek-AI 2024, DeepSeek-V2): width of what keys and values are made from; null is
    # ordinary attention. head_dim is then the width of a head without its rotary part
    kv_lora_rank: Count | None = None
    q_lora_rank: Count | None = None  # the same of queries; null makes them from the residual stream
    rope_head_dim: Count | None = None  # width of its rotary part, whose key all heads share; null has none
    value_head_dim: Count | None = None  # width of a head of values; null is head_dim
    shared_experts: CountOr0 = 0  # experts of width ffn that every token passes, beside those of the router
    dense_layers: CountOr0 = 0  # how many layers at the beginning have one MLP in place of experts
    dense_ffn: Count | None = None  # inner width of their MLP; null is ffn
    # on how many nodes a token's experts are at the most, whatever their number: its router chooses groups of
    # experts first, and a token goes to each node once (4 in DeepSeek-V3); null is no limit
    expert_nodes: Count | None = None
    mtp_layers: CountOr0 = 0  # that predict tokens further ahead, trained beside the model and not part of it
    # with sliding_window, one of so many layers attends to all positions before; null is none of them
    full_attention_every: Count | None = None
    output_biases: bool = False  # of attention's output, as in gpt-oss
    mlp_biases: bool = False  # of each expert or MLP, as in gpt-oss
    router_biases: bool = False  # one for each expert, as in gpt-oss and DeepSeek-V3
    attention_sinks: bool = False  # one learned score for each head, as in gpt-oss


@dataclass(kw_only=True)
class LayoutVariants:
    """What :class:`~orchestrator.config.schema.LayoutConfig` has beside degrees that DeepSpeed knows: for
    jobs whose ``job.framework`` is megatron or fsdp."""

    cp: Degree = 1  # context parallel ranks, which pass keys and values on in a ring
    # computes again what is cheap: norms and activation functions, half of a layer's operations with fsdp
    selective: bool = False
    # tensor parallel ranks divide norms and residuals too; null is as the framework does
    sequence_parallel: bool | None = None
    # what experts send each other goes beside the computing of another micro-batch: DualPipe, or Megatron's
    # --overlap-moe-expert-parallel-comm
    ep_overlap: bool = False


@dataclass(kw_only=True)
class JobVariants:
    """What :class:`~orchestrator.config.schema.JobConfig` says of the script's software."""

    framework: Framework = Framework.deepspeed  # what divides model and training among the ranks
