"""How good forecasts would have been: asked while a trace is run, and held against what then happened."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from orchestrator.fleet.forecast import Forecast, forecast
from orchestrator.fleet.jobs import Job, JobSpec, JobState, Placement, PoolPlan, StopPrice
from orchestrator.fleet.pools import Pool
from orchestrator.fleet.queueings import Ours
from orchestrator.fleet.settings import Policy
from orchestrator.fleet.simulate import Run, simulate
from orchestrator.fleet.trace import Arrivals, TraceJob
from orchestrator.fleet.world import World
from orchestrator.fleet.worth import HOUR_S

_POOL = "pool"
_STEPS = 1_000_000  # of each job: as fine as a clock
LATE = 200  # jobs before this one, from which those to come are drawn


@dataclass(frozen=True)
class Hindsight:
    """Of jobs at the moment of their submission."""

    asked: int
    within_twice: float  # the share that took from half to twice as long as the middle of the forecast
    in_range: float  # the share that ended within the range for eight of ten
    cpu_s: float  # of one forecast, of all jobs that there were


@dataclass
class Asking:
    """Ours, asked for a forecast at some submissions."""

    ours: Ours
    rows: frozenset[int]
    policy: Policy
    late: int = LATE
    told: dict[int, Forecast] = field(default_factory=dict)
    cpu_s: float = 0.0

    def decide(
        self, run: Run, arrived: Sequence[int], ended: Sequence[int]
    ) -> tuple[list[int], list[int], float]:
        for row in arrived:
            if row in self.rows:
                before = time.process_time()
                late = [self._job(run, each) for each in range(max(row - self.late, 0), row)]
                self.told[row] = forecast(self._world(run), self.policy, recent=late)[str(row)]
                self.cpu_s += time.process_time() - before
        return self.ours.decide(run, arrived, ended)

    def _world(self, run: Run) -> World:
        jobs = tuple(self._job(run, row) for row in run.active.tolist())
        return World(run.now, jobs, (Pool(_POOL, run.gpus, 1),))

    def _job(self, run: Run, row: int) -> Job:
        """As the daemon of a live fleet would know it."""
        assert self.ours.predicted_s is not None
        assert self.ours.told_s is not None
        gpus, predicted_s = int(run.arrivals.gpus[row]), float(self.ours.predicted_s[row])
        spec = JobSpec(str(row), "", (PoolPlan(_POOL, gpus, predicted_s / HOUR_S, self.ours.sigma),))
        job = Job(
            spec, JobState.QUEUED, float(run.arrivals.submit_s[row]), price=StopPrice(0, 0, run.restart_s, 0)
        )
        if not run.starts[row]:
            return job
        step_s = float(self.ours.told_s[row]) / _STEPS
        step = min(max(int(run.done_now(np.array([row]))[0] / step_s), 1), _STEPS - 1)
        runs = bool(run.running[row])
        return replace(
            job,
            state=JobState.RUNNING if runs else JobState.QUEUED,
            placement=Placement(_POOL, (0,), (gpus,)) if runs else None,
            started_at=float(run.since[row]) if runs else None,
            ran_s=float(run.ran_s[row]),
            step=step, saved_step=step, saved=True, steps=_STEPS, step_s=step_s,
        )  # fmt: skip


def hindsight(
    jobs: Sequence[TraceJob], gpus: int, policy: Policy, *, asked: int = 100, seed: int = 0,
    sigma: float = 0.5, told_sigma: float = 0.05, restart_s: float = 3.0, late: int = LATE,
) -> Hindsight:  # fmt: skip
    """Of so many jobs, evenly over the trace. ``late`` 0: asked as if nobody else came."""
    arrivals = Arrivals.of(jobs)
    count = len(jobs)
    told = np.random.default_rng(seed).standard_normal((2, count))
    predicted_s = arrivals.duration_s * np.exp(sigma * told[0])
    told_s = arrivals.duration_s * np.exp(told_sigma * told[1])
    ours = Ours(policy, np.ones(count), predicted_s, told_s, sigma, told_sigma)
    rows = np.unique(np.linspace(0, count - 1, min(asked, count)).astype(int))
    asking = Asking(ours, frozenset(rows.tolist()), policy, late)
    run = simulate(arrivals, gpus, asking, restart_s=restart_s)
    within = inside = 0
    for row, found in asking.told.items():
        assert found.end is not None
        assert found.end.at is not None
        assert found.end.high_at is not None
        ended_at, submitted_at = float(run.ended_at[row]), float(arrivals.submit_s[row])
        within += 0.5 <= (found.end.at - submitted_at) / (ended_at - submitted_at) <= 2.0
        inside += found.end.low_at <= ended_at <= found.end.high_at
    told_of = len(asking.told)
    return Hindsight(told_of, within / told_of, inside / told_of, asking.cpu_s / told_of)
