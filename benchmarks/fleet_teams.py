"""What teams gain by sharing: python -m benchmarks.fleet_teams [--jobs 600] [--seeds 3] [--load 0.7]

Four teams have a quarter of 64 GPUs each, and ask for them in bursts: durations log-normal (median 20
minutes, sigma 2, two days at most), gangs of 1 to 16, three classes that lose 1, 10 and 100 dollars by an
hour of delay, and a deadline for one job of five, at one and a half to four times its duration and an hour.
Ours is told durations with a log-normal error of sigma 0.5 and decides by quota, worth and deadlines; beside
it stand the same teams on partitions of their own, the same policy without quotas, EASY, which knows every
duration, and what the jobs take without a wait, which nobody can be below.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass

import numpy as np

from orchestrator.fleet.forward import Course, Forward, outset_of
from orchestrator.fleet.jobs import Job, JobSpec, JobState, PoolPlan, StopPrice
from orchestrator.fleet.pools import Pool
from orchestrator.fleet.queueings import Easy
from orchestrator.fleet.settings import Policy
from orchestrator.fleet.simulate import simulate
from orchestrator.fleet.teams import Team
from orchestrator.fleet.trace import Arrivals, Floats, Ints, TraceJob
from orchestrator.fleet.world import World

_TEAMS, _GPUS, _HOUR_S = ("red", "green", "blue", "grey"), 64, 3600.0


@dataclass(frozen=True)
class Draw:
    jobs: tuple[Job, ...]  # by their keys
    takes_h: Floats  # really
    teams: tuple[str, ...] = _TEAMS  # each has as large a part of the GPUs
    gpus: int = _GPUS


def drawn(count: int, seed: int, load: float) -> Draw:
    """Each team submits for a quarter of the time, in two bursts of its own."""
    rng = np.random.default_rng(seed)
    takes_s = np.minimum(np.exp(rng.normal(np.log(1200.0), 2.0, count)), 2 * 86400.0) + 30.0
    gpus = rng.choice([1, 2, 4, 8, 16], count, p=[0.45, 0.05, 0.2, 0.22, 0.08])
    span_s = float((takes_s * gpus).sum()) / _GPUS / load
    team = rng.integers(0, len(_TEAMS), count)
    burst = rng.integers(0, 2, count)
    at_s = span_s * (burst / 2 + team / 8 + rng.uniform(0.0, 0.25, count))
    return draw_of(rng, at_s, takes_s, gpus, team)


def draw_of(
    rng: np.random.Generator,
    at_s: Floats,
    takes_s: Floats,
    gpus: Ints,
    team: Ints,
    teams: tuple[str, ...] = _TEAMS,
    all_gpus: int = _GPUS,
) -> Draw:
    """With what each is told to take, what its delay costs, and the deadlines of some."""
    count = len(takes_s)
    told_h = takes_s / _HOUR_S * np.exp(0.5 * rng.standard_normal(count))
    usd = rng.choice([1.0, 10.0, 100.0], count, p=[0.6, 0.3, 0.1])
    due = np.where(rng.random(count) < 0.2, at_s + takes_s * rng.uniform(1.5, 4.0, count) + _HOUR_S, np.inf)
    jobs = tuple(
        Job(
            JobSpec(
                f"{row:06d}", teams[team[row]], (PoolPlan("pool", int(gpus[row]), float(told_h[row])),),
                usd_per_hour=float(usd[row]), deadline_at=None if np.isinf(due[row]) else float(due[row]),
            ),
            JobState.QUEUED, float(at_s[row]), price=StopPrice(1.0, 0.0, 2.0, 0.0),
        )
        for row in range(count)
    )  # fmt: skip
    return Draw(jobs, takes_s / _HOUR_S, teams, all_gpus)


def _played(draw: Draw, rows: Ints, gpus: int, teams: tuple[Team, ...]) -> Course:
    jobs = tuple(draw.jobs[row] for row in rows.tolist())
    outset = outset_of(World(0.0, jobs, (Pool("pool", gpus, 1),), teams), Policy())
    return Forward(outset, Policy(), draw.takes_h[rows]).run()


def measure(draw: Draw) -> dict[str, float]:
    """Means of hours from submission to end, and what is asked of deadlines and dollars."""
    count = len(draw.jobs)
    rows = np.arange(count)
    submit_s = np.array([job.submitted_at for job in draw.jobs])
    team = np.array([draw.teams.index(job.spec.team) for job in draw.jobs])
    quota = draw.gpus // len(draw.teams)
    quotas = tuple(Team(name, quota=(("pool", quota),)) for name in draw.teams)
    shared = _played(draw, rows, draw.gpus, quotas)
    no_quota = _played(draw, rows, draw.gpus, tuple(Team(name) for name in draw.teams))
    alone_s = np.zeros(count)
    for at, name in enumerate(draw.teams):
        own = np.flatnonzero(team == at)
        alone_s[own] = _played(draw, own, quota, (Team(name),)).ended_at - submit_s[own]
    jct_s = shared.ended_at - submit_s
    due = np.array([job.spec.deadline_at or np.inf for job in draw.jobs])
    has_due = np.isfinite(due)
    return {
        "shared_h": float(jct_s.mean()) / _HOUR_S,
        "without_quotas_h": float((no_quota.ended_at - submit_s).mean()) / _HOUR_S,
        "partitions_h": float(alone_s.mean()) / _HOUR_S,
        "shared_over_partitions": float(jct_s.mean() / alone_s.mean()),
        "takes_over_partitions": float(draw.takes_h.mean()) * _HOUR_S / float(alone_s.mean()),
        "worst_team": max(
            float(jct_s[team == at].mean() / alone_s[team == at].mean()) for at in range(len(draw.teams))
        ),
        "deadlines_met": float((shared.ended_at <= due)[has_due].mean()),
        "deadlines_met_alone": float((submit_s + alone_s <= due)[has_due].mean()),
        "delay_over_easy": _delay_usd(draw, shared.ended_at) / _delay_usd(draw, _easy(draw)),
        "stops": float(shared.stops.sum()),
    }


def _delay_usd(draw: Draw, ended_at: Floats) -> float:
    """Of what each waited, at its cost of delay."""
    submit_s = np.array([job.submitted_at for job in draw.jobs])
    usd = np.array([job.spec.usd_per_hour for job in draw.jobs])
    return float((((ended_at - submit_s) / _HOUR_S - draw.takes_h) * usd).sum())


def _easy(draw: Draw) -> Floats:
    """When each ends with EASY, which knows all durations."""
    order = np.argsort([job.submitted_at for job in draw.jobs], kind="stable")
    trace = [
        TraceJob(str(row), job.submitted_at, float(draw.takes_h[row] * _HOUR_S), job.spec.plans[0].gpus)
        for row in order.tolist()
        for job in [draw.jobs[row]]
    ]
    ended_at = np.empty(len(trace))
    ended_at[order] = simulate(Arrivals.of(trace), draw.gpus, Easy()).ended_at
    return ended_at


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--load", type=float, default=0.7)
    asked = parser.parse_args()
    rows = [measure(drawn(asked.jobs, seed, asked.load)) for seed in range(asked.seeds)]
    for name in rows[0]:
        values = [row[name] for row in rows]
        print(f"{name:24} {np.mean(values):8.3f}   {min(values):.3f} to {max(values):.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
