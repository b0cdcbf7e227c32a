"""Step time by constant utilisation, and model FLOPs utilisation from a measured rate.

A constant utilisation knows nothing of batch, layout or fabric, nor of what routing tokens to experts
costs: the tables it is taken from are of dense models. On published tables of dense models other than
its own, its mean absolute error is 27-34%.
"""

from __future__ import annotations

from orchestrator.config import GpuConfig, ModelConfig
from orchestrator.errors import ConfigError
from orchestrator.plan.transformer import recompute_flops_per_token, training_flops_per_token


def peak_flops(gpu: GpuConfig, precision: str) -> float:
    """Dense peak of one accelerator in FLOP/s. Raises ConfigError when none is recorded for `precision`."""
    try:
        return gpu.peak_flops[precision]
    except KeyError:
        known = ", ".join(sorted(gpu.peak_flops)) or "none"
        raise ConfigError(
            f"job.precision={precision}: {gpu.name} has no peak recorded for it (known: {known}); choose one "
            f"of those, or add gpu.peak_flops.{precision}"
        ) from None


def step_time_s(
    model: ModelConfig, gpu: GpuConfig, precision: str, ranks: int, tokens: int, recompute: bool
) -> float | None:
    """Predicted seconds of one optimizer step over `tokens` tokens on `ranks` accelerators.

    tokens x FLOPs per token / (ranks x dense peak x utilisation), where the FLOPs include what is
    recomputed because `gpu.utilisation` counts those too. None where the GPU has no utilisation.
    """
    if gpu.utilisation is None:
        return None
    flops = training_flops_per_token(model)
    if recompute:
        flops += recompute_flops_per_token(model)
    return tokens * flops / (ranks * peak_flops(gpu, precision) * gpu.utilisation)


def model_flops_utilisation(
    model: ModelConfig, gpu: GpuConfig, precision: str, ranks: int, tokens_per_s: float
) -> float:
    """MFU of a measured rate of `tokens_per_s` over all ranks: FLOPs that the model needs, attention
    counted in full and nothing recomputed, over the dense peak (Chowdhery et al. 2022, PaLM, appendix B)."""
    return tokens_per_s * training_flops_per_token(model) / (ranks * peak_flops(gpu, precision))
