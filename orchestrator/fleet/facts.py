"""What is known of each job, in columns, and what follows: what it is worth, and what its stop costs."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.fleet.figures import Rows, places_in, steps_left_h
from orchestrator.fleet.jobs import Job, JobState, PoolPlan
from orchestrator.fleet.left import Claims, left_of_prediction
from orchestrator.fleet.settings import Policy
from orchestrator.fleet.trace import Bools, Floats, Ints
from orchestrator.fleet.world import World
from orchestrator.fleet.worth import HOUR_S, delay_usd_per_hour, min_run_s, price_usd, worth

Choices = tuple[tuple[int, int], ...]  # pools by their places, and GPUs there, the best first
_RECORD_WEIGHT = 2.0  # of "as predicted", in jobs that have ended


@dataclass(frozen=True)
class Able:
    """Those who have GPUs or could, by their keys, and where that is not all that a job has the plans that it
    may run by."""

    jobs: list[Job]
    rows: Rows
    plans: Mapping[int, Sequence[PoolPlan]]


@dataclass
class Facts:
    """What of each job stays as it is while it waits and runs, in columns. ``hours_error`` and the hours are
    of the first of its plans; a running job has only the one that it runs by."""

    jobs: list[Job]
    plans: Mapping[int, Sequence[PoolPlan]]  # of rows that have a choice, the best first
    choices: dict[int, Choices]  # of the same: pools and GPUs
    gpus: Ints  # of the first of them
    pool: Ints
    usd_per_hour: Floats
    first: Ints
    submitted_at: Floats
    deadline_at: Floats  # infinite without one
    penalty_usd: Floats  # lost if it is missed
    preemptible: Bools
    start_s: Floats  # that a start takes
    stop_s: Floats  # and a stop
    team: Ints  # by its place in the world's list, -1 for one that is not there
    fair: Floats  # what its team's use of late does to its worth
    predicted_h: Floats  # infinite where nobody has said
    hours_error: Floats
    steps_left_h: Floats  # by the steps that it has done; else not a number
    running: Bools
    ran_s: Floats  # until now
    price_s: Floats  # of a stop now
    pinned_from: Floats

    @property
    def start_h(self) -> Floats:
        return self.start_s / HOUR_S

    def pace(self, row: int, pool: int) -> float:
        """Hours in that pool, to an hour of the first plan."""
        if row not in self.choices:
            return 1.0
        at = next(at for at, option in enumerate(self.choices[row]) if option[0] == pool)
        here, first = self.plans[row][at].hours, self.plans[row][0].hours
        return here / first if here and first else 1.0


@dataclass
class Stand:
    """Where each job stands at one moment, in the same rows."""

    now: float
    gpus: Ints
    pool: Ints
    running: Bools
    ran_s: Floats
    predicted_h: Floats
    left_h: Floats
    price_s: Floats
    pinned_from: Floats  # from when on its least time counts; infinite where it must not be stopped at all


@dataclass
class Values:
    """What follows from it: what each job is worth, what its stop costs, and until when that cannot be."""

    delay: Floats
    worth: Floats
    price_usd: Floats
    known: Bools
    pinned_until: Floats


def facts_of(world: World, policy: Policy, able: Able) -> Facts:
    jobs, rows, plans = able.jobs, able.rows, able.plans
    team, fair = _teams(world, policy, rows["team"])
    running = rows["running"] > 0
    gpus, hours, hours_error, left_h = (
        rows[name].copy() for name in ("gpus", "hours", "hours_error", "left_h")
    )
    names = [each.name for each in world.pools]
    pool, choices = places_in(names, rows["pool"]), {}
    for row, found in plans.items():
        if running[row]:
            continue
        if len(found) > 1:
            choices[row] = tuple((names.index(plan.pool), plan.gpus) for plan in found)
        pool[row] = names.index(found[0].pool)
        gpus[row], hours_error[row] = found[0].gpus, found[0].hours_error
        hours[row] = math.inf if found[0].hours is None else found[0].hours
        left_h[row] = steps_left_h(jobs[row], found[0])
    factors = _record_factors(world)
    if factors:
        hours *= [factors.get((job.spec.team, job.spec.script), 1.0) for job in jobs]
    return Facts(
        jobs, plans, choices, gpus.astype(int), pool, rows["usd_per_hour"], rows["first"].astype(int),
        rows["submitted_at"], rows["deadline_at"], rows["penalty_usd"], rows["preemptible"] > 0,
        rows["start_s"], rows["stop_s"], team, fair, hours, hours_error, left_h, running,
        rows["ran_s"] + np.nan_to_num(world.now - rows["started_at"]), rows["price_s"],
        _pinned_from(jobs, rows["pinned_from"], policy),
    )  # fmt: skip


def _pinned_from(jobs: list[Job], pinned_from: Floats, policy: Policy) -> Floats:
    """Before its first save a job must not be stopped, unless the policy says that it may."""
    if not policy.stop_unsaved:
        return pinned_from
    unsaved = {
        row: job.started_at
        for row, job in enumerate(jobs)
        if job.state is JobState.RUNNING and job.spec.preemptible and job.started_at is not None
    }
    pinned_from = pinned_from.copy()
    pinned_from[list(unsaved)] = list(unsaved.values())
    return pinned_from


def valued(
    facts: Facts, stand: Stand, policy: Policy, usd_per_gpu_hour: Floats, rows: Ints | None = None
) -> Values:
    """``usd_per_gpu_hour`` by pool. Of some ``rows`` of the facts only, where the stand has only those."""
    these: Ints | slice = slice(None) if rows is None else rows
    start_h = np.where(stand.running, 0.0, facts.start_h[these])
    slack_h = (facts.deadline_at[these] - stand.now) / HOUR_S - stand.left_h - start_h
    waited_s = np.maximum(stand.now - facts.submitted_at[these] - stand.ran_s, 0.0)
    delay = facts.fair[these] * delay_usd_per_hour(
        facts.usd_per_hour[these],
        waited_s,
        stand.predicted_h,
        slack_h,
        stand.left_h,
        policy,
        facts.penalty_usd[these],
    )
    known = np.isfinite(stand.predicted_h)
    return Values(
        delay,
        worth(delay, stand.gpus, stand.left_h, facts.start_h[these], stand.running, known, policy),
        price_usd(stand.gpus, stand.price_s, usd_per_gpu_hour[stand.pool]),
        known,
        stand.pinned_from + np.where(stand.running, min_run_s(stand.price_s, policy), 0.0),
    )


def stand_of(world: World, facts: Facts) -> Stand:
    return Stand(
        world.now, facts.gpus, facts.pool, facts.running, facts.ran_s, facts.predicted_h,
        _left_h(world, facts), facts.price_s, facts.pinned_from,
    )  # fmt: skip


def claims_of(world: World, facts: Facts) -> Claims:
    ended, going = world.record.ended, facts.ran_s > 0.0
    return Claims(
        np.array([one.hours * HOUR_S for one in ended], float), np.array([one.gpus for one in ended], int),
        facts.ran_s[going], facts.gpus[going],
    )  # fmt: skip


def _left_h(world: World, facts: Facts) -> Floats:
    """What each has left: by its steps, its plan, or what others have taken."""
    left_h, ran_s = facts.steps_left_h.copy(), facts.ran_s
    by_plan = np.isnan(left_h) & np.isfinite(facts.predicted_h)
    for error in np.unique(facts.hours_error[by_plan]):
        these = by_plan & (facts.hours_error == error)
        left_h[these] = left_of_prediction(facts.predicted_h[these], ran_s[these] / HOUR_S, float(error))
    unknown = np.isnan(left_h)
    if unknown.any():
        left_h[unknown] = claims_of(world, facts).left_h(ran_s[unknown], facts.gpus[unknown])
    return left_h


def _record_factors(world: World) -> dict[tuple[str, str], float]:
    """Actual over predicted, by team and script: their geometric mean, drawn to 1 where there are few."""
    logs: dict[tuple[str, str], list[float]] = defaultdict(list)
    for one in world.record.ended:
        if one.predicted_hours and one.hours > 0:
            logs[one.team, one.script].append(math.log(one.hours / one.predicted_hours))
    return {key: math.exp(sum(found) / (len(found) + _RECORD_WEIGHT)) for key, found in logs.items()}


def _teams(world: World, policy: Policy, names: Floats) -> tuple[Ints, Floats]:
    """Each job's team by its place in the world's list, -1 for one that is not there, and what its use of
    late does to its worth."""
    team = places_in([one.name for one in world.teams], names)
    if policy.fair <= 0 or not world.teams:
        return team, np.ones(len(team))
    usage = np.array([one.usage(world.now) for one in world.teams], float)
    weight = np.array([one.weight for one in world.teams], float)
    share = usage / usage.sum() if usage.sum() > 0 else weight / weight.sum()
    factors = np.append(2.0 ** (-policy.fair * (share / (weight / weight.sum()) - 1.0)), 1.0)
    return team, factors[team]
