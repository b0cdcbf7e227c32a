"""What has to be done so that the books of one job come true, from what is seen of its driver. Pure.

| in the books | the driver | so |
|---|---|---|
| starting, others still on its nodes | | wait |
| starting | none, of this epoch none has ended | start it |
| starting | died before it had begun | start another, later and later; at last hold it |
| starting | of this epoch | it runs |
| starting, moved | of the epoch before | ask it to save and leave |
| starting | of an older epoch | SIGTERM |
| any | there, nobody knows which | as one of this epoch, and its nodes stay taken |
| running | of this epoch | all is well; now and then what it has used is written down |
| running | gone without a word | start it where it was, with a new epoch |
| running, its nodes are gone | | ask it to save and leave; without a driver it queues |
| running, nobody knows of its nodes | | what is there goes on; without a driver it waits |
| stopping | there | ask it once to save and leave; after a while again, at last kill it |
| stopping | there, without nodes | they are free: who waits for them starts |
| running | there, and the run has finished | so has the job: what its driver has to tell yet costs no GPU |
| stopping | gone | it queues, or is held or cancelled where somebody asked for that |
| any | ended by itself | by its exit code: finished, failed, over budget |
| any | ended for a fault of the cluster | it queues again, later and later |
| any | refused, or broken | it is held, for somebody to look |
"""

from __future__ import annotations

import signal
from dataclasses import dataclass

from orchestrator.dispatch.entries import Entry
from orchestrator.dispatch.facts import (
    Began,
    Ended,
    Fact,
    HeldBack,
    Left,
    Lost,
    NodesLeft,
    StopMeant,
    Tallied,
)
from orchestrator.dispatch.seen import DriverEnd, Presence
from orchestrator.errors import (
    EXIT_BUDGET_REACHED,
    EXIT_INTERRUPTED,
    EXIT_TERMINATED,
    SIGNALLED,
    ClusterError,
    RunDirectoryError,
    TrainingFailed,
)
from orchestrator.fleet.decisions import StopCause
from orchestrator.fleet.jobs import JobState

TALLY_S = 600.0
# A node of a start that is not there: it may be about to come back.
NODE_S = 30.0
# Ranks have recovery.stop_grace_s to save, and what they saved has to get to the disk.
ASK_AGAIN_S, KILL_S = 600.0, 900.0
# Drivers in a row that are lost without a new step, until somebody has to look.
MOST_LOSSES = 10
_LONGEST_WAIT_S = 120.0
_CLUSTER_CODES = (ClusterError.exit_code, RunDirectoryError.exit_code)
_STOPPED_CODES = (EXIT_INTERRUPTED, EXIT_TERMINATED, SIGNALLED + signal.SIGHUP, SIGNALLED + signal.SIGUSR1)


@dataclass(frozen=True)
class Say:
    """Write these down."""

    facts: tuple[Fact, ...]


@dataclass(frozen=True)
class StartDriver:
    epoch: int


@dataclass(frozen=True)
class AskToStop:
    """By the run's stop file; a second time it stops at once."""


@dataclass(frozen=True)
class Signal:
    pid: int
    number: int


Action = Say | StartDriver | AskToStop | Signal


def next_action(entry: Entry, seen: Presence, nodes_alive: bool | None, now: float) -> Action | None:
    """None where all is as it should be. ``nodes_alive``: all nodes of its placement are there; None: nobody
    knows, as while a daemon has just begun, or no Ray answers."""
    match entry.job.state:
        case JobState.STARTING:
            return _starting(entry, seen, nodes_alive, now)
        case JobState.RUNNING:
            return _running(entry, seen, nodes_alive, now)
        case JobState.STOPPING:
            return _stopping(entry, seen, now)
    return None


def _starting(entry: Entry, seen: Presence, nodes_alive: bool | None, now: float) -> Action | None:
    job = entry.job
    if job.leaving is not None:  # it is moved, and still where it was
        if seen.is_there:
            return _leave(entry, seen, now)
        if seen.run.finished:
            return _say(Ended(job.key, job.epoch, JobState.FINISHED, seen.run.tally))
        return _say(Left(job.key, job.epoch - 1, seen.run.tally))
    if seen.epoch is not None:
        if seen.epoch == job.epoch:
            return _say(Began(job.key, job.epoch))
        return Signal(seen.pid, signal.SIGTERM) if seen.pid is not None else None
    if seen.run.finished:
        return _say(Ended(job.key, job.epoch, JobState.FINISHED, seen.run.tally))
    if seen.ended is not None and seen.ended.epoch == job.epoch:
        return _end(entry, seen, seen.ended, now)
    if job.waits_for or seen.starting or seen.held or nodes_alive is None:
        return None
    if not nodes_alive:
        late = now - (entry.meant_at or 0.0) > NODE_S
        return _say(Left(job.key, job.epoch, seen.run.tally, "its nodes were gone")) if late else None
    return _lost(entry, seen, "before it had begun") if seen.died else StartDriver(job.epoch)


