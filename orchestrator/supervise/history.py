"""What of a run's past its policy looks at, folded from the events. Pure.

A driver that takes a run up folds the journal and knows what the one before knew: what failed, what
is undecided, which batches are left out and which checkpoints hold what was rejected.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from orchestrator.events import (
    AttemptStarted,
    BatchesSkipped,
    CheckpointLoaded,
    CheckpointSaved,
    Decided,
    EngineConfigured,
    Event,
    Fault,
    LossRejected,
    NodeDraining,
    NodeQuarantined,
    ProbesFailed,
    RankLost,
    RunEnded,
    RunResumed,
    SnapshotCommitted,
    SnapshotQuarantined,
    Status,
    StepDone,
    StopRequested,
)
from orchestrator.script_events import ScriptSaveCompleted, ScriptSaved


@dataclass(frozen=True)
class Failure:
    """Why an attempt ended. ``reached`` is the highest step that the run had done when it struck,
    ``skipped`` the batches that were left out until then, ``loading`` the step of a checkpoint in a folder of
    its own that the attempt was to begin from and that no attempt has begun from yet. ``save`` is the path of
    what the script has saved without DeepSpeed where that was to be begun from, "" where not;
    ``save_before``: there is another before it."""

    cause: RankLost | LossRejected | RunResumed | NodeDraining
    fault: Fault
    step: int
    reached: int
    skipped: tuple[int, ...] = ()
    loading: int | None = None
    save: str = ""
    save_before: bool = False


@dataclass
class History:
    """Folds a run's events, in the journal's order.

    ``open`` is the failure that nothing was decided about yet. Of several in one attempt the first is
    the cause, but a rejected loss stands above a lost rank: checkpoints after it are not to be
    restored, whatever ended the attempt. What ends after somebody asked for it is no failure.
    ``highest_step`` is the highest that was done; ``reached`` counts one whose loss was rejected too.
    ``has_engine``: the script trains with DeepSpeed's engine, as a rank has said. ``go_back_before`` is the
    step of a rejected loss before which no attempt has gone back yet. ``own_save`` is the last that the
    script has saved by itself, whole.
    """

    failures: list[Failure] = field(default_factory=list)
    open: Failure | None = None
    skipped: list[int] = field(default_factory=list)
    quarantined: list[str] = field(default_factory=list)
    reached: int = 0
    highest_step: int = 0
    go_back_before: int | None = None
    has_engine: bool = False
    own_save: ScriptSaveCompleted | None = None
    _rejected: list[LossRejected] = field(default_factory=list)
    _checkpoints: dict[int, int] = field(default_factory=dict)  # step -> attempt that wrote it
    _committed: set[int] = field(default_factory=set)
    _proven: set[int] = field(default_factory=set)  # an attempt has begun from these, and done a step
    _restored: int | None = None  # what this attempt is to begin from, until it has done a step
    _alone: bool = False
    _save: AttemptStarted | None = None  # is to begin from what the script has saved; None once it has
    _proven_saves: set[str] = field(default_factory=set)
    _step: int = 0
    _failed_attempt: int = 0
    _stopping: bool = False
    _ended: Status | None = None

    def fold(self, event: Event) -> None:
        """Take one event into account; those that the policy does not look at change nothing."""
        match event:
            case StepDone():
                self._step_done()
                self._step = event.step
                self.reached = max(self.reached, event.step)
                self.highest_step = max(self.highest_step, event.step)
            case AttemptStarted():
                self._attempt_started(event)
            case StopRequested():
                self._stopping = True
            case RankLost():
                self._rank_lost(event)
            case LossRejected():
                self._loss_rejected(event)
            case NodeDraining():
                self._draining(event)
            case Decided():
                self.open = None
            case EngineConfigured():
                self.has_engine = True
            case RunEnded():
                self._ended = event.status
            case RunResumed():
                self._resumed(event)
            case _:
                self._kept(event)

    def fold_all(self, events: Iterable[Event]) -> History:
        """Fold them one after another; returns itself."""
        for event in events:
            self.fold(event)
        return self

    @property
    def restorable(self) -> list[int]:
        """Steps of the checkpoints that were saved and not rejected, ascending; some may be pruned since."""
        return sorted(step for step, attempt in self._checkpoints.items() if self.may_restore(step, attempt))

    @property
    def committed(self) -> list[int]:
        """The steps of those that have their name on the disk."""
        return [step for step in self.restorable if step in self._committed]

    def may_restore(self, step: int, attempt: int) -> bool:
        """Whether a checkpoint of this step, written by this attempt, is free of every rejected loss."""
        return all(attempt > rejected.attempt or step < rejected.step for rejected in self._rejected)

    @property
    def idle_faults(self) -> int:
        """Faults in a row, up to the last one, without a new step between them. A drained node is none."""
        faults = [failure for failure in self.failures if failure.fault is not Fault.DRAIN]
        count = 0
        for failure in reversed(faults):
            if failure.reached != faults[-1].reached:
                break
            count += 1
        return count

    def _attempt_started(self, started: AttemptStarted) -> None:
        self._step, self._stopping, self.go_back_before = started.restore_step or 0, False, None
        self._restored, self._alone = started.restore_step, started.restore_alone
        own = started.restore_step is None and started.restore_path not in ("", *self._proven_saves)
        # Of a script whose steps nobody sees it is never known whether it has begun.
        self._save = started if own and self.highest_step else None
        if started.restore_step is not None:
            # Known already, unless it comes from an earlier run.
            self._checkpoints.setdefault(started.restore_step, 0)

    def _step_done(self) -> None:
        if self._save is not None:
            self._proven_saves.add(self._save.restore_path)
            self._save = None
        if self._restored is not None:
            self._proven.add(self._restored)
            self._restored = None

    @property
    def _loading(self) -> int | None:
        """Only of what this run has written: a folder of another run is not ours to put aside."""
        step = self._restored
        if step is None or not self._alone or step in self._proven or not self._checkpoints.get(step):
            return None
        return step

    def _rank_lost(self, lost: RankLost) -> None:
        if lost.fault is Fault.LOSS:
            reason = lost.error or lost.reason
            self._loss_rejected(LossRejected(lost.attempt, max(1, lost.step), None, reason))
        elif not self._stopping and lost.attempt != self._failed_attempt:
            self._failed_attempt = lost.attempt
            skipped = tuple(self.skipped)
            failure = Failure(lost, lost.fault, lost.step, self.reached, skipped, self._loading)
            if (begun := self._save) is not None and lost.step == 0:
                failure = replace(failure, save=begun.restore_path, save_before=begun.restore_has_earlier)
            self._add(failure)

    def _draining(self, draining: NodeDraining) -> None:
        """The attempt ends for it, once its ranks have saved; what ends with it then is no failure."""
        if not self._stopping and draining.attempt != self._failed_attempt:
            self._failed_attempt = draining.attempt
            self._add(Failure(draining, Fault.DRAIN, draining.step, self.reached, tuple(self.skipped)))

    def _loss_rejected(self, rejected: LossRejected) -> None:
        self._rejected.append(rejected)
        self.go_back_before = min(rejected.step, self.go_back_before or rejected.step)
        self.reached = max(self.reached, rejected.step)
        if self._failed_attempt == rejected.attempt:
            if self.open is None or self.open.fault is Fault.LOSS:
                return
            self.failures.remove(self.open)
        self._failed_attempt = rejected.attempt
        self._add(Failure(rejected, Fault.LOSS, rejected.step, self.reached, tuple(self.skipped)))

    def _resumed(self, resumed: RunResumed) -> None:
        """A run that the policy had given up begins its budgets anew: a person has looked at it."""
        if self._ended is Status.FAILED:
            self.failures = [self.open] if self.open else []
        elif self._ended is None:
            undecided = self.open
            self._add(Failure(resumed, Fault.DRIVER, self._step, self.reached, tuple(self.skipped)))
            self.open = undecided or self.open
        self._ended, self._stopping = None, False

    def _add(self, failure: Failure) -> None:
        self.failures.append(failure)
        self.open = failure

    def _kept(self, event: Event) -> None:
        """What is left out, what is not used any more and what is saved."""
        match event:
            case BatchesSkipped():
                self.skipped = sorted({*self.skipped, *event.batches})
            case NodeQuarantined():
                self.quarantined = [*self.quarantined, event.node]
            case CheckpointSaved() | SnapshotCommitted():
                self._checkpoints[event.step] = event.attempt
                self.has_engine = True
                self._proven.discard(event.step)  # written anew
                if isinstance(event, SnapshotCommitted):
                    self._committed.add(event.step)
            case CheckpointLoaded():
                # Known already, unless it comes from an earlier run; the attempt is the reader's.
                self._checkpoints.setdefault(event.step, 0)
            case ScriptSaved(path=path) | ScriptSaveCompleted(path=path):
                self._save = None
                # written anew
                self._proven_saves = {one for one in self._proven_saves if not _is_in(path, one)}
                if isinstance(event, ScriptSaveCompleted):
                    self.own_save = event
            case ProbesFailed():
                self._save = None
            case SnapshotQuarantined():
                self._checkpoints.pop(event.step, None)
                self._committed.discard(event.step)


def _is_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder + "/")
