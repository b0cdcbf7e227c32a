"""Bytes per GPU of a layout, by part, to first order.

Experts are taken to get equally many tokens, and none to drop any; what expert parallel ranks send
each other is not buffered here.

Left out: dropout masks, frozen weights, ZeRO++'s quantised copies, the uneven split of
layers that a pipeline may choose, norms replicated under tensor parallelism, and what unfused kernels
save on top: a composite RMSNorm, as on CPU, keeps up to two more float32 copies of its input.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from orchestrator.config.schema import Device, GpuConfig, ModelConfig
from orchestrator.plan.layout.layout import Layout
from orchestrator.plan.layout.zero import Zero
from orchestrator.plan.perf.software import DEEPSPEED, Software
from orchestrator.plan.perf.transformer import kv_width, parameters, query_width

GIB = 2**30
# Allowances, not measurements: they grow with the driver, the kernels loaded and the communicators.
CUDA_CONTEXT_BYTES = 1 * GIB
NCCL_BYTES = GIB // 2  # for all ranks, and again for each dimension of parallelism
# Of what comes and goes during a step, lost between the blocks of torch's allocator.
FRAGMENTATION = 0.06
# Of all that a rank on processor cores allocates: the C library's heap gives little of what was freed back.
HEAP_FRAGMENTATION = 0.5
CPU_PROCESS_BYTES = GIB // 8  # what a forked rank does not share with the process it came from
SCORE_BYTES = 5  # of unfused attention for each pair of positions and head (Korthikanti et al. 2022)
SELECTIVE_KEEPS = 0.42  # of what a layer saves, when every other product is computed again
ADAM_BYTES = 8  # two float32 moments per parameter


@dataclass(frozen=True)
class States:
    """Bytes of one rank's weights, gradients and optimizer states; ``host`` is what offload moved away."""

    weights: int
    gradients: int
    optimizer: int
    host: int
    share: int  # parameters whose optimizer states it holds


@dataclass(frozen=True)
class Memory:
    """Bytes of the fullest rank, by part. ``host_bytes`` is its share of host memory under offload."""

    weights: int  # of the model, in its precision
    gradients: int  # of the weights
    optimizer: int  # moments, and weights in full precision
    activations: int  # kept for the backward pass
    logits: int  # at the loss
    framework: int  # CUDA context, NCCL and DeepSpeed's buckets; on a processor the process itself
    fragmentation: int = 0  # what the allocator loses between its blocks
    host_bytes: int = 0  # in the host's memory, under offload

    @property
    def total_bytes(self) -> int:
        """Bytes on the accelerator."""
        states = self.weights + self.gradients + self.optimizer
        return states + self.activations + self.logits + self.framework + self.fragmentation


def memory_of(
    model: ModelConfig,
    gpu: GpuConfig,
    layout: Layout,
    zero: Zero | None = None,
    software: Software = DEEPSPEED,
) -> Memory:
    """Memory of the fullest rank: the first or the last of each pipeline.

    Without `zero`, DeepSpeed's default buckets are assumed and `layout.offload` means all that its stage
    can offload.
    """
    zero = zero or Zero.of_layout(layout)
    on_heap = gpu.device is Device.cpu
    if on_heap:  # host memory is all there is: offload moves nothing away
        zero = replace(zero, offload_optimizer=False, offload_parameters=False)
    size = parameters(model)
    layers = math.ceil(model.layers / layout.pp)
    first = layers * size.layer + size.embedding
    last = layers * size.layer + size.final_norm + (size.head or size.embedding)
    stages = (
        [(first, _in_flight(layout), False), (last, 1, True)] if layout.pp > 1 else [(size.total, 1, True)]
    )
    candidates = []
    for count, in_flight, has_head in stages:
        in_experts = layers * size.experts
        experts = math.ceil(in_experts / (layout.tp * layout.ep))
        held = math.ceil((count - in_experts) / layout.tp) + experts
        if not software.half_copy and zero.stage == 3:
            zero = replace(
                zero, live_parameters=(3 * size.layer + size.embedding) // layout.tp, reduce_bucket=0
            )
        states = model_states(
            held,
            _largest_matrix(model) // layout.tp,
            zero,
            layout.dp * layout.sp,
            layout.precision,
            experts=experts,
            expert_shards=layout.dp * layout.sp // layout.ep,
            half_copy=software.half_copy,
        )
        activations = activation_bytes(model, layout, layers, in_flight, software)
        logits = logit_bytes(model, layout, software) if has_head else 0
        gradients = states.gradients + (_beside_the_bucket(zero, layout, held) if on_heap else 0)
        scattered = activations + logits + (states.weights + gradients + states.optimizer if on_heap else 0)
        candidates.append(
            Memory(
                weights=states.weights,
                gradients=gradients,
                optimizer=states.optimizer,
                activations=activations,
                logits=logits,
                framework=_framework_bytes(gpu, zero, states.share, layout),
                fragmentation=int((HEAP_FRAGMENTATION if on_heap else FRAGMENTATION) * scattered),
                host_bytes=states.host,
            )
        )
    return max(candidates, key=lambda candidate: candidate.total_bytes)


