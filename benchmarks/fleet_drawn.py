"""Traces drawn from stated distributions: python -m benchmarks.fleet_drawn --out FOLDER [--seed 0]

Six kinds of clusters, so that a policy is not fitted to one: each is as unlike the others in its gangs, its
durations and its arrivals as clusters are said to be. What is written has the columns that `simulate` reads.
The work of each kind is `load` times what 64 GPUs can do from the first submission to the last.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from orchestrator.fleet.trace import Floats, Ints, TraceJob

GPUS = 64
_DAY_S = 86400.0
_LEAST_S = 30.0


@dataclass(frozen=True)
class Kind:
    """``draw`` gives the durations and the gangs of so many jobs, ``times`` their places in the span, of 0 to
    1 and in order."""

    load: float
    draw: Callable[[np.random.Generator, int], tuple[Floats, Ints]]
    times: Callable[[np.random.Generator, int], Floats]


def drawn(kind: str, seed: int = 0, count: int = 1000) -> list[TraceJob]:
    """A trace of a kind of :data:`KINDS`."""
    rng = np.random.default_rng([seed, sorted(KINDS).index(kind)])
    one = KINDS[kind]
    duration_s, gpus = one.draw(rng, count)
    span_s = float((duration_s * gpus).sum()) / GPUS / one.load
    submit_s = one.times(rng, count) * span_s
    rows = zip(submit_s.tolist(), duration_s.tolist(), gpus.tolist(), strict=True)
    return [
        TraceJob(f"{kind}-{number:04d}", at - float(submit_s[0]), takes_s, wide)
        for number, (at, takes_s, wide) in enumerate(rows)
    ]


def _lognormal(rng: np.random.Generator, count: int, median_s: float, sigma: float, most_s: float) -> Floats:
    found: Floats = np.clip(np.exp(rng.normal(np.log(median_s), sigma, count)), _LEAST_S, most_s)
    return found


def _gangs(rng: np.random.Generator, count: int, odds: dict[int, float]) -> Ints:
    return rng.choice(list(odds), count, p=list(odds.values()))


def _long(rng: np.random.Generator, count: int) -> tuple[Floats, Ints]:
    """Training of hours to weeks on up to half of the cluster."""
    gpus = _gangs(rng, count, {1: 0.36, 4: 0.29, 8: 0.3, 16: 0.03, 32: 0.02})
    return _lognormal(rng, count, 4 * 3600.0, 2.4, 50 * _DAY_S), gpus


def _wide(rng: np.random.Generator, count: int) -> tuple[Floats, Ints]:
    """Mostly whole nodes."""
    gpus = _gangs(rng, count, {1: 0.13, 2: 0.02, 4: 0.04, 8: 0.67, 16: 0.03, 32: 0.11})
    return _lognormal(rng, count, 3600.0, 2.3, 11 * _DAY_S), gpus


def _narrow(rng: np.random.Generator, count: int) -> tuple[Floats, Ints]:
    """Mostly single GPUs."""
    gpus = _gangs(rng, count, {1: 0.75, 2: 0.1, 4: 0.08, 8: 0.05, 16: 0.02})
    return _lognormal(rng, count, 1200.0, 2.0, 7 * _DAY_S), gpus


def _sweeps(rng: np.random.Generator, count: int) -> tuple[Floats, Ints]:
    """Groups of 1 to 60 jobs with the same gang and nearly the same duration."""
    duration_s, gpus = np.empty(count), np.empty(count, int)
    at = 0
    while at < count:
        many = min(int(rng.integers(1, 61)), count - at)
        takes_s = _lognormal(rng, 1, 1800.0, 1.8, 5 * _DAY_S)[0]
        duration_s[at : at + many] = np.maximum(takes_s * np.exp(0.2 * rng.standard_normal(many)), _LEAST_S)
        gpus[at : at + many] = _gangs(rng, 1, {1: 0.35, 2: 0.15, 4: 0.2, 8: 0.2, 16: 0.1})[0]
        at += many
    return duration_s, gpus


def _two_kinds(rng: np.random.Generator, count: int) -> tuple[Floats, Ints]:
    """Evaluations of minutes on a few GPUs, and training of hours on many."""
    trains = rng.random(count) < 0.15
    gpus = np.where(
        trains, _gangs(rng, count, {8: 0.6, 16: 0.25, 32: 0.15}), _gangs(rng, count, {1: 0.6, 2: 0.2, 4: 0.2})
    )
    takes_s = np.where(
        trains,
        _lognormal(rng, count, 10 * 3600.0, 1.0, 20 * _DAY_S),
        _lognormal(rng, count, 300.0, 1.0, _DAY_S),
    )
    return takes_s, gpus


def _heavy(rng: np.random.Generator, count: int) -> tuple[Floats, Ints]:
    """Durations of a Pareto distribution, and gangs of up to all GPUs."""
    takes_s = np.minimum(120.0 * (1.0 + rng.pareto(0.8, count)), 14 * _DAY_S)
    return takes_s, _gangs(rng, count, {1: 0.4, 4: 0.2, 8: 0.25, 16: 0.07, 32: 0.05, 64: 0.03})


def _steady(rng: np.random.Generator, count: int) -> Floats:
    return np.sort(rng.random(count))


def _by_day(rng: np.random.Generator, count: int) -> Floats:
    """Five of six come in the same third of each of seven days."""
    day = rng.integers(0, 7, count)
    hour = np.where(rng.random(count) < 5 / 6, rng.random(count) / 3, rng.random(count))
    return np.sort((day + hour) / 7)


def _in_groups(rng: np.random.Generator, count: int) -> Floats:
    """Thirty at one moment, on average."""
    moments = np.sort(rng.random(max(count // 30, 1)))
    return np.sort(rng.choice(moments, count))


def _peak(rng: np.random.Generator, count: int) -> Floats:
    """Half of them in a tenth of the time."""
    return np.sort(np.where(rng.random(count) < 0.5, 0.4 + 0.1 * rng.random(count), rng.random(count)))


KINDS = {
    "long": Kind(2.0, _long, _steady),
    "wide": Kind(0.8, _wide, _by_day),
    "narrow": Kind(0.5, _narrow, _by_day),
    "sweeps": Kind(0.9, _sweeps, _in_groups),
    "two_kinds": Kind(1.2, _two_kinds, _peak),
    "heavy": Kind(0.8, _heavy, _steady),
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1000)
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    for kind in KINDS:
        with (asked.out / f"{kind}_{asked.seed}.csv").open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["job", "submit_time_s", "duration_s", "gpus"])
            for job in drawn(kind, asked.seed, asked.jobs):
                writer.writerow([job.key, f"{job.submit_s:.3f}", f"{job.duration_s:.3f}", job.gpus])
    return 0


if __name__ == "__main__":
    sys.exit(main())