def _running(entry: Entry, seen: Presence, nodes_alive: bool | None, now: float) -> Action | None:
    job, tally = entry.job, seen.run.tally
    if seen.is_there and not seen.run.finished:
        if nodes_alive is False:
            return _say(StopMeant(job.key, job.epoch, StopCause.NODE, 0.0, 0.0, ()))
        gpus = sum(job.placement.gpus) if job.placement is not None else 1
        grown = tally.gpu_s - entry.tally.gpu_s >= TALLY_S * gpus
        return _say(Tallied(job.key, tally)) if grown else None
    if seen.run.finished:
        return _say(Ended(job.key, job.epoch, JobState.FINISHED, tally))
    if seen.ended is not None and seen.ended.epoch == job.epoch:
        return _end(entry, seen, seen.ended, now)
    if nodes_alive is None:
        return None
    if not nodes_alive:
        return _say(Left(job.key, job.epoch, tally, "its nodes were gone"))
    return _lost(entry, seen, "without a new step")


def _lost(entry: Entry, seen: Presence, how: str) -> Action:
    job, tally = entry.job, seen.run.tally
    if entry.losses >= MOST_LOSSES and tally.step <= entry.tally.step:
        why = f"its driver was lost {entry.losses + 1} times in a row {how}"
        why += f"; see {seen.log}" if seen.log else ""
        return _say(HeldBack(job.key, why), Left(job.key, job.epoch, tally, why))
    return _say(Lost(job.key, job.epoch + 1, tally))


def _stopping(entry: Entry, seen: Presence, now: float) -> Action | None:
    job = entry.job
    if seen.run.finished:
        return _say(Ended(job.key, job.epoch, JobState.FINISHED, seen.run.tally))
    if seen.is_there:
        if seen.run.nodes_left and job.placement is not None:
            return _say(NodesLeft(job.key, job.epoch))
        return _leave(entry, seen, now)
    if seen.ended is not None and seen.ended.epoch == job.epoch:
        return _end(entry, seen, seen.ended, now)
    return _say(Left(job.key, job.epoch, seen.run.tally))


def _leave(entry: Entry, seen: Presence, now: float) -> Action | None:
    # The clock may have been set meanwhile, or the machine asleep: nobody is killed for that.
    waited_s = min(now - (entry.meant_at or now), seen.asked_s)
    if not seen.stop_asked:
        return AskToStop()
    if waited_s > KILL_S and seen.pid is not None:
        return Signal(seen.pid, signal.SIGKILL)
    if waited_s > ASK_AGAIN_S and seen.pid is not None:
        return Signal(seen.pid, signal.SIGTERM)
    return None


def _end(entry: Entry, seen: Presence, ended: DriverEnd, now: float) -> Action:
    """What its exit code says of a run that has not finished (see `errors`)."""
    job, run = entry.job, seen.run
    if ended.code == 0:
        return _say(Ended(job.key, job.epoch, JobState.FINISHED, run.tally))
    if ended.code == EXIT_BUDGET_REACHED:
        return _say(Ended(job.key, job.epoch, JobState.OVER_BUDGET, run.tally, run.reason))
    if ended.code in _STOPPED_CODES:
        left = Left(job.key, job.epoch, run.tally)
        by_signal = run.stopped_by in signal.Signals.__members__ or not run.stopped_by
        if job.state is JobState.STOPPING or by_signal:
            return _say(left)
        return _say(HeldBack(job.key, f"it was stopped by {run.stopped_by}"), left)
    if ended.code in _CLUSTER_CODES:
        why = run.reason or f"its driver ended with exit code {ended.code}, of the cluster or its folder"
        if entry.losses >= MOST_LOSSES:
            return _say(HeldBack(job.key, why), Left(job.key, job.epoch, run.tally, why))
        wait_s = min(2.0**entry.losses, _LONGEST_WAIT_S)
        return _say(Left(job.key, job.epoch, run.tally, why, now + wait_s))
    if ended.code == TrainingFailed.exit_code:
        return _say(Ended(job.key, job.epoch, JobState.FAILED, run.tally, run.reason or "see its log"))
    why = run.reason or f"its driver ended with exit code {ended.code}; {seen.log} says why"
    return _say(HeldBack(job.key, why), Left(job.key, job.epoch, run.tally, why))


def _say(*facts: Fact) -> Say:
    return Say(facts)
