"""Seconds that one accelerator computes: matrix products, attention, and what memory bandwidth bounds.

A matrix product is a roofline (Williams et al. 2009) whose roof is what a large one sustains in training,
lowered by its shape: products are cut into tiles that fill the multiprocessors in waves, so ragged edges
and the tail of the last wave are lost, and each tile has a ramp that a short inner dimension does not
repay (NVIDIA, Matrix Multiplication Background User's Guide).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from orchestrator.config.schema import ModelConfig, PlannerConfig
from orchestrator.plan.perf.machine import Machine
from orchestrator.plan.perf.software import Software
from orchestrator.plan.perf.transformer import (
    attention_projections,
    head_width,
    key_width,
    matrices,
    mlp_width,
    output_width,
    query_width,
    value_width,
    windows,
)

# Rows and columns of a tile, and the share of the rate that smaller ones reach, as they reuse less.
TILES = ((128, 256, 1.0), (128, 128, 0.95), (64, 64, 0.7))
# Tensor cores take 16 bytes at a time; heads of another width are left to the pipelines for float32 (NVIDIA,
# Matrix Multiplication Background User's Guide, section 4.1).
ALIGNED_ELEMENTS = 8
# How much longer the head's products take where its lines are no multiple of those 16 bytes: three times with
# an odd number of tokens, as measured (Netflix, Scaling LLM Post-Training, 2026). Lines of 4 and 8 bytes can
# still be copied while the product goes on (PTX ISA, cp.async), and are taken to lie halfway.
COPIED_AT_ONCE_BYTES, COPIED_BYTES = 16, 4
UNALIGNED, PARTLY_ALIGNED = 3.0, math.sqrt(3.0)
# fp16 scores, their softmax, dropout and its mask, unfused
SCORE_BYTES_FORWARD, SCORE_BYTES_BACKWARD = 13, 19
FLASH_BACKWARD = 2.5  # five products instead of two (Dao 2023)
# Of each logit, forward and backward: a float32 copy, its maximum, difference, exponential, sum and quotient,
# and the gradient in both precisions, each a kernel that reads and writes; in one kernel, read and written
# twice in 16 bits.
LOSS_BYTES, FUSED_LOSS_BYTES = 72, 12
ROUTING_PASSES = 6  # tokens sorted by expert and back, each read and written, and weighed
ADAM_BYTES_PER_PARAMETER = 30  # read gradient, weight and two moments, write three, and the 16-bit weight


@dataclass(frozen=True)
class Passes:
    """Seconds of one micro-batch forward and backward, in one layer, in the head, or in a whole stage."""

    matmul_forward_s: float
    matmul_backward_s: float
    attention_forward_s: float
    attention_backward_s: float
    memory_forward_s: float
    memory_backward_s: float

    @property
    def forward_s(self) -> float:
        return self.matmul_forward_s + self.attention_forward_s + self.memory_forward_s

    @property
    def backward_s(self) -> float:
        return self.matmul_backward_s + self.attention_backward_s + self.memory_backward_s


class Kernels:
    """Times of one model's kernels on one machine, kept by shape."""

    def __init__(
        self,
        model: ModelConfig,
        machine: Machine,
        constants: PlannerConfig,
        precision: str,
        software: Software,
    ) -> None:
        self.model, self.machine, self.constants = model, machine, constants
        self.precision, self.software = precision, software
        self.element_bytes = 4 if precision == "fp32" else 2
        self._flops = machine.sustained_flops(precision)
        # attention, norms and the head stay in 16 bits under fp8
        self._wide = "bf16" if precision == "fp8" else precision
        self._wide_flops = machine.sustained_flops(self._wide)
        self._bytes_per_s = machine.hbm_bytes_per_s * constants.hbm_efficiency
        self._layers: dict[tuple[int, int, int, int], Passes] = {}
        self._heads: dict[tuple[int, int, int], Passes] = {}

    def matmul_s(self, rows: int, columns: int, depth: int, flops_per_s: float, count: int = 1) -> float:
        """Seconds of `count` products of (rows x depth) and (depth x columns)."""
        compute = math.inf
        for tile_rows, tile_columns, share in TILES:
            tiles = math.ceil(rows / tile_rows) * math.ceil(columns / tile_columns) * count
            waves = math.ceil(tiles / self.machine.multiprocessors) + self.constants.wave_tail
            steps = waves * self.machine.multiprocessors * tile_rows * tile_columns
            compute = min(compute, 2.0 * steps * (depth + self.constants.ramp_depth) / (flops_per_s * share))
        moved = self.element_bytes * count * (rows * depth + depth * columns + rows * columns)
        return max(compute, moved / self._bytes_per_s)

    def linear_s(
        self, tokens: int, inputs: int, outputs: int, flops: float, count: int = 1
    ) -> tuple[float, float]:
        """Seconds forward and backward of `count` linear layers: one product forward, one for the inputs'
        and one for the weights' gradient backward."""
        forward = self.matmul_s(tokens, outputs, inputs, flops, count)
        backward = self.matmul_s(tokens, inputs, outputs, flops, count)
        return forward, backward + self.matmul_s(inputs, outputs, tokens, flops, count)

    def layer(self, sequences: int, tp: int, sp: int, ep: int = 1) -> Passes:
        """One layer on one rank: `sequences` of the model's length, cut by sequence parallel `sp`."""
        key = (sequences, tp, sp, ep)
        if key not in self._layers:
            self._layers[key] = self._layer(sequences, tp, sp, ep)
        return self._layers[key]

    def head(self, sequences: int, tp: int, sp: int = 1) -> Passes:
        """The output matrix and the loss on one rank of the last pipeline stage."""
        key = (sequences, tp, sp)
        if key not in self._heads:
            self._heads[key] = self._head(sequences, tp, sp)
        return self._heads[key]

    def _layer(self, sequences: int, tp: int, sp: int, ep: int) -> Passes:
        """A layer between those with experts and those without, as many as there are of each."""
        model = self.model
        tokens = max(1, sequences * model.seq_len // sp)
        forward = backward = 0.0
        for share, inputs, outputs, rows, count in [
            *((1.0, *product) for product in self._projections(tokens, tp)),
            *self._mlps(tokens, tp, ep),
        ]:
            there, back = self.linear_s(rows, max(1, inputs), max(1, outputs), self._flops, count)
            forward, backward = forward + share * there, backward + share * back
        attention = self._attention(sequences, tp, sp)
        memory = self._memory_bound(tokens, tp)
        return Passes(forward, backward, *attention, *memory)

    def _projections(self, tokens: int, tp: int) -> list[tuple[int, int, int, int]]:
        """Inputs, outputs, rows and count of attention's linear layers on one rank."""
        return [
            (inputs // (tp if inputs_cut else 1), outputs // (tp if outputs_cut else 1), tokens, 1)
            for inputs, outputs, inputs_cut, outputs_cut in attention_projections(self.model)
        ]

    def _mlps(self, tokens: int, tp: int, ep: int) -> Iterator[tuple[float, int, int, int, int]]:
        """The same of a layer's MLPs, after the share of the layers that have them."""
        model, wide = self.model, matrices(self.model) - 1

        def mlp(
            share: float, width: int, rows: int, count: int
        ) -> Iterator[tuple[float, int, int, int, int]]:
            yield share, model.hidden, wide * width // tp, rows, count
            yield share, width // tp, model.hidden, rows, count

        dense = model.dense_layers / model.layers if model.experts > 1 else 1.0
        if dense:
            yield from mlp(dense, model.dense_ffn or model.ffn, tokens, 1)
        if model.experts > 1:
            here = max(1, model.experts // ep)
            each = max(1, tokens * ep * model.experts_per_token // model.experts)
            yield from mlp(1 - dense, model.ffn, each, here)
            yield 1 - dense, model.hidden, model.experts, tokens, 1
            if model.shared_experts:
                yield from mlp(1 - dense, model.shared_experts * model.ffn, tokens, 1)

    def _attention(self, sequences: int, tp: int, sp: int) -> tuple[float, float]:
        """Scores, softmax and their product with the values, the mean over layers whose windows differ. Flash
        kernels compute half of the square and keep nothing (Dao et al. 2022, Dao 2023); unfused ones compute
        all of it and move it through memory."""
        parts = [
            (share, self._attention_in(window, sequences, tp, sp)) for share, window in windows(self.model)
        ]
        return (
            sum(share * forward for share, (forward, _) in parts),
            sum(share * backward for share, (_, backward) in parts),
        )

    def _attention_in(self, window: int, sequences: int, tp: int, sp: int) -> tuple[float, float]:
        model = self.model
        square = float(sequences) * model.seq_len * window
        # all-to-all gives each rank whole sequences of some heads
        flops = 2.0 * square * (query_width(model) + output_width(model)) / tp / sp
        if self.software.fused_attention:
            causal = 1 - window / (2 * model.seq_len) if self.software.skips_masked else 1.0
            rate = self._wide_flops * self.constants.attention_efficiency
            if self.machine.architecture == "hopper" and not self.software.hopper_attention:
                rate *= self.constants.attention_before_hopper
            forward = flops * causal / rate
            return forward, FLASH_BACKWARD * forward
        ragged = self.constants.misaligned_factor if head_width(model) % ALIGNED_ELEMENTS else 1.0
        products = flops * ragged / (self._wide_flops * self.constants.score_efficiency)
        scores = square * (model.heads / tp / sp) / self._bytes_per_s
        return products + SCORE_BYTES_FORWARD * scores, 2 * products + SCORE_BYTES_BACKWARD * scores

    def _memory_bound(self, tokens: int, tp: int) -> tuple[float, float]:
        """Norms, residuals, activation function, position embedding, dropout, casts: reads and writes of
        the residual stream (not divided by tensor parallelism unless its sequences are) and of the inner
        width."""
        model, passes = self.model, self.constants.stream_passes * self.software.elementwise_share
        routed = model.experts_per_token if model.experts > 1 else 1
        stream = model.hidden * (1 / tp if self.software.sequence_parallel else 1)
        width = mlp_width(model)
        attended = query_width(model) + (key_width(model) + value_width(model)) / 2
        inner = (width * matrices(model) + attended) / tp
        if model.experts > 1:
            stream += ROUTING_PASSES / passes * routed * model.hidden / tp
        elements = tokens * (passes * stream + passes / 4 * inner)
        if self.precision == "fp8":
            elements += tokens * self.constants.fp8_passes * (model.hidden + width / tp)
        forward = elements * self.element_bytes / self._bytes_per_s
        return forward, 2 * forward

    def _head(self, sequences: int, tp: int, sp: int) -> Passes:
        tokens, vocab = max(1, sequences * self.model.seq_len // sp), max(1, self.model.vocab // tp)
        rate = self._wide_flops / self._slower_for(vocab)
        forward, backward = self.linear_s(tokens, self.model.hidden, vocab, rate)
        loss = (
            tokens
            * vocab
            * (LOSS_BYTES if self.software.copies_loss else FUSED_LOSS_BYTES)
            / 2
            / self._bytes_per_s
        )
        return Passes(forward, backward, 0.0, 0.0, loss, loss)

    def _slower_for(self, vocab: int) -> float:
        """How much slower the head's products are with so many tokens of the vocabulary on a rank."""
        line_bytes = vocab * self.element_bytes
        if self.software.pads_vocabulary or line_bytes % COPIED_AT_ONCE_BYTES == 0:
            return 1.0
        return UNALIGNED if line_bytes % COPIED_BYTES else PARTLY_ALIGNED

    def accumulate_s(self, parameters: float) -> float:
        """One micro-batch's gradients added to those before."""
        return parameters * self.software.gradient_bytes / self._bytes_per_s

    def optimizer_s(self, parameters: float) -> float:
        """Adam over `parameters`: bound by memory."""
        return parameters * ADAM_BYTES_PER_PARAMETER / self._bytes_per_s
