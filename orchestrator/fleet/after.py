"""The world once what was decided is in the books, and once those who leave have left."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from orchestrator.fleet.decisions import OF_MONEY, Decision, Hold, Move, Start, Stop, StopCause
from orchestrator.fleet.jobs import Job, JobState
from orchestrator.fleet.world import World


def after(world: World, decisions: Iterable[Decision]) -> World:
    """As it is written down before anything is done: who stops is stopping, who starts has its nodes."""
    decided = {one.job: one for one in decisions if not isinstance(one, Hold)}
    return replace(world, jobs=tuple(_entered(job, decided.get(job.key), world.now) for job in world.jobs))


def _entered(job: Job, decision: Start | Stop | Move | None, now: float) -> Job:
    if decision is None:
        return job
    if isinstance(decision, Stop):
        return replace(job, state=JobState.STOPPING, waits_for=())
    ran_s = job.ran_s + (now - job.started_at if job.started_at is not None else 0.0)
    moved = isinstance(decision, Move)
    return replace(
        job,
        state=JobState.STARTING,
        epoch=decision.epoch,
        placement=decision.placement,
        leaving=job.placement if moved else None,
        waits_for=decision.after,
        ran_s=ran_s if moved else job.ran_s,
        started_at=None,
        step=job.step if moved else job.saved_step,
    )


def foreseen(world: World, decisions: Iterable[Decision]) -> World:
    """As a forecast begins: the same, and who has no money is held, since nobody foresees what a team will
    spend, nor that a month ends."""
    decisions = tuple(decisions)
    poor = {one.job for one in decisions if isinstance(one, Hold) and one.cause in OF_MONEY}
    poor |= {one.job for one in decisions if isinstance(one, Stop) and one.cause is StopCause.BUDGET}
    world = after(world, decisions)
    return replace(
        world,
        jobs=tuple(
            replace(job, state=JobState.HELD, placement=None) if job.key in poor else job
            for job in world.jobs
        ),
    )


def settled(world: World) -> World:
    """Those who were stopping have saved and left, and those who were starting run."""
    return replace(world, jobs=tuple(_settled(job, world.now) for job in world.jobs))


def _settled(job: Job, now: float) -> Job:
    if job.state is JobState.STOPPING:
        ran_s = job.ran_s + (now - job.started_at if job.started_at is not None else 0.0)
        return replace(
            job, state=JobState.QUEUED, placement=None, started_at=None, ran_s=ran_s, saved_step=job.step,
            preemptions=job.preemptions + 1,
        )  # fmt: skip
    if job.state is JobState.STARTING:
        return replace(job, state=JobState.RUNNING, started_at=now, waits_for=(), leaving=None)
    return job
