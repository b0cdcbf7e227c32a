"""What a sweep of runs is after, in the configuration."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from orchestrator.config.ranges import Loss


class Objective(Enum):
    """What a sweep makes as small as it can, by the names that these figures have in ``compare``."""

    usd_to_loss = "usd_to_loss"
    gpu_hours_to_loss = "gpu_hours_to_loss"
    hours_to_loss = "hours_to_loss"
    best_loss = "best_loss"
    cost_usd = "cost_usd"
    gpu_hours = "gpu_hours"

    @property
    def needs_a_loss(self) -> bool:
        """Whether it is what was taken until a loss was reached."""
        return self.value.endswith("_to_loss")


@dataclass
class SweepConfig:
    """What a sweep of runs (``-m``) is after. Each run gives this figure to Hydra's sweeper; Optuna's
    (``hydra/sweeper=optuna``) chooses by it what the next run has."""

    # usd_to_loss, gpu_hours_to_loss and hours_to_loss: what it took to come to `loss`, infinite for a run
    # that never did. best_loss: the lowest median of five losses. cost_usd and gpu_hours: of a run that
    # finished, infinite for any other
    minimize: Objective | None = None
    loss: Loss | None = None  # that is to be reached, as --to-loss of compare
