"""What simpler ways to predict a step time say of the same rows.

Constant utilisation: the hardware FLOPs of a step (recomputed ones included, attention in full) over the
dense peak times a constant. llm-analysis 0.2.2 (cli99/llm-analysis): the same idea with FLOPs counted its own
way; it is no dependency of the project, and left out where it is not installed:

    pip install --no-deps --target DIR llm-analysis==0.2.2 'fire<0.6' six termcolor
    PYTHONPATH=DIR python -m benchmarks.planner_accuracy --leave-one-table-out
"""

from __future__ import annotations

import collections
import importlib
import importlib.util
import logging
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.planner_hardware import POWER_TO_CLOCK, STATIC_W
from benchmarks.planner_rows import Case
from orchestrator.plan.perf.transformer import (
    query_width,
    recompute_flops_per_token,
    training_flops_per_token,
)

# Medians of llm-foundry's published BF16 rows, by architecture.
LLM_FOUNDRY = {"ampere": 0.559, "hopper": 0.418}
# llm_analysis/constant.py sets 1 and notes that Megatron-LM achieves about 0.5.
LLM_ANALYSIS_DEFAULT, LLM_ANALYSIS_NOTED = 1.0, 0.5
CONSTANT, UNTUNED = "constant utilisation", "constant utilisation, untuned"
ANALYSIS, ANALYSIS_NOTED, ANALYSIS_DEFAULT = (
    "llm-analysis, tuned",
    "llm-analysis at 0.5",
    "llm-analysis as it comes",
)
# What runs below its power limit has a lower peak than its data sheet's, for us and so for them.
CLOCK = {"H100 SXM 96GB HBM2e": ((500 - STATIC_W) / (700 - STATIC_W)) ** POWER_TO_CLOCK}
Efficiency = Mapping[str, float]  # by architecture; "" stands for those that are not known


@dataclass(frozen=True)
class Baseline:
    """Predicts `ideal_s`, seconds at the peak (None where it cannot say), over an efficiency: learnt from the
    other tables where `fixed` is None."""

    name: str
    ideal_s: Callable[[Case], float | None]
    fixed: Efficiency | None = None

    def errors(self, cases: Sequence[Case]) -> list[float | None]:
        """predicted / measured - 1 of each case, with an efficiency from the cases of other tables."""
        ideals = [self.ideal_s(case) for case in cases]
        found: list[float | None] = [None] * len(cases)
        for table in {case.table for case in cases}:
            efficiency = self.fixed or learnt(
                [(c, i) for c, i in zip(cases, ideals, strict=True) if c.table != table]
            )
            for place, (case, ideal_s) in enumerate(zip(cases, ideals, strict=True)):
                if case.table == table and ideal_s is not None:
                    share = efficiency.get(case.gpu.architecture, efficiency[""])
                    found[place] = ideal_s / share / case.step_s - 1
        return found


def baselines() -> list[Baseline]:
    """Those that can run here."""
    untuned = {**LLM_FOUNDRY, "": statistics.fmean(LLM_FOUNDRY.values())}
    found = [Baseline(CONSTANT, utilisation_s), Baseline(UNTUNED, utilisation_s, untuned)]
    if importlib.util.find_spec("llm_analysis") is None:
        return found
    ideal_s = llm_analysis()
    return [
        *found,
        Baseline(ANALYSIS, ideal_s),
        Baseline(ANALYSIS_NOTED, ideal_s, {"": LLM_ANALYSIS_NOTED}),
        Baseline(ANALYSIS_DEFAULT, ideal_s, {"": LLM_ANALYSIS_DEFAULT}),
    ]


def learnt(cases: Sequence[tuple[Case, float | None]]) -> Efficiency:
    """Median efficiency of each table's rows, and the median of those over the tables, which weigh the same.

    By precision too, or with all rows in one heap, constant utilisation does worse on the carried rows.
    """
    shares: dict[tuple[str, str], list[float]] = collections.defaultdict(list)
    for case, ideal_s in cases:
        if ideal_s is not None:
            for architecture in (case.gpu.architecture, ""):
                shares[(architecture, case.table)].append(ideal_s / case.step_s)
    tables: dict[str, list[float]] = collections.defaultdict(list)
    for (architecture, _table), values in shares.items():
        tables[architecture].append(statistics.median(values))
    return {architecture: statistics.median(values) for architecture, values in tables.items()}


