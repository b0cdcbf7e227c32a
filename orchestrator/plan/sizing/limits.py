"""What a budget and a deadline allow, what a layout is chosen from, and a run that keeps to both."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

from orchestrator.config.schema import Config, ModelConfig
from orchestrator.plan.forecast.prediction import Prediction
from orchestrator.plan.forecast.price import Offer
from orchestrator.plan.search.space import Candidate, Sharding
from orchestrator.plan.serving.request import ServingResult
from orchestrator.plan.sizing.scaling_law import ScalingLaw

LEAST_HOURS = 1.0  # a run that is shorter answers no question
_MOST_HOURS = 24 * 366 * 10.0  # that are looked through where nothing but money limits a run
_SURE = 1e-3


@dataclass(frozen=True)
class Limits:
    """What a run may take, expected interruptions included; None is no limit, and one of the two is there."""

    usd: float | None
    days: float | None

    def hours(self, gpus: int, offer: Offer) -> float:
        """Wall hours that both limits leave to so many accelerators, at most a thousandth too many where the
        price changes meanwhile."""
        by_time = math.inf if self.days is None else self.days * 24
        return by_time if self.usd is None else min(by_time, _hours_for(self.usd / gpus, offer, by_time))


@cache  # it is asked of every layout, and looks through as many days
def _hours_for(usd: float, offer: Offer, most: float) -> float:
    """How long one accelerator can be paid for, looked for up to ``most`` hours."""
    if offer.schedule is None:
        return usd / offer.usd_per_gpu_hour if offer.usd_per_gpu_hour else math.inf

    def spent_usd(hours: float) -> float:
        return offer.mean_usd_per_gpu_hour(hours) * hours

    most = min(most, _MOST_HOURS)
    if spent_usd(most) <= usd:
        return most
    enough, too_long = 0.0, min(most, LEAST_HOURS)
    while spent_usd(too_long) <= usd:
        enough, too_long = too_long, min(most, 2 * too_long)
    while too_long - enough > _SURE * too_long:
        between = (enough + too_long) / 2
        enough, too_long = (between, too_long) if spent_usd(between) <= usd else (enough, between)
    return too_long


@dataclass(frozen=True)
class Freedom:
    """What a layout is chosen from. Degrees that are named in `fixed` have that value, others of `able` are
    free and the rest is 1; `global_batch` and `micro_batch` None are free."""

    shardings: tuple[Sharding, ...]
    recompute: tuple[bool, ...] = (False, True)
    able: frozenset[str] = frozenset()
    fixed: Mapping[str, int] = field(default_factory=dict)
    global_batch: int | None = None
    micro_batch: int | None = None


@dataclass(frozen=True)
class ServedModel:
    """A trained model that is served for some days, on a cluster that need not be its training's."""

    config: Config  # with the cluster
    result: ServingResult
    days: float
    usd_per_gpu_hour: float

    @property
    def cost_usd(self) -> float:
        """Of all these days."""
        return self.result.usd_per_day * self.days


@dataclass(frozen=True)
class RunCandidate:
    """One run within the limits; `config` has its cluster, nodes, model and steps. `loss` in nats per token.
    `served` is what the limits pay for beside it; None where they pay for the training alone."""

    config: Config
    candidate: Candidate
    prediction: Prediction
    parameters: int
    law_parameters: int  # those that the law counts: of several experts, only the ones that compute a token
    tokens: int
    loss: float
    law: ScalingLaw
    served: ServedModel | None = None

    @property
    def total_usd(self) -> float:
        """Training, and serving where it is paid for too."""
        return (self.prediction.cost_usd or 0.0) + (0.0 if self.served is None else self.served.cost_usd)

    @property
    def model(self) -> ModelConfig:
        assert self.config.model is not None
        return self.config.model

    @property
    def days(self) -> float:
        return (self.prediction.hours or 0.0) / 24

    @property
    def share_of_optimal_tokens(self) -> float:
        """Tokens over those for which this size is the best use of the FLOPs; above 1 is trained for
        longer."""
        return self.tokens / self.law.optimal_tokens(self.law_parameters)