def model_states(
    count: int, largest: int, zero: Zero, shards: int, precision: str, *, experts: int = 0,
    expert_shards: int = 1, half_copy: bool = True,
) -> States:  # fmt: skip
    """Bytes of the model states of one rank that holds `count` parameters, the biggest tensor of `largest`.

    ZeRO shards them over `shards` ranks, but `experts` of them over the `expert_shards` that hold the same
    experts: with expert parallelism fewer, each with fewer to hold (Rajbhandari et al. 2022, DeepSpeed-MoE).

    16-bit training keeps 2 bytes of weight and 2 of gradient per parameter, 4 of float32 gradient at the
    step, 4 of float32 master weight and 8 of Adam: Rajbhandari et al. 2020 (ZeRO), section 3.1, and
    DeepSpeed's `estimate_zero2/3_model_states_mem_needs`. float32 training has no master weight at stage
    0; DeepSpeed keeps one from stage 1 on. ZeRO-3 gathers what it works on: the largest tensor with its
    gradient, and up to `live_parameters`.
    """
    width = _width(precision)
    share = math.ceil((count - experts) / shards) + math.ceil(experts / expert_shards)
    half = precision != "fp32"
    optimizer = ADAM_BYTES + (4 if half or zero.stage else 0)
    if zero.stage == 0:
        return States(width * count, (6 if half else 4) * count, optimizer * count, 0, count)
    weights, staged = width * count, 4 * share
    gradients = width * (count if zero.stage == 1 else share)
    if zero.stage == 3:
        sharded = count - (experts if expert_shards == 1 else 0)
        live = min(sharded, zero.live_parameters)
        gathered = 0 if shards == 1 and not zero.offload_parameters else max(2 * largest, live) * width
        weights, gradients = (width * share if half_copy or not half else 0) + gathered, 0
    host = 0
    if zero.offload_optimizer:
        host += optimizer * share + staged
        optimizer, staged = 0, 0
        gradients = 0 if zero.stage >= 2 else gradients
    if zero.offload_parameters and zero.stage == 3:
        host += width * share
        weights -= width * share
    if zero.stage == 3 and zero.hpz > 1:  # the node's own copy of the weights
        weights += width * math.ceil(count / zero.hpz)
    return States(weights, gradients + staged, optimizer * share, host, share)


