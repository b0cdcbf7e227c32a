"""Seconds of one optimizer step, by part.

What a rank computes comes from :mod:`kernels`, what it waits for from :mod:`network`; this file puts them
together as DeepSpeed runs them. Only communication that nothing hides is counted.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from orchestrator.config.schema import ModelConfig, PlannerConfig
from orchestrator.plan.layout.layout import Layout
from orchestrator.plan.layout.stages import Schedule, stage_layers
from orchestrator.plan.layout.zero import Zero
from orchestrator.plan.perf.collectives import Group, Network, group_of
from orchestrator.plan.perf.kernels import Kernels, Passes
from orchestrator.plan.perf.machine import Machine
from orchestrator.plan.perf.model_states import ModelStates
from orchestrator.plan.perf.software import DEEPSPEED, Software
from orchestrator.plan.perf.transformer import key_width, output_width, query_width, value_width

# Host and accelerator wait for each other in some kernels already before one is the slower in all.
HOST_SHARPNESS = 4
TOKEN_BYTES = 16  # ids and labels, 8 bytes each


@dataclass(frozen=True)
class StepTime:
    """Seconds of one optimizer step of the slowest rank, by part; they add up to `total_s`.

    `matmul_s`, `attention_s` and `memory_bound_s` are forward and backward without `recompute_s`. `host_s` is
    time in which the accelerator waits for the host to start kernels, `offload_s` for copies to and from its
    memory and its optimizer. `tp_s`, `sp_s`, `ep_s`, `pp_s` and `dp_s` are communication that nothing hides;
    `hidden_s`, not in the total, is what runs beside compute. `bubble_s` is the pipeline filling and
    emptying.
    """

    matmul_s: float  # matrix products, forward and backward
    attention_s: float  # scores, softmax and values, forward and backward
    memory_bound_s: float  # norms, residuals, casts and the loss: what waits for memory
    recompute_s: float  # forward passes in the backward pass
    host_s: float  # the accelerator waiting for the host to start kernels
    optimizer_s: float  # the optimizer on the accelerator
    offload_s: float  # copies to and from the host's memory, and its optimizer
    tp_s: float  # tensor parallel communication that nothing hides
    sp_s: float  # sequence parallel communication that nothing hides
    ep_s: float  # expert parallel communication that nothing hides
    pp_s: float  # communication between pipeline stages that nothing hides
    dp_s: float  # data parallel communication that nothing hides
    bubble_s: float  # the pipeline filling and emptying
    data_s: float  # tokens to the accelerator
    hidden_s: float  # communication beside compute: not in the total

    @property
    def total_s(self) -> float:
        return self.compute_s + self.exposed_s + self.offload_s + self.bubble_s + self.data_s

    @property
    def compute_s(self) -> float:
        busy = self.matmul_s + self.attention_s + self.memory_bound_s
        return busy + self.recompute_s + self.host_s + self.optimizer_s

    @property
    def exposed_s(self) -> float:
        return self.tp_s + self.sp_s + self.ep_s + self.pp_s + self.dp_s

    def parts(self) -> dict[str, float]:
        """Seconds by name, largest first, `hidden_s` left out."""
        named = {
            f.name: float(getattr(self, f.name)) for f in dataclasses.fields(self) if f.name != "hidden_s"
        }
        return dict(sorted(named.items(), key=lambda item: -item[1]))


@dataclass(frozen=True)
class _Micro:
    """Seconds of one micro-batch in one pipeline stage."""

    passes: Passes
    recompute_s: float
    host_s: float
    tp_s: float
    tp_hidden_s: float
    sp_s: float
    ep_s: float
    ep_hidden_s: float

    @property
    def forward_s(self) -> float:
        return self.total_s - self.backward_s

    @property
    def backward_s(self) -> float:
        """Recomputation included, and two thirds of what else there is."""
        return (
            self.passes.backward_s
            + self.recompute_s
            + (self.host_s + self.tp_s + self.sp_s + self.ep_s) * 2 / 3
        )

    @property
    def total_s(self) -> float:
        busy = self.passes.forward_s + self.passes.backward_s + self.recompute_s
        return busy + self.host_s + self.tp_s + self.sp_s + self.ep_s


class StepModel:
    """Step times of one model on one machine; what layouts share is computed once."""

    def __init__(
        self,
        model: ModelConfig,
        machine: Machine,
        constants: PlannerConfig,
        precision: str,
        software: Software = DEEPSPEED,
    ) -> None:
        if machine.waits_for_kernels:  # communication included: nothing runs beside anything
            software = dataclasses.replace(software, tp_overlap=False)
        self.model, self.machine, self.constants, self.software = model, machine, constants, software
        self._kernels = Kernels(model, machine, constants, precision, software)
        self._network = Network(machine, constants)
        self._states = ModelStates(model, machine, constants, self._kernels, self._network)
        self._micros: dict[tuple[object, ...], _Micro] = {}

    def time(self, layout: Layout, zero: Zero) -> StepTime:
        """One step of `layout`: accumulation micro-batches through the pipeline, then the optimizer."""
        (micro, others_s), m = self._stages(layout), layout.accumulation
        dp_s, dp_hidden_s = self._states.data_parallel_s(layout, zero, micro.forward_s, micro.backward_s)
        send_s, send_hidden_s = self._sends_s(layout)
        passes, added_s = micro.passes, self._states.accumulate_s(layout, zero)
        return StepTime(
            matmul_s=m * (passes.matmul_forward_s + passes.matmul_backward_s),
            attention_s=m * (passes.attention_forward_s + passes.attention_backward_s),
            memory_bound_s=m * (passes.memory_forward_s + passes.memory_backward_s + added_s),
            recompute_s=m * micro.recompute_s,
            host_s=m * micro.host_s + self.constants.host_s_per_step,
            optimizer_s=self._states.optimizer_s(layout, zero),
            offload_s=self._states.offload_s(layout, zero),
            tp_s=m * micro.tp_s,
            sp_s=m * micro.sp_s,
            ep_s=m * micro.ep_s,
            pp_s=send_s,
            dp_s=dp_s,
            bubble_s=self._bubble_share(layout) * (others_s + (layout.pp - 1) * added_s),
            data_s=m * self._tokens(layout) * TOKEN_BYTES / self.machine.host_link_bytes_per_s,
            hidden_s=m * (micro.tp_hidden_s + micro.ep_hidden_s) + dp_hidden_s + send_hidden_s,
        )

    def _bubble_share(self, layout: Layout) -> float:
        """Of one micro-batch in every other stage."""
        return 0.0 if self.software.schedule is Schedule.zero_bubble else 1 / layout.vp

    def _sends_s(self, layout: Layout) -> tuple[float, float]:
        """Exposed and hidden seconds of activations and gradients between stages. Of interleaved stages some
        part computes while another's are on their way, in software that sends them so."""
        if layout.pp == 1:
            return 0.0, 0.0
        total = 2 * layout.accumulation * layout.vp * self._boundary_s(layout)
        if layout.vp == 1 or not self.software.tp_overlap:
            return total, 0.0
        exposed = self.constants.contention * total
        return exposed, total - exposed

    def _tokens(self, layout: Layout) -> int:
        return layout.micro_batch * self.model.seq_len // layout.sequence_ranks

    def _boundary_s(self, layout: Layout) -> float:
        """Seconds to hand one micro-batch on: tensor parallel ranks send a part each and gather the rest
        (Narayanan et al. 2021; DeepSpeed's partitioned activations)."""
        size = self._tokens(layout) * self.model.hidden * self._kernels.element_bytes
        apart = layout.ranks // layout.pp // layout.ranks_per_node
        across = self._network.send_s(size / layout.tp, layout.ranks > layout.ranks_per_node, apart)
        return across + self._network.gather_s(
            size, Group(layout.tp, min(layout.tp, self.machine.gpus_per_node))
        )

    def _stages(self, layout: Layout) -> tuple[_Micro, float]:
        """The slowest stage, which sets the pace, and seconds of one micro-batch in all others, for which it
        waits once while the pipeline fills and empties. The last stage has the head; others may have a layer
        more."""
        cut = stage_layers(self.model.layers, layout.pp, self.software.balanced_ends, layout.vp)
        stages = [self._micro(layout, layers, place == layout.pp - 1) for place, layers in enumerate(cut)]
        slowest = max(stages, key=lambda stage: stage.total_s)
        return slowest, math.fsum(stage.total_s for stage in stages) - slowest.total_s

    def _micro(self, layout: Layout, layers: int, head: bool) -> _Micro:
        key = (
            layout.tp,
            layout.sp,
            layout.cp,
            layout.ep,
            layout.micro_batch,
            layout.recompute,
            layout.selective,
            layout.ep_overlap and layout.accumulation > 1,
            layers,
            head,
        )
        if key not in self._micros:
            self._micros[key] = self._compute_micro(layout, layers, head)
        return self._micros[key]

    def _compute_micro(self, layout: Layout, layers: int, head: bool) -> _Micro:
        kernels, constants = self._kernels, self.constants
        cut = layout.sequence_ranks
        layer = kernels.layer(layout.micro_batch, layout.tp, cut, layout.ep)
        heads = 0
        if head:  # further tokens take a layer and the head each
            heads, layers = 1 + self.model.mtp_layers, layers + self.model.mtp_layers
        top = kernels.head(layout.micro_batch, layout.tp, cut) if heads else None
        passes = Passes(
            *(
                layers * getattr(layer, f.name) + (heads * getattr(top, f.name) if top else 0.0)
                for f in _PASS_FIELDS
            )
        )
        repeats = 1.0 if layout.recompute else 0.0
        recompute_s = layers * layer.forward_s * repeats
        if layout.selective and not layout.recompute:
            recompute_s = layers * self._selective_s(layer)
        tp_s, tp_hidden_s = self._tensor_parallel_s(layout, layers * (2 + repeats))
        calls = layers * (2 + repeats) * (1 + constants.host_share_of_tp * math.log2(layout.tp))
        host = calls * constants.host_s_per_layer * self.software.host_factor
        # at the head, the host waits
        busy = layers * (layer.forward_s + layer.backward_s) + recompute_s + tp_s
        width = self._kernels.element_bytes * self._tokens(layout)
        ep_s, ep_hidden_s = self._expert_parallel_s(layout, layers * (2 + repeats), width, busy)
        return _Micro(
            passes=passes,
            recompute_s=recompute_s,
            host_s=host if self.machine.waits_for_kernels else _host_alone_s(host, busy),
            tp_s=tp_s,
            tp_hidden_s=tp_hidden_s,
            sp_s=layers * (2 + repeats) * self._sequence_parallel_s(layout, width, layer),
            ep_s=ep_s,
            ep_hidden_s=ep_hidden_s,
        )

    def _sequence_parallel_s(self, layout: Layout, token_bytes: float, layer: Passes) -> float:
        """Exposed seconds of one pass of one layer; `token_bytes` is one element of each of the rank's
        tokens. Context parallel ranks pass keys and values on beside the attention (Liu et al. 2023),
        sequence parallel ones exchange heads for positions (Ulysses, Jacobs et al. 2023)."""
        exposed = 0.0
        keys = (key_width(self.model) + value_width(self.model)) / layout.tp
        if layout.cp > 1:
            group = self._of_positions(layout, layout.cp)
            around = self._network.gather_s(token_bytes * layout.cp * keys, group)
            exposed += max(0.0, around - layer.attention_forward_s)
        if layout.sp > 1:
            heads = (query_width(self.model) + output_width(self.model)) / layout.tp
            group = self._of_positions(layout, layout.sp)
            exposed += self._network.all_to_all_s(token_bytes * (heads + keys), group)
        return exposed

    def _selective_s(self, layer: Passes) -> float:
        """Forward seconds of what selective recomputation repeats of one layer: a share of all of it, unfused
        attention (Korthikanti et al. 2022), or norms and activation functions (Megatron-Core's
        recompute_modules)."""
        if self.software.selective_share is not None:
            return self.software.selective_share * layer.forward_s
        return layer.memory_forward_s if self.software.fused_attention else layer.attention_forward_s

    def _expert_parallel_s(
        self, layout: Layout, layer_passes: float, token_bytes: float, beside_s: float
    ) -> tuple[float, float]:
        """Exposed and hidden seconds: to the experts and back in every pass, in layers that have any. With
        `ep_overlap` it goes beside the computing of another micro-batch (DeepSeek-V3's DualPipe; Megatron-
        Core's combined 1F1B), which it slows."""
        model = self.model
        if layout.ep == 1:
            return 0.0, 0.0
        group = group_of(layout.ep, layout.tp, self.machine.gpus_per_node)
        once_s = self._network.dispatch_s(
            token_bytes * model.hidden / layout.tp, model.experts_per_token, model.expert_nodes, group
        )
        total = layer_passes * (1 - model.dense_layers / model.layers) * 2 * once_s
        if not layout.ep_overlap or layout.accumulation == 1 or self.machine.waits_for_kernels:
            return total, 0.0
        covered = min(total, beside_s)
        slowed = self.constants.contention * covered
        return total - covered + slowed, covered - slowed

    def _of_positions(self, layout: Layout, degree: int) -> Group:
        return Group(degree, min(degree, max(1, self.machine.gpus_per_node // layout.tp)))

    def _tensor_parallel_s(self, layout: Layout, layer_passes: float) -> tuple[float, float]:
        """Two all-reduces per layer and pass (Shoeybi et al. 2019), or as much as all-gather and
        reduce-scatter."""
        if layout.tp == 1:
            return 0.0, 0.0
        size = self._tokens(layout) * self.model.hidden * self._kernels.element_bytes
        group = Group(layout.tp, min(layout.tp, self.machine.gpus_per_node))
        total = layer_passes * 2 * self._network.all_reduce_s(size, group)
        hidden = self.constants.tp_hidden_share * total if self.software.tp_overlap else 0.0
        return total - hidden, hidden


def _host_alone_s(host_s: float, busy_s: float) -> float:
    """Seconds in which the accelerator waits for a host that works ahead of it."""
    both: float = (host_s**HOST_SHARPNESS + busy_s**HOST_SHARPNESS) ** (1 / HOST_SHARPNESS)
    return both - busy_s


_PASS_FIELDS = dataclasses.fields(Passes)
