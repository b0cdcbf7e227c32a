"""The bill: what a run has taken and given, derived from the seconds that the meter counted."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar

from orchestrator.events import RunStarted
from orchestrator.notebook import table
from orchestrator.text import count, duration, hours, number, percent, usd

_N = TypeVar("_N", int, float)


class Bucket(StrEnum):
    """What a second was spent on."""

    WAITING = "waiting"
    STARTING = "starting"
    TRAINING = "training"
    CHECKPOINT = "checkpoint"
    REDONE = "redone"
    RECOVERING = "recovering"
    STOPPING = "stopping"
    UNOBSERVED = "unobserved"
    SKIPPED = "skipped"

    # An enum's own is a call into Python, and each record looks up some twenty buckets.
    __hash__ = str.__hash__


@dataclass(frozen=True)
class Bill:
    """What a run has taken and given up to ``elapsed_s``."""

    elapsed_s: float  # since the run began, by its own clock
    bucket: Bucket  # what time goes to at this moment
    gpus_held: int  # at this moment
    seconds: dict[Bucket, float]  # by what they went to
    gpu_seconds: dict[Bucket, float]  # the same of what was held, in the run's own unit
    gpu_hours: float  # held so far, in the run's own unit
    cost_usd: float  # spent so far
    goodput: float | None  # training share of what was held; null while nothing was
    steps: int  # new steps of this run that trained
    step: int  # the highest one reached
    restarts: int  # so far
    tokens: int | None  # trained on; null where tokens a step are not known
    tokens_per_s: float | None  # of the steady state; null where tokens a step are not known
    tokens_per_s_per_gpu: float | None  # the same of one; null where tokens a step are not known
    mfu: float | None  # model FLOPs utilization; null without a model, or a peak of the accelerator
    # of the whole cost; null where tokens a step are not known, or none was trained on
    cost_usd_per_million_tokens: float | None
    final_loss: float | None  # of the newest step; null before the first, and where none is told
    skipped_steps: int = 0  # those that the loss scale skipped
    # what each bucket has cost, which is the cost in all
    bucket_usd: dict[Bucket, float] = field(default_factory=dict)

    def _repr_html_(self) -> str:
        """Figures, and what the time went to, as tables that a notebook shows."""
        figures = [
            ("time", duration(self.elapsed_s)),
            ("spends its time on", self.bucket.value),
            ("accelerator-hours", hours(self.gpu_hours)),
            ("cost", usd(self.cost_usd)),
            ("cost per million tokens", usd(self.cost_usd_per_million_tokens)),
            ("goodput", percent(self.goodput)),
            ("step", f"{self.step:,}"),
            ("restarts", f"{self.restarts:,}"),
            ("tokens", count(self.tokens)),
            ("tokens/s", count(self.tokens_per_s)),
            ("MFU", percent(self.mfu)),
            ("final loss", number(self.final_loss)),
        ]
        held_s = sum(self.gpu_seconds.values())
        spent = [
            (bucket.value, duration(self.seconds.get(bucket)), percent(gpu_s / held_s if held_s else None))
            for bucket, gpu_s in self.gpu_seconds.items()
            if gpu_s or self.seconds.get(bucket)
        ]
        headings = ("spent on", "time", "of what was held")
        return (
            f"<div>{table(figures, title='Bill', numbers=(1,))}{table(spent, headings, numbers=(1, 2))}</div>"
        )


@dataclass(frozen=True)
class Steady:
    """New steps in the steady state, the wall seconds they took, and those times the GPUs held."""

    steps: int
    seconds: float
    gpu_seconds: float


def make_bill(
    facts: RunStarted | None,
    *,
    elapsed_s: float,
    bucket: Bucket,
    gpus_held: int,
    seconds: dict[Bucket, float],
    gpu_seconds: dict[Bucket, float],
    gpu_hours: float,
    cost_usd: float,
    steps: int,
    step: int,
    restarts: int,
    steady: Steady,
    final_loss: float | None,
    skipped_steps: int = 0,
    bucket_usd: dict[Bucket, float] | None = None,
) -> Bill:
    """Multiply and divide; without a steady state the throughput is that of all training time.

    MFU is model FLOPs per token x tokens/s/GPU over the GPU's dense peak.
    """
    per_step = facts.tokens_per_step if facts else None
    if steady.seconds <= 0:
        steady = Steady(steps, seconds[Bucket.TRAINING], gpu_seconds[Bucket.TRAINING])
    tokens = _product(per_step, steps)
    per_gpu = _ratio(_product(per_step, steady.steps), steady.gpu_seconds)
    flops_per_s = _product(per_gpu, facts.model_flops_per_token if facts else None)
    return Bill(
        elapsed_s=elapsed_s,
        bucket=bucket,
        gpus_held=gpus_held,
        seconds=seconds,
        gpu_seconds=gpu_seconds,
        gpu_hours=gpu_hours,
        cost_usd=cost_usd,
        goodput=_ratio(gpu_seconds[Bucket.TRAINING], sum(gpu_seconds.values())),
        steps=steps,
        step=step,
        restarts=restarts,
        tokens=tokens,
        tokens_per_s=_ratio(_product(per_step, steady.steps), steady.seconds),
        tokens_per_s_per_gpu=per_gpu,
        mfu=_ratio(flops_per_s, facts.peak_flops_per_gpu if facts else None),
        cost_usd_per_million_tokens=_ratio(cost_usd * 1e6, tokens),
        final_loss=final_loss,
        skipped_steps=skipped_steps,
        bucket_usd=bucket_usd or {},
    )


def _product(left: _N | None, right: _N | None) -> _N | None:
    return None if left is None or right is None else left * right


def _ratio(numerator: float | None, denominator: float | None) -> float | None:
    return numerator / denominator if numerator is not None and denominator else None
