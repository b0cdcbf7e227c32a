"""What a GPU-hour or a megawatt-hour more is worth, by site and week, from one run.

An hour of a GPU more shortens the queue by one GPU-hour until nobody waits any more, and in each hour until
then that saves what who waits loses, by GPU-hour that they need. That a thousand GPUs change who waits is
left out of this: ``scenario.more_at`` runs everything again with them.
"""

from __future__ import annotations

import numpy as np

from orchestrator.fleet.scenario import WEEK_S
from orchestrator.fleet.trace import Bools, Floats
from orchestrator.fleet.worth import HOUR_S


def gpu_hour_usd(waiting_worth: Floats, is_held_back: Bools) -> Floats:
    """A mean for each week and site, from a row for each hour. While power keeps GPUs from work, one more
    would not work either."""
    return _by_week(np.where(is_held_back, 0.0, _until_nobody_waits(waiting_worth)))


def mwh_usd(waiting_worth: Floats, is_held_back: Bools, kw_each: Floats) -> Floats:
    """Likewise of power for the GPUs that it keeps from work; nothing while there are none."""
    worth = _until_nobody_waits(waiting_worth) * 1000.0 / kw_each
    return _by_week(np.where(is_held_back, worth, 0.0))


def _until_nobody_waits(waiting_worth: Floats) -> Floats:
    """For each hour the sum over it and those that follow, up to the first in which nobody waits."""
    sums: Floats = np.zeros_like(waiting_worth)
    following = np.zeros(waiting_worth.shape[1])
    for hour in range(len(waiting_worth) - 1, -1, -1):
        waits: Bools = waiting_worth[hour] > 0.0
        following = np.where(waits, waiting_worth[hour] + following, 0.0)
        sums[hour] = following
    return sums


def _by_week(of_hours: Floats) -> Floats:
    found: Floats = of_hours.reshape(-1, int(WEEK_S / HOUR_S), of_hours.shape[1]).mean(axis=1)
    return found


def waits_at_the_end(waiting_worth: Floats) -> Floats:
    """Of the hours of the last week the share in which somebody waits who could run there, at each site."""
    share: Floats = (waiting_worth[-int(WEEK_S / HOUR_S) :] > 0.0).mean(axis=0)
    return share
