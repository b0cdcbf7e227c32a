"""Bytes per GPU of a layout, by part, to first order.

Experts are taken to get equally many tokens, and none to drop any; what expert parallel ranks send
each other is not buffered here.

Left out: frozen weights, ZeRO++'s quantised copies, stages that a pipeline cuts by hand, norms replicated
under tensor parallelism, and what unfused kernels save on top: a composite RMSNorm, as on CPU, keeps up to
two more float32 copies of its input.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from orchestrator.config.schema import Device, GpuConfig, ModelConfig
from orchestrator.plan.layout.layout import Layout
from orchestrator.plan.layout.stages import in_flight, stage_layers
from orchestrator.plan.layout.zero import Zero
from orchestrator.plan.perf.software import DEEPSPEED, Software, software_of
from orchestrator.plan.perf.transformer import (
    key_width,
    matrices,
    mlp_width,
    output_width,
    parameters,
    query_width,
    value_width,
)

GIB = 2**30
# Allowances, not measurements: they grow with the driver, the kernels loaded and the communicators.
CUDA_CONTEXT_BYTES = 1 * GIB
NCCL_BYTES = GIB // 2  # for all ranks, and again for each dimension of parallelism
# Of what comes and goes during a step, lost between the blocks of torch's allocator.
FRAGMENTATION = 0.07
# In a pipeline, whose micro-batches in flight leave their blocks in another order than they took them.
PIPELINE_FRAGMENTATION = 0.10
# Of all that a rank on processor cores allocates: the C library's heap gives little of what was freed back.
HEAP_FRAGMENTATION = 0.5
CPU_PROCESS_BYTES = GIB // 8  # what a forked rank does not share with the process it came from
SCORE_BYTES = 5  # of unfused attention for each pair of positions and head (Korthikanti et al. 2022)
DROPOUT_MASKS = 2  # bytes for each element of the residual stream (Korthikanti et al. 2022, equation 1)
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
    staged: int = 0  # bytes of the gradients that the step makes of them and frees


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
    # in the layer whose backward pass runs, gradients and what is computed again, as far as it is more than
    # the logits, which are gone by then
    transient: int = 0
    host_bytes: int = 0  # in the host's memory, under offload

    @property
    def total_bytes(self) -> int:
        """Bytes on the accelerator."""
        states = self.weights + self.gradients + self.optimizer
        comes_and_goes = self.activations + self.transient + self.logits + self.fragmentation
        return states + comes_and_goes + self.framework


def memory_of(
    model: ModelConfig,
    gpu: GpuConfig,
    layout: Layout,
    zero: Zero | None = None,
    software: Software | None = None,
) -> Memory:
    """Memory of the fullest rank, of all stages of a pipeline: the first has the embedding and most
    micro-batches, the last the head and the logits, and one between them may have a layer more.

    Without `zero`, DeepSpeed's default buckets are assumed and `layout.offload` means all that its stage
    can offload; without `software` it is that of the layout's framework.
    """
    software = software or software_of(layout)
    zero = zero or Zero.of_layout(layout)
    if gpu.device is Device.cpu:  # host memory is all there is: offload moves nothing away
        zero = replace(zero, offload_optimizer=False, offload_parameters=False)
    candidates = [
        _of_stage(model, gpu, layout, zero, software, stage) for stage in _stages(model, layout, software)
    ]
    return max(candidates, key=lambda candidate: candidate.total_bytes)


@dataclass(frozen=True)
class _Stage:
    """What one stage of the pipeline holds."""

    parameters: int
    in_experts: int  # of the parameters
    layers: int
    in_flight: float  # micro-batches
    has_head: bool


def _stages(model: ModelConfig, layout: Layout, software: Software) -> list[_Stage]:
    """Those that can be the fullest: the first two, and the last."""
    size = parameters(model)
    cut = stage_layers(model.layers, layout.pp, software.balanced_ends, layout.vp)
    found, before = [], 0
    for stage, layers in enumerate(cut):
        dense = min(layers, max(0, size.dense_layers - before))
        before += layers
        first, last = stage == 0, stage == layout.pp - 1
        ends = first * size.embedding
        if last:
            # a tied head is the embedding, of which a last stage that is not the first has a copy
            head = size.head or (0 if first else size.embedding)
            ends += head + size.final_norm + size.mtp
        if stage < 2 or last:
            found.append(
                _Stage(
                    parameters=size.of_layers(layers, dense) + ends,
                    in_experts=(layers - dense + last * model.mtp_layers) * size.experts,
                    layers=layers + last * model.mtp_layers,
                    in_flight=in_flight(stage, layout.pp, layout.vp, layout.accumulation, software.schedule),
                    has_head=last,
                )
            )
    return found


def _of_stage(
    model: ModelConfig, gpu: GpuConfig, layout: Layout, zero: Zero, software: Software, stage: _Stage
) -> Memory:
    on_heap = gpu.device is Device.cpu
    experts = math.ceil(stage.in_experts / (layout.tp * layout.ep))
    held = math.ceil((stage.parameters - stage.in_experts) / layout.tp) + experts
    if not software.half_copy and zero.stage == 3:
        size = parameters(model)
        zero = replace(zero, live_parameters=(3 * size.layer + size.embedding) // layout.tp, reduce_bucket=0)
    states = model_states(
        held,
        _largest_matrix(model) // layout.tp,
        zero,
        layout.replicas,
        layout.precision,
        experts=experts,
        expert_shards=max(1, layout.replicas // layout.ep),
        software=software,
        flattens=not on_heap,
    )
    activations = activation_bytes(model, layout, stage.layers, stage.in_flight, software)
    logits = logit_bytes(model, layout, software) if stage.has_head else 0
    transient = 0
    if not on_heap:  # which gives nothing back between the loss and the layers' backward pass
        again = _layer_bytes(model, layout, software) if layout.recompute else 0
        activations -= again
        transient = max(0, again + transient_bytes(model, layout, software) - logits)
    gradients = states.gradients + (_beside_the_bucket(zero, layout, held) if on_heap else 0)
    own = states.weights + gradients + states.optimizer
    scattered = activations + transient + logits + (own if on_heap else states.staged)
    return Memory(
        weights=states.weights,
        gradients=gradients,
        optimizer=states.optimizer,
        activations=activations,
        logits=logits,
        framework=_framework_bytes(gpu, zero, states.share, layout, software),
        transient=transient,
        fragmentation=int(_lost(layout, on_heap) * scattered),
        host_bytes=states.host,
    )


def _lost(layout: Layout, on_heap: bool) -> float:
    """Share of what comes and goes that lies unused between its blocks."""
    if on_heap:
        return HEAP_FRAGMENTATION
    return PIPELINE_FRAGMENTATION if layout.pp > 1 else FRAGMENTATION


def model_states(
    count: int, largest: int, zero: Zero, shards: int, precision: str, *, experts: int = 0,
    expert_shards: int = 1, software: Software = DEEPSPEED, flattens: bool = True,
) -> States:  # fmt: skip
    """Bytes of the model states of one rank that holds `count` parameters, the biggest tensor of `largest`.

    ZeRO shards them over `shards` ranks, but `experts` of them over the `expert_shards` that hold the same
    experts: with expert parallelism fewer, each with fewer to hold (Rajbhandari et al. 2022, DeepSpeed-MoE).

    16-bit training keeps 2 bytes of weight and 2 of gradient per parameter, 4 of float32 gradient at the
    step, 4 of float32 master weight and 8 of Adam: Rajbhandari et al. 2020 (ZeRO), section 3.1, and
    DeepSpeed's `estimate_zero2/3_model_states_mem_needs`. Without ZeRO its fused step
    makes the float32 gradients twice, tensor by tensor and then all in one
    (`runtime/fp16/fused_optimizer.py`). Megatron keeps 2 of weight, 4 of gradient and 12 of float32 weight
    and Adam, the last divided by its distributed optimizer. float32 training has no master weight at stage 0;
    DeepSpeed keeps one from stage 1 on. ZeRO-3 gathers what it works on: the largest tensor with its
    gradient, and up to `live_parameters`.
    """
    width = _width(precision)
    share = math.ceil((count - experts) / shards) + math.ceil(experts / expert_shards)
    half = precision != "fp32"
    optimizer = ADAM_BYTES + (4 if half or zero.stage else 0)
    copies = 2 if software.fp8_copies and precision == "fp8" else 0
    if software.float32_gradients and half and zero.stage < 2:
        share = share if zero.stage else count
        return States((width + copies) * count, 4 * count, optimizer * share, 0, share)
    if zero.stage == 0:
        staged = ((8 if flattens else 4) if half else 0) * count
        return States(width * count, (2 if half else 4) * count + staged, optimizer * count, 0, count, staged)
    weights, staged = (width + copies) * count, 4 * share
    gradients = width * (count if zero.stage == 1 else share)
    if zero.stage == 3:
        sharded = count - (experts if expert_shards == 1 else 0)
        live = min(sharded, zero.live_parameters)
        gathered = 0 if shards == 1 and not zero.offload_parameters else max(2 * largest, live) * width
        weights, gradients = (width * share if software.half_copy or not half else 0) + gathered, 0
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
    return States(weights, gradients + staged, optimizer * share, host, share, staged)


def activation_bytes(
    model: ModelConfig, layout: Layout, layers: int, in_flight: float, software: Software = DEEPSPEED
) -> int:
    """Bytes that `layers` layers save for the backward pass, of `in_flight` micro-batches.

    Per token and layer, flash attention: inputs and outputs of two norms (4 x hidden), queries and
    attention output (2 x hidden), keys and values, and of the MLP 4 x ffn (SwiGLU: gate, its activation,
    up, product) or 2 x ffn (GELU); the latter three are sharded by tensor parallelism. Without the
    dropout masks this is Korthikanti et al. 2022, equation 1, less the attention scores. Norms of queries
    and keys keep their inputs, latent attention keeps what it projects from. Each expert that computes a
    token keeps as much as an MLP does, a copy of the token and its own output (2 x hidden), and the router
    its float32 probabilities. Recomputing keeps each layer's input, and one layer in full while it runs
    backward.
    """
    tokens, width = _tokens(model, layout), _width(layout.precision)
    layer = _layer_bytes(model, layout, software)
    boundary = tokens * model.hidden * width
    stream_ranks = layout.tp if software.sequence_parallel else 1
    # outputs wait for their gradients, beside the inputs
    handed_on = in_flight * boundary if layout.pp > 1 and not software.frees_outputs else 0
    if layout.recompute:
        return int(boundary // stream_ranks * layers * in_flight + handed_on + layer)
    kept = SELECTIVE_KEEPS if layout.selective and software.selective_share is not None else 1.0
    return int(kept * layer * layers * in_flight + handed_on)


def transient_bytes(model: ModelConfig, layout: Layout, software: Software = DEEPSPEED) -> int:
    """Bytes that one layer's backward pass needs beside what was saved for it: gradients of its output, of
    its input and of the MLP's inner width, or of unfused attention's scores and their softmax."""
    tokens, width = _tokens(model, layout), _width(layout.precision)
    inner = math.ceil(mlp_width(model) * (matrices(model) - 1) / layout.tp)
    in_mlp = width * (2 * model.hidden + inner)
    in_scores = 0 if software.fused_attention else 2 * width * model.heads * model.seq_len / layout.tp
    return int(tokens * max(in_mlp, in_scores))


def _layer_bytes(model: ModelConfig, layout: Layout, software: Software) -> int:
    """What one layer saves of one micro-batch."""
    tokens, width = _tokens(model, layout), _width(layout.precision)
    routed = model.experts_per_token if model.experts > 1 else 0
    # with fused attention, selective recomputation makes outputs of norms and activation functions again
    again = layout.selective and software.fused_attention and software.selective_share is None
    whole = (2 if again else 4) * model.hidden + 2 * routed * model.hidden
    whole += (model.q_lora_rank or 0) + (model.kv_lora_rank or 0)
    attended = query_width(model) + output_width(model) + key_width(model) + value_width(model)
    norms = query_width(model) + key_width(model) if model.qk_norms else 0
    copies = (2 if not model.gated_mlp else 3 if software.elementwise_share < 1 else 4) - again
    sharded = attended + norms + math.ceil(mlp_width(model) * copies)
    stream_ranks = layout.tp if software.sequence_parallel else 1
    elements = math.ceil(whole / stream_ranks) + math.ceil(sharded / layout.tp)
    log_sum_exp = 4 * math.ceil(model.heads / layout.tp)  # float32, one per head, whatever the precision
    probabilities = 4 * model.experts if routed else 0
    masks = math.ceil(DROPOUT_MASKS * model.hidden / stream_ranks) if software.dropout else 0
    layer = tokens * (width * elements + log_sum_exp + probabilities + masks)
    if not software.fused_attention and not layout.selective:  # scores, their softmax, and the dropout's mask
        layer += tokens * math.ceil(SCORE_BYTES * model.heads * model.seq_len / layout.tp)
    return layer


def logit_bytes(model: ModelConfig, layout: Layout, software: Software = DEEPSPEED) -> int:
    """Bytes of the logits at the loss: in 16-bit training as computed (2) and as float32 (4), their
    log-softmax (4) and its gradient (4), fewer where these overwrite each other; without the copy in float32
    training."""
    copies = software.logit_bytes - (2 if layout.precision == "fp32" else 0)
    return _tokens(model, layout) * math.ceil(model.vocab / layout.tp) * copies


def _framework_bytes(
    gpu: GpuConfig, zero: Zero, share: int, layout: Layout, software: Software = DEEPSPEED
) -> int:
    """Process or context, communicators, buckets, and in stages 1 and 2 the shard's averaged gradients, which
    DeepSpeed flattens before it makes float32 of them (stage_1_and_2.py, `step`)."""
    # gradients lie in the bucket; pages that nothing was written to take no memory
    if gpu.device is Device.cpu:
        return CPU_PROCESS_BYTES
    bucket, base = zero.reduce_bucket, CUDA_CONTEXT_BYTES + NCCL_BYTES * _communicators(layout)
    if software.float32_gradients:  # which are reduced where they lie
        return base
    buffers = {0: 0, 3: 1}.get(zero.stage, 2 if zero.overlap_comm else 1)
    flattened = 0 if zero.offload_optimizer or zero.stage not in (1, 2) else share
    return base + (buffers * bucket + flattened) * _width(layout.precision)


def _beside_the_bucket(zero: Zero, layout: Layout, held: int) -> int:
    """Gradients of ZeRO-1 that micro-batches add to, on a heap that keeps their pages when the last one has
    moved them into the bucket. A GPU's bucket is counted in full."""
    return held * _width(layout.precision) if zero.stage == 1 and layout.accumulation > 1 else 0


def _communicators(layout: Layout) -> int:
    """Dimensions of parallelism, and one for all ranks where there are several; a stage of a pipeline has
    neighbours on two sides, and shares norms, overflows and tied weights with all of them."""
    return (
        (layout.ranks > 1)
        + sum(degree > 1 for degree in (layout.dp, layout.tp, layout.sp, layout.cp, layout.ep))
        + (1 + min(2, layout.pp - 1) if layout.pp > 1 else 0)
    )


def _tokens(model: ModelConfig, layout: Layout) -> int:
    """Tokens of one micro-batch on one rank."""
    return layout.micro_batch * math.ceil(model.seq_len / layout.sequence_ranks)


def _largest_matrix(model: ModelConfig) -> int:
    return model.hidden * max(model.vocab, model.ffn, model.dense_ffn or 0, query_width(model))


def _width(precision: str) -> int:
    """Bytes of one weight."""
    return 4 if precision == "fp32" else 2
