"""What a job is worth, what it costs to stop it, and how long it must run before that may be done.

Each function takes numbers or whole columns of them, so that a live decision and a simulation of a hundred
thousand jobs use the same lines.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.fleet.settings import Policy
from orchestrator.fleet.trace import Floats

Column = NDArray[Any]  # of any numbers
HOUR_S = 3600.0


def delay_usd_per_hour(
    usd_per_hour: Floats,
    waited_s: Floats,
    predicted_h: Floats,
    slack_h: Floats | None,
    left_h: Floats,
    policy: Policy,
    penalty_usd: Floats | None = None,
) -> Floats:
    """What an hour of delay costs now. ``slack_h``: how much later than now a job may start and still meet
    its deadline, infinite without one (None: nobody has one); below zero it cannot be met any more, and
    nothing is gained by hurrying. ``penalty_usd`` is lost once if it is missed: spread over the time that
    there is until then, so that it counts for more the less of that is left."""
    aged: Floats = usd_per_hour * (1.0 + policy.aging / HOUR_S * waited_s / (predicted_h + 1.0))
    if slack_h is None:
        return aged
    if penalty_usd is not None and penalty_usd.any():
        until_h = np.maximum(slack_h + left_h, 1.0 / HOUR_S)
        aged = aged + np.where(slack_h >= 0.0, penalty_usd / until_h, 0.0)
    short = (slack_h >= 0.0) & (slack_h < left_h / 2 + policy.deadline_slack_s / HOUR_S)
    return np.where(short, aged * policy.deadline_boost, aged)


def worth(
    delay: Floats,
    gpus: Column,
    left_h: Floats,
    start_h: Floats,
    running: Column,
    known: Column,
    policy: Policy,
) -> Floats:
    """Dollars of delay that a GPU-hour avoids: Smith's rule (1956), with gangs. Who runs has nothing to load,
    and has to be beaten by a tenth; where what is left is only a claim (``known`` is false), by more, since
    claims fall while a job runs and would have equals take turns."""
    hysteresis = np.where(known, policy.hysteresis, policy.unknown_hysteresis)
    waiting = delay / (gpus * (left_h + start_h))
    return np.where(running, delay / (gpus * left_h * hysteresis), waiting)


def price_usd(gpus: Column, price_s: Column | float, usd_per_gpu_hour: Floats | float) -> Floats:
    """Of a stop and the start after it: seconds in which the GPUs do nothing new."""
    return gpus * price_s / HOUR_S * usd_per_gpu_hour


def min_run_s(price_s: Column | float, policy: Policy) -> Floats:
    """How long a job runs before it may be stopped, so that being stopped takes little of its time."""
    return np.maximum(policy.min_run_s, policy.min_run_prices * price_s)
