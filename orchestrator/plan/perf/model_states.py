"""Seconds that a step's model states take: gradients and weights between data parallel ranks, gradients added
up, the optimizer, and offload, as DeepSpeed's ZeRO does them."""

from __future__ import annotations

import math

from orchestrator.config.choices import Framework
from orchestrator.config.schema import ModelConfig, PlannerConfig
from orchestrator.plan.layout.layout import Layout
from orchestrator.plan.layout.zero import Zero
from orchestrator.plan.perf.collectives import Group, Network, group_of
from orchestrator.plan.perf.kernels import Kernels
from orchestrator.plan.perf.machine import Machine
from orchestrator.plan.perf.transformer import Parameters, parameters

HOST_ADAM_BYTES = 28  # per parameter, as on the accelerator, through the host's memory
# A server's memory bandwidth of about 200 GB/s, shared by eight accelerators.
HOST_MEMORY_BYTES_PER_S = 25.0e9
MATRICES_PER_LAYER = 6  # queries, keys and values, output, and two or three of the MLP


class ModelStates:
    """Times of one model's weights, gradients and optimizer states on one machine."""

    def __init__(
        self,
        model: ModelConfig,
        machine: Machine,
        constants: PlannerConfig,
        kernels: Kernels,
        network: Network,
    ) -> None:
        self.model, self.machine, self.constants = model, machine, constants
        self._size: Parameters = parameters(model)
        self._kernels, self._network = kernels, network

    def accumulate_s(self, layout: Layout, zero: Zero) -> float:
        """Seconds in which one micro-batch's gradients are added; of ZeRO-2 and 3 only a shard is kept."""
        held = sum(self._held(layout)) if zero.stage < 2 else self._shard(layout, zero)
        return self._kernels.accumulate_s(held) if layout.accumulation > 1 else 0.0

    def _held(self, layout: Layout) -> tuple[float, float]:
        """Parameters of a stage's dense part and of its experts on one rank."""
        size, layers = self._size, math.ceil(self.model.layers / layout.pp)
        ends = size.embedding + size.head + size.mtp if layout.pp == 1 else max(size.embedding, size.head)
        without_experts = size.dense_layers if layout.pp == 1 else 0
        in_experts = (layers - without_experts) * size.experts
        dense = (size.of_layers(layers, without_experts) - in_experts + ends) / layout.tp
        return dense, in_experts / (layout.tp * layout.ep)

    def data_parallel_s(
        self, layout: Layout, zero: Zero, forward_s: float, backward_s: float
    ) -> tuple[float, float]:
        """Exposed and hidden seconds of gradients and gathered weights, for dense weights and experts."""
        ranks, per_node = layout.replicas, self.machine.gpus_per_node
        # Replicas of an expert are as far apart as there are expert parallel ranks.
        groups = (
            group_of(ranks, layout.tp, per_node),
            group_of(ranks // layout.ep, layout.tp * layout.ep, per_node),
        )
        each = [
            self._transfers(held, group, layout, zero, forward_s, backward_s)
            for held, group in zip(self._held(layout), groups, strict=True)
            if held and group.ranks > 1
        ]
        exposed = hidden = 0.0
        beside = zero.overlaps and not self._after_the_pass(layout)
        for together in zip(*each, strict=True):  # beside the same compute
            seconds, (_, beside_s, times) = sum(transfer[0] for transfer in together), together[0]
            covered = min(seconds, self.constants.dp_hidden_share * beside_s if beside else 0.0)
            slowed = self.constants.contention * covered
            exposed, hidden = (
                exposed + times * (seconds - covered + slowed),
                hidden + times * (covered - slowed),
            )
        return exposed, hidden

    def _after_the_pass(self, layout: Layout) -> bool:
        """Whether gradients wait for the last backward pass, whatever is asked for: where the host waits for
        every kernel, and in DeepSpeed's pipelines (its runtime/pipe/engine.py reduces at the end)."""
        pipeline = layout.framework == Framework.deepspeed.value and layout.pp > 1
        return pipeline or self.machine.waits_for_kernels

    def _transfers(
        self, held: float, group: Group, layout: Layout, zero: Zero, forward_s: float, backward_s: float
    ) -> list[tuple[float, float, int]]:
        """Seconds of each transfer, the compute beside which it can run, and how often a step has it.

        ZeRO (Rajbhandari et al. 2020): stages 0 and 1 reduce gradients once a step, beside the last backward
        pass; stage 2 at each micro-batch; stage 3 also gathers weights for forward and backward. Stages 1 and
        2 gather the new weights after the optimizer, with nothing beside it.
        """
        size, each = held * self._kernels.element_bytes, layout.accumulation
        buckets = max(1, math.ceil(held / zero.reduce_bucket))
        reduce_s = self._network.gather_s(size, group, buckets)
        if zero.stage == 0:
            return [(self._network.all_reduce_s(size, group), backward_s, 1)]
        if zero.stage < 3:
            once = self._network.gather_s(size, group)
            return [(reduce_s, backward_s, 1 if zero.stage == 1 else each), (once, 0.0, 1)]
        gather_s = self._network.gather_s(size, group, self._gathers(layout, held, zero))
        near = group_of(zero.hpz, layout.tp, self.machine.gpus_per_node)
        again_s = self._network.gather_s(size, near) if zero.hpz > 1 else gather_s
        return [(gather_s, forward_s, each), (again_s + reduce_s, backward_s, each)]

    def _gathers(self, layout: Layout, held: float, zero: Zero) -> int:
        """Calls to gather all layers once: by layer where software shards whole layers, else DeepSpeed
        prefetches matrices, as many together as fit into its bucket."""
        layers = math.ceil(self.model.layers / layout.pp)
        if not self._kernels.software.half_copy:
            return layers
        return layers * min(MATRICES_PER_LAYER, max(1, math.ceil(held / layers / zero.prefetch_bucket)))

    def _shard(self, layout: Layout, zero: Zero) -> float:
        """Parameters whose optimizer states one rank holds."""
        (dense, experts), ranks = self._held(layout), layout.replicas
        return dense / ranks + experts / (ranks // layout.ep) if zero.stage else dense + experts

    def optimizer_s(self, layout: Layout, zero: Zero) -> float:
        return 0.0 if zero.offload_optimizer else self._kernels.optimizer_s(self._shard(layout, zero))

    def offload_s(self, layout: Layout, zero: Zero) -> float:
        """Gradients to the host, Adam there, weights back; with offloaded weights a copy for each
        gathering."""
        shard, width, link = (
            self._shard(layout, zero),
            self._kernels.element_bytes,
            self.machine.host_link_bytes_per_s,
        )
        seconds = 0.0
        if zero.offload_optimizer:
            seconds += shard * (2 * width / link + HOST_ADAM_BYTES / HOST_MEMORY_BYTES_PER_S)
        if zero.offload_parameters:
            seconds += 2 * layout.accumulation * shard * width / link
        return seconds
