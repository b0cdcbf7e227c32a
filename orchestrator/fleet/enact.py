"""A world enacted: `decide` itself asked after every event, with its nodes, moves and reasons.

What :class:`Forward` counts is placed here, so a small fleet is simulated as the daemon would run it; an
event takes a whole decision. A step is so short that a job's steps say to the second what it has left.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from orchestrator.fleet.after import after, settled
from orchestrator.fleet.decide import decide
from orchestrator.fleet.decisions import Decision, Move, Start, Stop
from orchestrator.fleet.jobs import HAS_NODES, Job, JobState
from orchestrator.fleet.settings import Policy
from orchestrator.fleet.world import World
from orchestrator.fleet.worth import HOUR_S

_STEP_S = 0.001
_SAME_S = 1e-6


@dataclass
class Life:
    """Of one job, from its submission to its end. Infinite: it has not come to that."""

    left_s: float  # of work, at its start
    started_at: float = math.inf  # the first time
    ended_at: float = math.inf
    counts_from: float = math.inf  # when the work of its latest start began
    stops: int = 0
    moves: int = 0


@dataclass
class Enacted:
    """``left_h`` is what each job really takes, by its key. Jobs that are submitted later are in the world
    already; each decision is asked of those that have been."""

    world: World
    policy: Policy
    lives: dict[str, Life]
    finished: set[str] = field(default_factory=set)

    @staticmethod
    def of(world: World, policy: Policy, left_h: Mapping[str, float]) -> Enacted:
        """Who runs already goes on from now."""
        lives = {job.key: Life(left_h[job.key] * HOUR_S) for job in world.jobs}
        for job in world.jobs:
            if job.state in HAS_NODES:
                lives[job.key].counts_from = world.now
                lives[job.key].started_at = job.started_at if job.started_at is not None else world.now
        return Enacted(world, policy, lives)

    def run(self) -> dict[str, Life]:
        """Until nothing is to come that would change anything."""
        jobs = {job.key: job for job in self.world.jobs}
        now = self.world.now
        while True:
            there = tuple(self._told(job, now) for job in jobs.values() if job.submitted_at <= now + _SAME_S)
            asked = replace(
                self.world, now=now, jobs=there, finished=self.world.finished | frozenset(self.finished)
            )
            decisions = decide(asked, self.policy)
            self._note(asked, decisions)
            jobs |= {job.key: self._saved(job) for job in settled(after(asked, decisions)).jobs}
            now = self._next_at(jobs, now)
            if math.isinf(now):
                return self.lives
            for key in [key for key in jobs if self._ends_at(key) <= now + _SAME_S]:
                self.lives[key].ended_at = self._ends_at(key)
                self.finished.add(key)
                del jobs[key]

    def _ends_at(self, key: str) -> float:
        life = self.lives[key]
        return life.counts_from + life.left_s

    def _next_at(self, jobs: Mapping[str, Job], now: float) -> float:
        """The next end or submission; or where somebody waits, when one who runs may be stopped, or when a
        deadline comes near."""
        times = [self._ends_at(key) for key in jobs]
        times += [job.submitted_at for job in jobs.values()]
        waits = [
            job for job in jobs.values() if job.state is JobState.QUEUED and job.submitted_at <= now + _SAME_S
        ]
        if waits:
            times += [
                job.started_at + max(self.policy.min_run_s, self.policy.min_run_prices * _price_s(job))
                for job in jobs.values()
                if job.started_at is not None and job.spec.preemptible
            ]
            times += [self._near_at(job) for job in waits if job.spec.deadline_at is not None]
        return min((at for at in times if at > now + _SAME_S), default=math.inf)

    def _near_at(self, job: Job) -> float:
        hours = job.spec.plans[0].hours
        left_s = self.lives[job.key].left_s if job.step or hours is None else hours * HOUR_S
        start_s = job.price.start_s + job.price.load_s
        return (
            (job.spec.deadline_at or math.inf) - 1.5 * left_s - start_s - self.policy.deadline_slack_s + 1.0
        )

    def _told(self, job: Job, now: float) -> Job:
        """With the steps that it has done until now."""
        life = self.lives[job.key]
        if math.isinf(life.counts_from):
            return job
        step = int((now - life.counts_from) / _STEP_S) if now > life.counts_from else 0
        step = max(step, 1)
        return replace(
            job, step=step, saved_step=step, saved=True, step_s=_STEP_S, steps=int(life.left_s / _STEP_S) + 1
        )

    def _saved(self, job: Job) -> Job:
        """Of who was stopped what is left is counted from its first step again."""
        life = self.lives[job.key]
        if job.state is JobState.QUEUED and job.step:
            return replace(job, step=1, saved_step=1, steps=int(life.left_s / _STEP_S) + 1)
        return job

    def _note(self, asked: World, decisions: tuple[Decision, ...]) -> None:
        jobs = {job.key: job for job in asked.jobs}
        for one in decisions:
            if isinstance(one, Stop | Move):
                life = self.lives[one.job]
                life.left_s -= max(asked.now - life.counts_from, 0.0)
                life.counts_from = math.inf
                life.stops += isinstance(one, Stop)
                life.moves += isinstance(one, Move)
        for one in decisions:
            if isinstance(one, Start | Move):
                leave_s = max((_leave_s(jobs[key]) for key in one.after if key in jobs), default=0.0)
                price = jobs[one.job].price
                life = self.lives[one.job]
                life.counts_from = asked.now + leave_s + price.start_s + price.load_s
                life.started_at = min(life.started_at, asked.now)


def _leave_s(job: Job) -> float:
    return job.price.stop_s + job.price.write_s


def _price_s(job: Job) -> float:
    return _leave_s(job) + job.price.start_s + job.price.load_s
