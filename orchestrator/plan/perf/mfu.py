"""Share of the accelerators' peak that a rate of tokens amounts to: of the model's own FLOPs, and of all of
them."""

from __future__ import annotations

from orchestrator.config.schema import ModelConfig
from orchestrator.plan.perf.machine import Machine, peak_flops
from orchestrator.plan.perf.transformer import recompute_flops_per_token, training_flops_per_token


def model_flops_utilisation(
    model: ModelConfig, machine: Machine, precision: str, ranks: int, tokens_per_s: float
) -> float:
    """MFU of a rate of `tokens_per_s` over all ranks: FLOPs that the model needs, attention counted in full
    and nothing recomputed, over the dense peak (Chowdhery et al. 2022, PaLM, appendix B)."""
    peak = peak_flops(machine.name, machine.peak_flops, precision)
    return tokens_per_s * training_flops_per_token(model) / (ranks * peak)


def hardware_flops_utilisation(
    model: ModelConfig, machine: Machine, precision: str, ranks: int, tokens_per_s: float, recompute: bool
) -> float:
    """HFU: as MFU, with what is recomputed (Korthikanti et al. 2022)."""
    flops = training_flops_per_token(model) + (recompute_flops_per_token(model) if recompute else 0.0)
    return tokens_per_s * flops / (ranks * peak_flops(machine.name, machine.peak_flops, precision))