def activation_bytes(
    model: ModelConfig, layout: Layout, layers: int, in_flight: int, software: Software = DEEPSPEED
) -> int:
    """Bytes that `layers` layers save for the backward pass, of `in_flight` micro-batches.

    Per token and layer, flash attention: inputs and outputs of two norms (4 x hidden), queries and
    attention output (2 x hidden), keys and values, and of the MLP 4 x ffn (SwiGLU: gate, its activation,
    up, product) or 2 x ffn (GELU); the latter three are sharded by tensor parallelism. Without the
    dropout masks this is Korthikanti et al. 2022, equation 1, less the attention scores. Norms of queries
    and keys keep their inputs. Each expert that computes a token keeps as much as an MLP does, a copy of
    the token and its own output (2 x hidden), and the router its float32 probabilities. Recomputing keeps
    each layer's input, and one layer in full while it runs backward.
    """
    tokens, width = _tokens(model, layout), _width(layout.precision)
    routed = model.experts_per_token if model.experts > 1 else 0
    whole = 4 * model.hidden + 2 * routed * model.hidden
    sharded = 2 * query_width(model) + 2 * kv_width(model)
    sharded += query_width(model) + kv_width(model) if model.qk_norms else 0
    sharded += (
        (routed or 1) * model.ffn * (2 if not model.gated_mlp else 3 if software.elementwise_share < 1 else 4)
    )
    stream_ranks = layout.tp if software.sequence_parallel else 1
    elements = math.ceil(whole / stream_ranks) + math.ceil(sharded / layout.tp)
    log_sum_exp = 4 * math.ceil(model.heads / layout.tp)  # float32, one per head, whatever the precision
    probabilities = 4 * model.experts if routed else 0
    layer = tokens * (width * elements + log_sum_exp + probabilities)
    if not software.fused_attention and not layout.selective:  # scores, their softmax, and the dropout's mask
        layer += tokens * math.ceil(SCORE_BYTES * model.heads * model.seq_len / layout.tp)
    boundary = tokens * model.hidden * width
    # outputs wait for their gradients, beside the inputs
    handed_on = in_flight * boundary if layout.pp > 1 else 0
    if layout.recompute:
        return boundary // stream_ranks * layers * in_flight + handed_on + layer
    kept = SELECTIVE_KEEPS if layout.selective and software.selective_share is not None else 1.0
    return int(kept * layer * layers * in_flight) + handed_on


def logit_bytes(model: ModelConfig, layout: Layout, software: Software = DEEPSPEED) -> int:
    """Bytes of the logits at the loss: in 16-bit training as computed (2) and as float32 (4), their
    log-softmax (4) and its gradient (4); without the copy in float32 training."""
    copies = (12 if layout.precision == "fp32" else 14) if software.copies_loss else 4
    return _tokens(model, layout) * math.ceil(model.vocab / layout.tp) * copies


def _framework_bytes(gpu: GpuConfig, zero: Zero, share: int, layout: Layout) -> int:
    """Process or context, communicators, buckets, and in stages 1 and 2 the shard's averaged gradients, which
    DeepSpeed flattens before it makes float32 of them (stage_1_and_2.py, `step`)."""
    # gradients lie in the bucket; pages that nothing was written to take no memory
    if gpu.device is Device.cpu:
        return CPU_PROCESS_BYTES
    bucket, base = zero.reduce_bucket, CUDA_CONTEXT_BYTES + NCCL_BYTES * _communicators(layout)
    buffers = {0: 0, 3: 1}.get(zero.stage, 2 if zero.overlap_comm else 1)
    flattened = 0 if zero.offload_optimizer or zero.stage not in (1, 2) else share
    return base + (buffers * bucket + flattened) * _width(layout.precision)


def _beside_the_bucket(zero: Zero, layout: Layout, held: int) -> int:
    """Gradients of ZeRO-1 that micro-batches add to, on a heap that keeps their pages when the last one has
    moved them into the bucket. A GPU's bucket is counted in full."""
    return held * _width(layout.precision) if zero.stage == 1 and layout.accumulation > 1 else 0


def _in_flight(layout: Layout) -> int:
    """Micro-batches that a pipeline's first stage keeps; interleaving adds to them (Korthikanti et al.
    2022)."""
    interleaved = 1 + (layout.pp - 1) / (layout.pp * layout.vp) if layout.vp > 1 else 1.0
    return math.ceil(min(layout.pp * interleaved, layout.accumulation))


def _communicators(layout: Layout) -> int:
    """Dimensions of parallelism, and one for all ranks where there are several."""
    return (layout.ranks > 1) + sum(
        degree > 1 for degree in (layout.dp, layout.tp, layout.pp, layout.sp, layout.ep)
    )


def _tokens(model: ModelConfig, layout: Layout) -> int:
    """Tokens of one micro-batch on one rank."""
    return layout.micro_batch * math.ceil(model.seq_len / layout.sp)


def _largest_matrix(model: ModelConfig) -> int:
    return model.hidden * max(model.vocab, model.ffn, query_width(model))


def _width(precision: str) -> int:
    """Bytes of one weight."""
    return 4 if precision == "fp32" else 2
