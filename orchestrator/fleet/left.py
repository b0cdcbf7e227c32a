"""How much a job has left to do, as far as anybody can know.

While it runs its steps say so. Before, and where nobody counts steps, it is a prediction with an error, or
only what other jobs have taken: then a job's claim to GPUs is its Gittins index.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from orchestrator.fleet.trace import Floats, Ints

_LEAST_H = 1.0 / 3600.0
_SHARES = np.linspace(0.0, 12.0, 241)  # how far past the prediction, in standard deviations


def _upper_tail(x: float) -> float:
    return 0.5 * math.erfc(x / math.sqrt(2.0))


def _overrun_table(sigma: float) -> Floats:
    """E[X | X > t] / t of a log-normal, by (ln t - ln median) / sigma."""
    ratios: list[float] = []
    for past in _SHARES:
        tail = _upper_tail(past)
        if tail < 1e-30:
            ratios.append(ratios[-1])
            continue
        ratios.append(math.exp(sigma * sigma / 2 - sigma * past) * _upper_tail(past - sigma) / tail)
    return np.array(ratios)


_tables: dict[float, Floats] = {}


def left_of_prediction(predicted_h: Floats, done_h: Floats, sigma: float) -> Floats:
    """What is left of a predicted time. A job that is past its prediction has as much left as those of its
    kind that got so far: the conditional mean of a log-normal error of ``sigma``."""
    left = predicted_h - done_h
    past = left < predicted_h * min(sigma / 4, 0.25)
    if not np.any(past) or sigma <= 0:
        return np.maximum(left, _LEAST_H)
    if sigma not in _tables:
        _tables[sigma] = _overrun_table(sigma)
    deviations = np.log(np.maximum(done_h, _LEAST_H) / predicted_h) / sigma
    mean_left = done_h * (np.interp(deviations, _SHARES, _tables[sigma]) - 1.0)
    return np.maximum(np.where(past, np.maximum(mean_left, left), left), _LEAST_H)


@dataclass(frozen=True)
class Gittins:
    """The index of a job by the service that it has had: the greatest odds of ending within a while, per
    unit of that while (Gittins 1979). ``claims`` fall off in steps at ``served``."""

    served: Floats
    claims: Floats

    def claim(self, served: Floats) -> Floats:
        return self.claims[np.searchsorted(self.served, served, side="right") - 1]

    def falls_after(self, served: Floats) -> Floats:
        """The service at which the claim is looked at again."""
        return np.append(self.served, math.inf)[np.searchsorted(self.served, served, side="right")]


_GRID = 48
_MOST = 512  # quantiles are as good as more durations, and the table grows with the square
PRIOR_S = np.geomspace(60.0, 30 * 86400.0, 16)  # as many as would be of a cluster nobody has seen yet
_ENOUGH = 10  # that have ended of one size of gang, to go by those alone


def gittins_of(ended_s: Floats, going_s: Floats) -> Gittins:
    """From what has ended, what those have taken so far who go on, and a prior in which all magnitudes from a
    minute to a month are as likely."""
    takes_s, odds = _durations(np.concatenate([ended_s, PRIOR_S]), going_s)
    edges = np.concatenate([[0.0], np.geomspace(max(takes_s[0], 30.0), takes_s[-1], _GRID)])
    claims = np.empty(len(edges))
    for place, served in enumerate(edges):
        first = int(np.searchsorted(takes_s, served, side="right"))
        beyond = takes_s[first:] - served
        if not len(beyond):
            claims[place] = claims[place - 1] / 2 if place else 0.0
            continue
        ending = np.cumsum(odds[first:])
        spent = np.cumsum(beyond * odds[first:]) + beyond * (ending[-1] - ending)
        claims[place] = float(np.max(ending / spent))
    return Gittins(edges, claims)


def _durations(ended_s: Floats, going_s: Floats) -> tuple[Floats, Floats]:
    """How long jobs take, and how likely each is, in order (Kaplan and Meier 1958). Those who go on take
    longer than they have so far: going by those alone that have ended, jobs of a young queue seem short."""
    times = np.concatenate([ended_s, going_s])
    ends = np.arange(len(times)) < len(ended_s)
    order = np.lexsort((~ends, times))
    times, ends = times[order], ends[order]
    beyond = np.cumprod(1.0 - ends / np.arange(len(times), 0, -1))
    odds = -np.diff(beyond, prepend=1.0)
    if beyond[-1] > 0.0:  # nobody that has gone on for so long has ended
        times, odds = np.append(times, 2.0 * times[-1]), np.append(odds, beyond[-1])
    times, odds = times[odds > 0.0], odds[odds > 0.0]
    if len(times) <= _MOST:
        return times, odds
    middle = (np.arange(_MOST) + 0.5) / _MOST
    return times[np.searchsorted(np.cumsum(odds), middle)], np.full(_MOST, 1.0 / _MOST)


class Claims:
    """The indexes of jobs by the size of their gang, where enough of one size have ended, else of all."""

    def __init__(self, ended_s: Floats, gpus: Ints, going_s: Floats, going_gpus: Ints) -> None:
        """Of those who go on what they have taken so far."""
        self._all = gittins_of(ended_s, going_s)
        sizes, counts = np.unique(gpus, return_counts=True)
        self._by_size = {
            int(size): gittins_of(ended_s[gpus == size], going_s[going_gpus == size])
            for size in sizes[counts >= _ENOUGH]
        }

    def _each(self, what: Callable[[Gittins, Floats], Floats], done_s: Floats, gpus: Ints) -> Floats:
        found = what(self._all, done_s)
        for size, of_size in self._by_size.items():
            these = gpus == size
            if np.any(these):
                found[these] = what(of_size, done_s[these])
        return found

    def left_h(self, done_s: Floats, gpus: Ints) -> Floats:
        """What a job would have left whose claim is the same and who is sure to take that long."""
        return 1.0 / self._each(Gittins.claim, done_s, gpus) / 3600.0

    def falls_after_s(self, done_s: Floats, gpus: Ints) -> Floats:
        """How long each will have run when its claim has become less."""
        return self._each(Gittins.falls_after, done_s, gpus)
