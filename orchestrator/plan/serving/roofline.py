"""Seconds of reading prompts and of one token for each of a batch: the larger of computing and of moving
through memory (Williams et al. 2009), and the all-reduces of tensor parallelism beside them (Pope et al.
2022, arXiv 2211.05102)."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.plan.perf.collectives import Network, group_of
from orchestrator.plan.perf.transformer import (
    attention_matrix_elements,
    matrices,
    mlp_matrix_elements,
    mlp_width,
    output_width,
    query_width,
    router_elements,
)
from orchestrator.plan.serving.memory import Footprint, footprint, looked_back
from orchestrator.plan.serving.request import ELEMENT_BYTES, STORED_ONLY, ServingRequest

ACTIVATION_BYTES = 2  # of one element that ranks exchange
REDUCES_PER_LAYER = 2  # after attention and after the MLP (Shoeybi et al. 2019)


@dataclass(frozen=True)
class Seconds:
    """Of one pass through one pipeline stage, by what it is spent on."""

    compute_s: float  # matrix products and attention
    memory_s: float  # the same time if bound by reading weights and cache instead
    exchange_s: float  # all-reduces, and what stages hand on

    @property
    def total_s(self) -> float:
        return max(self.compute_s, self.memory_s) + self.exchange_s


class Stage:
    """Times of one stage of `pp` on `tp` ranks; with `ep`, of all these ranks together, each of which has
    requests of its own, all weights but the experts, and its part of those."""

    def __init__(self, request: ServingRequest, tp: int, pp: int, ep: int = 1) -> None:
        self._model, self._tp, self._pp, self._ep = request.model, tp, pp, ep
        machine, constants, software = request.machine, request.constants, request.software
        precision = STORED_ONLY.get(software.precision, software.precision)
        self._flops = machine.sustained_flops(precision)
        self._attention_flops = machine.sustained_flops("bf16" if precision == "fp8" else precision)
        self._attention_flops *= constants.attention_efficiency
        self._bytes_per_s = machine.hbm_bytes_per_s * constants.hbm_efficiency
        self._share = software.share
        self._weight_bytes = ELEMENT_BYTES[software.precision]
        self._network = Network(machine, constants)
        self._group = group_of(tp, 1, machine.gpus_per_node)
        self._crosses_nodes = tp >= machine.gpus_per_node
        self._experts_group = group_of(ep, 1, machine.gpus_per_node)
        # What goes to the experts is in fp8 where they compute in it, what comes back is not (DeepSeek-AI
        # 2024, DeepSeek-V3, section 3.3.2).
        self._sent_bytes = 1 if precision == "fp8" else ACTIVATION_BYTES
        self.footprint: Footprint = footprint(request.model, software, tp, pp, ep)

    def decode(self, batch: float, context: float) -> Seconds:
        """One token for each of `batch` requests, which have `context` tokens behind them."""
        model = self._model
        cached = batch * context
        flops = batch * 2 * self._matrix_elements() / self._flops
        flops += 2 * cached * self._decoded_width() * model.layers / self._attention_flops
        weights = self._touched_elements(batch) * self._weight_bytes / self._tp
        cache = cached / self._ep * self.footprint.kv_bytes_per_token * self._pp
        return self._pass(flops, (weights + cache) / self._bytes_per_s, batch)

    def prefill(self, prompts: float, tokens: float) -> Seconds:
        """Reading `prompts` of `tokens` each at once; only the last token of each goes through the head."""
        model = self._model
        rows = prompts * tokens
        back = looked_back(model, tokens)
        pairs = rows * (back - back * back / (2 * max(tokens, 1.0)))
        flops = 2 * (rows * self._layers_elements() + prompts * self._head_elements())
        products = flops / self._flops
        width = query_width(model) + output_width(model)
        attention = 2 * pairs * width * model.layers / self._attention_flops
        weights = self._touched_elements(rows) * self._weight_bytes / self._tp
        return self._pass(products + attention, weights / self._bytes_per_s, rows)

    def _pass(self, whole_flops_s: float, whole_memory_s: float, rows: float) -> Seconds:
        """Compute on all ranks, memory of one rank with all layers, both of this stage alone; rows are those
        of all ranks."""
        size = rows * self._model.hidden * ACTIVATION_BYTES
        reduces = REDUCES_PER_LAYER * self._model.layers / self._pp if self._tp > 1 else 0.0
        exchange = reduces * self._network.all_reduce_s(size, self._group) if reduces else 0.0
        if self._pp > 1:
            exchange += self._network.send_s(size / self._tp, self._crosses_nodes)
        if self._ep > 1:
            exchange += self._to_experts_s(rows / self._ep)
        return Seconds(
            compute_s=whole_flops_s / (self._tp * self._pp * self._ep) / self._share,
            memory_s=whole_memory_s / self._pp / self._share,
            exchange_s=exchange / self._share,
        )

    def _to_experts_s(self, rows: float) -> float:
        """So many tokens of each rank to their experts and back, in every layer that has them."""
        model, network = self._model, self._network
        seconds = sum(
            network.dispatch_s(
                rows * model.hidden * each, model.experts_per_token, model.expert_nodes, self._experts_group
            )
            for each in (self._sent_bytes, ACTIVATION_BYTES)
        )
        return seconds * (model.layers - model.dense_layers)

    def _head_elements(self) -> int:
        return self._model.vocab * self._model.hidden

    def _matrix_elements(self) -> float:
        return self._layers_elements() + self._head_elements()

    def _layers_elements(self) -> float:
        """Of all layers, those that one token passes."""
        model = self._model
        mlp = model.hidden * matrices(model) * mlp_width(model)
        routers = router_elements(model) * (model.layers - model.dense_layers)
        return model.layers * (attention_matrix_elements(model) + mlp) + routers

    def _decoded_width(self) -> int:
        """Of queries and outputs over all heads. With latent attention they are as wide as what is kept,
        which all heads share (DeepSeek-AI 2024, DeepSeek-V2, section 2.1.2)."""
        model = self._model
        if not model.kv_lora_rank:
            return query_width(model) + output_width(model)
        return model.heads * (2 * model.kv_lora_rank + (model.rope_head_dim or 0))

    def _touched_elements(self, rows: float) -> float:
        """Of all layers and the head, on one expert parallel rank: of several experts those of its own that
        `rows` tokens are expected to be sent to, if each is as likely."""
        model = self._model
        idle: float = (1 - model.experts_per_token / model.experts) ** max(rows, 1.0)
        experts = model.experts * (1 - idle) / self._ep
        dense = model.hidden * (model.dense_ffn or model.ffn) * matrices(model) * model.dense_layers
        routed = router_elements(model) + (experts + model.shared_experts) * mlp_matrix_elements(model)
        layers = model.layers * attention_matrix_elements(model) + dense
        return layers + (model.layers - model.dense_layers) * routed + self._head_elements()
