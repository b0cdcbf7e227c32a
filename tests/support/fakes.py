"""Scripted stand-ins: a clock that only moves when told, and a worker group that plays a script."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from orchestrator.errors import Cancelled, NodeLost, OrchestratorError
from orchestrator.events import (
    AttemptEnded,
    AttemptStarted,
    CheckpointLoaded,
    CheckpointSaved,
    Event,
    Fault,
    NodeDraining,
    Outcome,
    RankLost,
    ResourcesGranted,
    StepDone,
)
from tests.support.batches import batch_of


class FakeClock:
    """Time passes only in :meth:`sleep`."""

    def __init__(self) -> None:
        self.time_s = 0.0

    def now_s(self) -> float:
        return self.time_s

    def sleep(self, seconds: float) -> None:
        self.time_s += seconds


def lost(
    attempt: int, step: int, error: str = "RuntimeError: boom", status: int = 1, rank: int = 0
) -> RankLost:
    """A rank's death as the group would tell it."""
    return RankLost(attempt, rank, "node-a", "GPU 0", status, step, f"exited with status {status}", error)


@dataclass
class Struck:
    """``fail(rank=1).at(step=20).by("…")``, for one attempt of a fake group."""

    rank: int
    step: int = 0
    error: str = ""
    status: int = 1
    kind: Fault = Fault.EXIT
    node_unusable: bool = False

    def at(self, step: int) -> Struck:
        self.step = step
        return self

    def by(self, error: str, status: int = 1) -> Struck:
        self.error, self.status = error, status
        return self

    def as_fault(self, kind: Fault, node_unusable: bool = False) -> Struck:
        self.kind, self.node_unusable = kind, node_unusable
        return self


def fail(rank: int) -> Struck:
    return Struck(rank)


@dataclass
class FakeGroup:
    """Trains ``steps`` steps, a step per poll, saving every ``save_every``; attempt n meets ``faults[n-1]``.

    Keeps the contract of :class:`~orchestrator.supervise.worker_group.WorkerGroup`.
    """

    steps: int = 10
    save_every: int = 5
    faults: list[Struck | None] = field(default_factory=list)
    refuse: OrchestratorError | None = None
    waits: int = 0
    ignores_stop: bool = False
    calls: list[str] = field(default_factory=list)
    saved: int = 0
    lost_at_start: int = 0
    comes: list[list[str]] = field(default_factory=list)  # nodes that take the place of lost ones, each time
    bad_batches: frozenset[int] = frozenset()
    checkpoints: list[int] = field(default_factory=list)
    skipped: list[int] = field(default_factory=list)
    put_aside: list[str] = field(default_factory=list)
    losses_come_late_by: int = 0
    drains: list[tuple[int, int, float | None]] = field(default_factory=list)  # attempt, step, seconds left
    _late: list[Event] = field(default_factory=list)
    _queue: list[Event] = field(default_factory=list)
    _attempt: int = 0
    _step: int = 0
    _alive: bool = False
    _stopping: bool = False
    _leaving: bool = False

    def acquire(self, cancelled: Callable[[], bool]) -> ResourcesGranted:
        self.calls.append("acquire")
        for _ in range(self.waits):
            if cancelled():
                raise Cancelled("stopped while waiting for resources")
        if self.refuse:
            raise self.refuse
        return ResourcesGranted(["node-a"], 2)

    def replace_lost(self, attempt: int) -> list[str]:
        return self.comes.pop(0) if self.comes else []

    def start(
        self,
        attempt: int,
        restore_before: int | None = None,
        skip_batches: Sequence[int] = (),
        put_aside: str = "",
    ) -> AttemptStarted:
        assert not self._alive, "an attempt was started while an older one is alive"
        self.calls.append(f"start {attempt}")
        if self.lost_at_start:
            self.lost_at_start -= 1
            raise NodeLost.of("node-a", "its agent died")
        if restore_before is not None:
            self.checkpoints = [step for step in self.checkpoints if step < restore_before]
        self.saved = max(self.checkpoints, default=0)
        self.skipped = list(skip_batches)
        self.put_aside += [put_aside] if put_aside else []
        self._late = []
        self._attempt, self._step, self._alive, self._stopping = attempt, self.saved, True, False
        self._leaving = False
        if self.saved:
            path = "/checkpoints"
            self._queue.append(CheckpointLoaded(attempt, self.saved, f"step-{self.saved}", path, 0.1))
        return AttemptStarted(
            attempt, "127.0.0.1", 29500, 2, self.saved or None, "memory" if self.saved else None
        )

    def poll(self) -> list[Event]:
        events, self._queue = self._queue, []
        return events + (self._one_step() if self._alive else [])

    def _one_step(self) -> list[Event]:
        if self._stopping:
            return [] if self.ignores_stop else self._saved_and_stopped()
        due = [
            left_s for attempt, step, left_s in self.drains if (attempt, step) == (self._attempt, self._step)
        ]
        if due and not self._leaving:
            self._leaving = True
            return [NodeDraining(self._attempt, "node-a", self._step, left_s) for left_s in due]
        fault = self.faults[self._attempt - 1] if self._attempt <= len(self.faults) else None
        if fault and self._step >= fault.step:
            cause = lost(self._attempt, self._step, fault.error, fault.status, fault.rank)
            cause = dataclasses.replace(cause, fault=fault.kind, node_unusable=fault.node_unusable)
            return [cause, *self._end(Outcome.FAILED)]
        if self._step == self.steps:
            late, self._late = self._late, []
            return late or self._end(Outcome.FINISHED)
        self._step += 1
        batch = batch_of(self._step, self.skipped)
        loss = math.nan if batch in self.bad_batches else 1 / self._step
        self._late.append(StepDone(self._attempt, self._step, 0.1, loss))
        events: list[Event] = []
        if len(self._late) > self.losses_come_late_by:
            events.append(self._late.pop(0))
        if self.save_every and self._step % self.save_every == 0:
            self.checkpoints.append(self._step)
            events.append(
                CheckpointSaved(self._attempt, self._step, f"step-{self._step}", "/checkpoints", 0.1)
            )
        return events

    def _saved_and_stopped(self) -> list[Event]:
        late, self._late = self._late, []
        if not self._leaving or self._step in self.checkpoints:
            return [*late, *self._end(Outcome.STOPPED)]
        self.checkpoints.append(self._step)
        saved = CheckpointSaved(self._attempt, self._step, f"step-{self._step}", "/checkpoints", 0.1)
        return [*late, saved, *self._end(Outcome.STOPPED)]

    def _end(self, outcome: Outcome) -> list[Event]:
        self._alive = False
        return [AttemptEnded(self._attempt, outcome, self._step)]

    def stop(self, grace_s: float) -> None:
        self.calls.append(f"stop {grace_s:g}")
        self._stopping = True

    def abort(self) -> None:
        self.calls.append("abort")
        if self._alive:
            self._queue += self._end(Outcome.FAILED)

    def quarantine(self, node: str) -> None:
        self.calls.append(f"quarantine {node}")

    def kill(self) -> None:
        self.calls.append("kill")
        self._stopping, self.ignores_stop = True, False

    def close(self) -> None:
        self.calls.append("close")
        self._alive = False


def names(events: Iterable[Event]) -> list[str]:
    """The events' types, for comparing whole stories."""
    return [type(event).__name__ for event in events]