def utilisation_s(case: Case) -> float:
    """Seconds at the dense peak of the FLOPs that the hardware does in a step."""
    model, layout = case.model, case.layout
    flops = training_flops_per_token(model)
    if layout.recompute:
        flops += recompute_flops_per_token(model)
    elif layout.selective:
        flops += 4.0 * model.layers * model.seq_len * query_width(model)
    tokens = layout.accumulation * layout.micro_batch * layout.dp * model.seq_len
    return (
        flops * tokens / (layout.ranks * case.gpu.peak_flops[case.precision] * CLOCK.get(case.gpu.name, 1.0))
    )


def llm_analysis() -> Callable[[Case], float | None]:
    """`latency_per_iter` of llm-analysis' training analysis with a FLOPs efficiency of 1."""
    logging.disable(logging.WARNING)  # it logs a page for each analysis
    analysis: Any = importlib.import_module("llm_analysis.analysis")
    config: Any = importlib.import_module("llm_analysis.config")

    def ideal_s(case: Case) -> float | None:
        try:
            return _latency_s(analysis, config, case)
        except (AssertionError, ArithmeticError, ValueError):
            return None

    return ideal_s


def _latency_s(analysis: Any, config: Any, case: Case) -> float:
    model, gpu, layout = case.model, case.gpu, case.layout
    half = gpu.peak_flops["bf16"] / 1e12
    bits = 8 if case.precision == "fp8" else 16
    recompute = analysis.ActivationRecomputation
    tool = analysis.LLMAnalysis(
        config.ModelConfig(
            name=model.name, num_layers=model.layers, n_head=model.heads, hidden_dim=model.hidden,
            vocab_size=model.vocab, max_seq_len=model.seq_len, num_key_value_heads=model.kv_heads,
            ffn_embed_dim=model.ffn, expansion_ratio=model.ffn / model.hidden, moe_num_experts=model.experts,
            moe_top_k=model.experts_per_token,
        ),
        config.GPUConfig(
            name=gpu.name, mem_per_GPU_in_GB=gpu.memory_bytes / 1e9,
            hbm_bandwidth_in_GB_per_sec=(gpu.memory_bandwidth_bytes_per_s or 0.0) / 1e9,
            intra_node_bandwidth_in_GB_per_sec=case.machine.link_bytes_per_s / 1e9,
            intra_node_min_message_latency=8e-6, peak_fp16_TFLOPS=half,
            peak_i8_TFLOPS=gpu.peak_flops.get("fp8", 0.0) / 1e12 or 2 * half,
            inter_node_bandwidth_in_GB_per_sec=case.machine.node_bytes_per_s / 1e9,
        ),
        config.DtypeConfig(weight_bits=bits, activation_bits=bits),
        # it knows no context parallelism, which divides the work as tensor parallelism does
        config.ParallelismConfig(
            tp_size=layout.tp * layout.sp, pp_size=layout.pp, dp_size=layout.dp, sp_size=1,
        ),
        flops_efficiency=LLM_ANALYSIS_DEFAULT,
    )  # fmt: skip
    summary = tool.training(
        batch_size_per_gpu=layout.micro_batch,
        gradient_accumulation_steps=layout.accumulation,
        global_batch_size=layout.micro_batch * layout.accumulation * layout.dp,
        seq_len=model.seq_len,
        activation_recomputation=recompute.FULL if layout.recompute
        else recompute.SELECTIVE if layout.selective else recompute.NONE,
        ds_zero=analysis.DSZeRO(layout.zero_stage),
    )  # fmt: skip
    seconds = float(summary["latency_per_iter"])
    if not math.isfinite(seconds) or seconds <= 0:
        raise ValueError(seconds)
    return seconds / CLOCK.get(gpu.name, 1.0)
