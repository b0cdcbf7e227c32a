"""What the training software does with kernels and communication; the default is DeepSpeed with torch."""

from __future__ import annotations

from dataclasses import dataclass


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
                         attention
    copies_loss          logits, softmax and gradient are tensors of their own; fused losses keep one
    gradient_bytes       moved per parameter to add a micro-batch's gradient to those before: 16-bit ones read
                         twice and written
    ring_attention       sequence parallel ranks pass keys and values on beside the attention (Liu et al.
                         2023) instead of exchanging heads for positions (Ulysses, Jacobs et al. 2023)
    half_copy            shards of 16-bit weights are kept beside the float32 ones, as by ZeRO-3 and not by
                         FSDP
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
    gradient_bytes: int = 6
    ring_attention: bool = False
    half_copy: bool = True


DEEPSPEED = Software()
