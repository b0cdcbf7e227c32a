"""One loop: poll, say what happened, decide, act. The clock and the workers are injected.

The loop is a generator of events. Whoever drives it journals each event before the next one is
asked for, so the journal is ahead of every action that follows from it::

    for event in supervise(started, workers, recovery, clock, stop):
        journal.append(event)
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Protocol

from orchestrator.cluster.contract import WorkerGroup
from orchestrator.config import RecoveryConfig
from orchestrator.errors import Cancelled, OrchestratorError
from orchestrator.events import (
    AttemptEnded,
    CheckpointLoaded,
    CheckpointSaved,
    Decided,
    Event,
    Outcome,
    RankLost,
    ResourcesReleased,
    RunEnded,
    RunStarted,
    Status,
    StopRequested,
)
from orchestrator.supervise.policy import Action, decide


class Clock(Protocol):
    """Monotonic seconds, and a way to wait that a test can fake."""

    def now_s(self) -> float: ...

    def sleep(self, seconds: float) -> None: ...


@dataclass
class StopRequest:
    """Set from a signal handler: 1 asks to stop within the grace period, 2 stops at once."""

    level: int = 0
    by: str = ""

    def ask(self, by: str) -> None:
        """Raise the level; the first asker is remembered."""
        self.level += 1
        self.by = self.by or by


def supervise(
    started: RunStarted,
    workers: WorkerGroup,
    recovery: RecoveryConfig,
    clock: Clock,
    stop: StopRequest,
    poll_s: float = 0.1,
) -> Iterator[Event]:
    """Run attempts until one finishes, the policy gives up or somebody asks to stop.

    Any other error ends the run too, on record; it is raised again after the last event.
    """
    failed: Exception | None = None
    yield started
    try:
        yield workers.acquire(lambda: stop.level > 0)
        status, reason = yield from _attempts(workers, recovery, clock, stop, poll_s)
    except Cancelled:
        status, reason = Status.INTERRUPTED, f"{stop.by} while waiting for resources"
    except OrchestratorError as error:
        failed, status, reason = error, Status.FAILED, str(error)
    except Exception as error:  # noqa: BLE001 - raised again below, once the journal has the end
        failed, status, reason = error, Status.FAILED, f"{type(error).__name__}: {error}"
    workers.close()
    yield ResourcesReleased()
    yield RunEnded(status, reason)
    if failed is not None:
        raise failed


def _attempts(
    workers: WorkerGroup, recovery: RecoveryConfig, clock: Clock, stop: StopRequest, poll_s: float
) -> Generator[Event, None, tuple[Status, str]]:
    """Attempt after attempt; returns the run's status and reason."""
    failures: list[RankLost] = []
    checkpoint_step: int | None = None
    attempt = 0
    while True:
        attempt += 1
        yield workers.start(attempt)
        watched = _Watch(checkpoint_step)
        yield from _watch(watched, workers, recovery, clock, stop, poll_s)
        checkpoint_step = watched.checkpoint_step
        if stop.level:
            return Status.INTERRUPTED, _stopped(stop, checkpoint_step)
        if watched.outcome is Outcome.FINISHED:
            return Status.FINISHED, "the job ended by itself"
        assert watched.lost is not None, "an attempt fails with a RankLost, says the contract"
        failures.append(watched.lost)
        decision = decide(failures, recovery, checkpoint_step)
        yield Decided(decision.action, decision.reason)
        if decision.action is Action.STOP:
            return Status.FAILED, decision.reason


@dataclass
class _Watch:
    """What one attempt left behind."""

    checkpoint_step: int | None
    outcome: Outcome | None = None
    lost: RankLost | None = None


def _watch(
    watched: _Watch,
    workers: WorkerGroup,
    recovery: RecoveryConfig,
    clock: Clock,
    stop: StopRequest,
    poll_s: float,
) -> Iterator[Event]:
    """Pass on an attempt's events until its end, and pass stop requests down."""
    asked = 0
    while watched.outcome is None:
        if stop.level > asked:
            if asked == 0:
                yield StopRequested(stop.by, recovery.stop_grace_s if stop.level == 1 else 0.0)
            if stop.level == 1:
                workers.stop(recovery.stop_grace_s)
            else:
                workers.kill()
            asked = stop.level
        events = workers.poll()
        for event in events:
            match event:
                case CheckpointSaved() | CheckpointLoaded():
                    watched.checkpoint_step = event.step
                case RankLost():
                    watched.lost = watched.lost or event
                case AttemptEnded():
                    watched.outcome = event.outcome
            yield event
        if not events:
            clock.sleep(poll_s)


def _stopped(stop: StopRequest, checkpoint_step: int | None) -> str:
    kept = "no checkpoint" if checkpoint_step is None else f"the last complete checkpoint is of step {checkpoint_step}"
    return f"stopped by {stop.by}; {kept}"
