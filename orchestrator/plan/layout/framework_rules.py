"""What Megatron, FSDP and DeepSpeed can divide and leave out, as far as a layout says it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.config.choices import Framework
from orchestrator.config.schema import Config
from orchestrator.errors import ConfigError

if TYPE_CHECKING:
    from orchestrator.plan.layout.layout import Layout

# NVIDIA Megatron-Core's optimizer is replicated, or distributed over the data parallel ranks.
_MEGATRON_STAGES = (0, 1)
# PyTorch's FSDP shards gradients and optimizer, or weights as well.
_FSDP_STAGES = (2, 3)
LEAST_STAGE = {
    Framework.deepspeed: 0,
    Framework.megatron: _MEGATRON_STAGES[0],
    Framework.fsdp: _FSDP_STAGES[0],
}


def check_framework(config: Config, stage: int, offloads: bool, precision: str) -> None:
    """Raises :class:`ConfigError` for what the job's framework does not do, with what does it."""
    layout, framework = config.layout, config.job.framework
    if layout.recompute and layout.selective:
        raise ConfigError(
            "layout.selective=true: but layout.recompute=true computes all of a layer again; set one of them"
            " to false"
        )
    others = "job.framework=megatron or job.framework=fsdp, for a script that trains with it"
    if framework is Framework.deepspeed:
        if precision == "fp8":
            raise ConfigError(
                "job.precision=fp8: DeepSpeed's engine computes in bf16, fp16 or fp32; write"
                f" job.precision=bf16, or plan with {others}"
            )
        for key, value in (
            ("cp", layout.cp if layout.cp > 1 else None),
            ("selective", layout.selective or None),
            ("sequence_parallel", layout.sequence_parallel or None),
            ("ep_overlap", layout.ep_overlap or None),
        ):
            if value is not None:
                raise ConfigError(
                    f"layout.{key}={str(value).lower()}: DeepSpeed has nothing like it; leave it out, or plan"
                    f" with {others}"
                )
        return
    reason = refusal(framework, layout.sp, stage, offloads)
    if reason is not None:
        raise ConfigError(reason)
    if layout.ep_overlap:
        _check_ep_overlap(config)
    if layout.sequence_parallel and layout.tp == 1:
        raise ConfigError(
            "layout.sequence_parallel=true: divides among tensor parallel ranks, and layout.tp=1; raise"
            " that, or leave it out"
        )


def _check_ep_overlap(config: Config) -> None:
    """That there is anything to hide, and software that hides it."""
    layout, framework = config.layout, config.job.framework
    if framework is Framework.fsdp:
        raise ConfigError(
            "layout.ep_overlap=true: FSDP has nothing like it; leave it out, or plan with"
            " job.framework=megatron, for a script that trains with it"
        )
    if layout.ep == 1 and not layout.auto:
        raise ConfigError(
            "layout.ep_overlap=true: hides what experts send each other, and layout.ep=1; raise that, or"
            " leave it out"
        )


def refusal(framework: Framework, sp: int, stage: int, offloads: bool) -> str | None:
    """Why Megatron or FSDP does not run it; None where it does."""
    name = framework.value
    stages = _MEGATRON_STAGES if framework is Framework.megatron else _FSDP_STAGES
    if stage not in stages:
        what = (
            "Megatron's optimizer is replicated or distributed, as with ZeRO-0 and ZeRO-1"
            if framework is Framework.megatron
            else "FSDP shards gradients and optimizer, or weights too, as ZeRO-2 and ZeRO-3 do"
        )
        better = " or ".join(f"deepspeed=zero{stage}" for stage in stages)
        return f"deepspeed.zero_optimization.stage={stage}: {what} (job.framework={name}); use {better}"
    if offloads:
        return f"deepspeed.zero_optimization: offload is DeepSpeed's, and job.framework={name}; leave it out"
    if sp > 1:
        return (
            f"layout.sp={sp}: exchanges heads for positions as DeepSpeed does, and job.framework={name}"
            f" passes keys on in a ring; use layout.cp={sp}"
        )
    return None


def sharding_in_words(layout: Layout) -> str:
    """How states are divided, as the framework calls it."""
    match Framework(layout.framework):
        case Framework.megatron:
            sequence = "" if layout.sequence_parallel is False or layout.tp == 1 else ", sequence parallel"
            return ("distributed optimizer" if layout.zero_stage else "replicated optimizer") + sequence
        case Framework.fsdp:
            return "FSDP" if layout.zero_stage == 3 else "FSDP with whole weights"
    return f"ZeRO-{layout.zero_stage}"
