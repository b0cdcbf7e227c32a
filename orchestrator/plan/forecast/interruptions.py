"""A run over its whole length: interruptions, checkpoints, lost work, and what that makes of hours and money.

Failures come at random, independent of each other, at a rate that grows with the accelerators (and, on spot,
with the nodes). Time is lost in three ways: the training stands still for every checkpoint, work since the
last checkpoint is redone after an interruption, and a restart takes its time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

from orchestrator.errors import ConfigError
from orchestrator.plan.forecast.failure_rates import Checkpoints, Hazards, checkpoint_interval_s

# Between so much of all outcomes lie `low` and `high`.
LOW, HIGH = 0.1, 0.9
# A run that would take more than a hundred times its work is refused, not predicted.
LEAST_GOODPUT = 0.01
# Up to this mean the Poisson distribution is summed, above it is as good as its expansion.
MOST_SUMMED = 500.0


@dataclass(frozen=True)
class Forecast:
    """Expected values; `low` and `high` are at the 10 % and 90 % quantile of the number of interruptions.
    `wall_hours` are `work_hours` and what is lost: stalled by checkpoints, restarting, and work done
    again."""

    gpus: int  # held at once
    work_hours: float  # of training, without interruptions
    # on average, infinite where none is expected; null where none is expected
    hours_between_interruptions: float
    checkpoint_every_s: float  # the interval that loses least, or the configured one
    interruptions: float  # expected number
    interruptions_low: int  # at the 10% quantile
    interruptions_high: int  # at the 90% quantile
    stalled_hours: float  # held up by checkpoints
    restarting_hours: float  # from a fault to the next step
    redone_hours: float  # steps done again
    wall_hours_low: float  # with few interruptions
    wall_hours_high: float  # with many interruptions
    checkpoint_bytes: float = 0.0  # of one, of all ranks; 0 is not known

    @property
    def storage_bytes_per_s(self) -> float:
        """What all nodes together have to write for checkpoints, on average."""
        return self.checkpoint_bytes / self.checkpoint_every_s

    @property
    def wall_hours(self) -> float:
        """Of the whole run: work and what is lost."""
        return self.work_hours + self.stalled_hours + self.restarting_hours + self.redone_hours

    @property
    def goodput(self) -> float:
        """Useful hours / allocated hours, above 0 to 1."""
        return self.work_hours / self.wall_hours

    @property
    def gpu_hours(self) -> float:
        """Allocated, and to be paid."""
        return self.gpus * self.wall_hours

    @property
    def gpu_hours_low(self) -> float:
        """The same with few interruptions."""
        return self.gpus * self.wall_hours_low

    @property
    def gpu_hours_high(self) -> float:
        """The same with many interruptions."""
        return self.gpus * self.wall_hours_high


@dataclass(frozen=True)
class CostRange:
    """US dollars of a run."""

    low_usd: float
    expected_usd: float
    high_usd: float


def forecast(
    work_hours: float, gpus: int, nodes: int, hazards: Hazards, checkpoints: Checkpoints, step_s: float = 0.0
) -> Forecast:
    """A run of `work_hours` of training without faults on `gpus` accelerators of `nodes` nodes.

    Expected wall time is M exp(R/M) (exp((I + stall)/M) - 1) / I per second of work: Daly, "A higher order
    estimate of the optimum checkpoint interval for restart dumps", 2006, equation 20, with M seconds between
    interruptions and I of work between checkpoints. It counts interruptions of restarts and of work that is
    redone. R is restart and load, and `write_s`: a checkpoint that is not durable yet is lost with the node,
    which on average makes the newest durable one so much older than half an interval. `step_s` keeps
    checkpoints five steps apart.

    Raises ConfigError naming the key when interruptions leave less than a hundredth.
    """
    rate_per_s = sum(hazards.per_s(gpus, nodes))
    work_s = work_hours * 3600.0
    interval_s = checkpoint_interval_s(checkpoints, rate_per_s, work_s, step_s)
    stalled_s = work_s * checkpoints.stall_s / interval_s
    restart_s = hazards.mean_restart_s(gpus, nodes) + checkpoints.load_s
    lost_s = restarting_s = 0.0
    if rate_per_s:
        delay, again = (
            (restart_s + checkpoints.write_s) * rate_per_s,
            (interval_s + checkpoints.stall_s) * rate_per_s,
        )
        slower = _slower(delay, again) * (1 + checkpoints.stall_s / interval_s)
        if slower * LEAST_GOODPUT > 1:
            raise ConfigError(_stuck(hazards, gpus, nodes, delay / rate_per_s))
        lost_s = max(0.0, work_s * slower - work_s - stalled_s)
        restarting_s = min(lost_s, work_s * slower * -math.expm1(-restart_s * rate_per_s))
    wall_s = work_s + stalled_s + lost_s
    mean = wall_s * rate_per_s
    low, high = poisson_range(mean)
    each_s = lost_s / mean if mean else 0.0
    return Forecast(
        gpus=gpus,
        work_hours=work_hours,
        hours_between_interruptions=1 / rate_per_s / 3600.0 if rate_per_s else math.inf,
        checkpoint_every_s=interval_s,
        interruptions=mean,
        interruptions_low=low,
        interruptions_high=high,
        stalled_hours=stalled_s / 3600.0,
        restarting_hours=restarting_s / 3600.0,
        redone_hours=(lost_s - restarting_s) / 3600.0,
        wall_hours_low=(wall_s - max(0.0, mean - low) * each_s) / 3600.0,
        wall_hours_high=(wall_s + max(0.0, high - mean) * each_s) / 3600.0,
        checkpoint_bytes=checkpoints.state_bytes,
    )


def poisson_range(mean: float) -> tuple[int, int]:
    """The 10 % and 90 % quantiles of a Poisson distribution: both are 0 where the mean is next to nothing.

    Above `MOST_SUMMED` by the Cornish-Fisher expansion to the skewness (Abramowitz and Stegun 26.2.49).
    """
    return _poisson_quantile(LOW, mean), _poisson_quantile(HIGH, mean)


def cost_range(run: Forecast, mean_usd: Callable[[float], float], step_time_error: float) -> CostRange:
    """Dollars of a run, from few interruptions and steps faster than predicted to many and slower.

    `step_time_error` is |predicted - actual| / actual, so that actual lies between predicted / (1 + error)
    and predicted / (1 - error); from 0 to less than 1, else ConfigError. `mean_usd` is what an
    accelerator-hour costs over so many hours from the beginning on.
    """
    if not 0 <= step_time_error < 1:
        raise ConfigError(
            f"an error of the step time of {step_time_error:g} is out of range: it is from 0 to below 1"
        )
    slow, fast = 1 + step_time_error, 1 - step_time_error
    return CostRange(
        low_usd=run.gpu_hours_low / slow * mean_usd(run.wall_hours_low / slow),
        expected_usd=run.gpu_hours * mean_usd(run.wall_hours),
        high_usd=run.gpu_hours_high / fast * mean_usd(run.wall_hours_high / fast),
    )


def _slower(delay: float, again: float) -> float:
    """Wall time over work and stalls, exp(delay) (exp(again) - 1) / again; infinite where it is beyond
    counting."""
    return math.exp(delay) * math.expm1(again) / again if delay + again < 700 else math.inf


def _poisson_quantile(share: float, mean: float) -> int:
    if mean > MOST_SUMMED:
        normal = NormalDist().inv_cdf(share)
        return max(0, round(mean + normal * math.sqrt(mean) + (normal * normal - 1) / 6))
    count, term = 0, math.exp(-mean)
    below = term
    while below < share:
        count += 1
        term *= mean / count
        below += term
    return count


def _stuck(hazards: Hazards, gpus: int, nodes: int, delay_s: float) -> str:
    failures_per_s, reclaims_per_s = hazards.per_s(gpus, nodes)
    key, value = "recovery.gpu_hours_per_failure", hazards.gpu_hours_per_failure
    if reclaims_per_s > failures_per_s and hazards.spot_node_hours_per_interruption is not None:
        key = "cluster.price.spot_node_hours_per_interruption"
        value = hazards.spot_node_hours_per_interruption
    return (
        f"{key}={value:g} interrupts {gpus:,} accelerators on {nodes:,} nodes every"
        f" {1 / (failures_per_s + reclaims_per_s):,.0f} s, and each time costs {delay_s:,.0f} s beside the"
        f" work to redo: the run would hardly come forward; use fewer nodes, or set {key} to what the cluster"
        " has shown"
    )
