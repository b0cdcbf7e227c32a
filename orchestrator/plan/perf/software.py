"""What the training software does with kernels, communication and memory; the default is DeepSpeed with
torch."""

from __future__ import annotations

from dataclasses import dataclass, replace

from orchestrator.config.choices import Framework
from orchestrator.plan.layout.layout import Layout
from orchestrator.plan.layout.stages import Schedule


@dataclass(frozen=True)
class Software:
    """What differs between training stacks, as far as it moves step time or memory.

    fused_attention      scores stay in the kernel (Dao et al. 2022)
    skips_masked         fused attention leaves out what the causal mask hides
    hopper_attention     and uses Hopper's asynchronous instructions (cuDNN, FlashAttention-3)
    elementwise_share    reads and writes of memory-bound kernels, relative to eager torch: compilers need
                         fewer
    host_factor          the same of kernels that the host starts
    sequence_parallel    tensor parallel ranks share norms and residuals too (Korthikanti et al. 2022)
    tp_overlap           tensor parallel communication runs beside matrix products
    selective_share      part of a layer's forward pass that selective recomputation repeats; None: its
                         attention, or where that is fused, norms and activation functions
    copies_loss          logits, softmax and gradient are tensors of their own; fused losses keep one
    logit_bytes          of each logit at the loss: as computed and in float32, its softmax and gradient; what
                         is overwritten counts once
    gradient_bytes       moved per parameter to add a micro-batch's gradient to those before: 16-bit ones read
                         twice and written
    float32_gradients    gradients add up in one float32 buffer, from which the optimizer reads; DeepSpeed
                         adds 16-bit ones and makes float32 of them at the step
    half_copy            shards of 16-bit weights are kept beside the float32 ones, as by ZeRO-3 and not by
                         FSDP
    frees_outputs        what a pipeline stage has sent on is freed (Korthikanti et al. 2022, appendix B)
    balanced_ends        embedding and head count as a layer each where stages are cut, if that comes out even
    schedule             order of a pipeline's passes
    pads_vocabulary      each rank's part of the vocabulary is filled up to a width that tensor cores take
                         (Megatron's --make-vocab-size-divisible-by)
    dropout              masks of residuals are kept, a byte for each element
    fp8_copies           16-bit weights have FP8 ones beside them, as they are and transposed (Transformer
                         Engine)
    """

    fused_attention: bool = True
    skips_masked: bool = True
    hopper_attention: bool = False
    elementwise_share: float = 1.0
    sequence_parallel: bool = False
    tp_overlap: bool = False
    host_factor: float = 1.0
    selective_share: float | None = None
    copies_loss: bool = True
    logit_bytes: int = 14
    gradient_bytes: int = 6
    float32_gradients: bool = False
    half_copy: bool = True
    frees_outputs: bool = False
    balanced_ends: bool = False
    schedule: Schedule = Schedule.one_forward_one_backward
    dropout: bool = False
    fp8_copies: bool = False
    pads_vocabulary: bool = False


DEEPSPEED = Software()
# Megatron-Core and NeMo: fused kernels and losses, gradients added within the products that make them.
MEGATRON = Software(
    hopper_attention=True, elementwise_share=0.5, sequence_parallel=True, tp_overlap=True, host_factor=0.6,
    copies_loss=False, logit_bytes=8, gradient_bytes=2, float32_gradients=True, frees_outputs=True,
    balanced_ends=True, fp8_copies=True, pads_vocabulary=True,
)  # fmt: skip
# PyTorch FSDP with compiled layers and, since 2025, a compiled loss, as torchtitan trains.
FSDP = Software(
    elementwise_share=0.5, sequence_parallel=True, host_factor=0.4, selective_share=0.45, logit_bytes=6,
    half_copy=False, balanced_ends=True,
)  # fmt: skip
_BY_FRAMEWORK = {Framework.deepspeed: DEEPSPEED, Framework.megatron: MEGATRON, Framework.fsdp: FSDP}


def software_of(layout: Layout) -> Software:
    """Of the framework that a layout is for."""
    software = _BY_FRAMEWORK[Framework(layout.framework)]
    if layout.sequence_parallel is None:
        return software
    return replace(software, sequence_parallel=layout.sequence_parallel)
