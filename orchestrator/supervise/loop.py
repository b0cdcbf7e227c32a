"""One loop: poll, say what happened, decide, act. The clock and the workers are injected.

The loop is a generator of events. Whoever drives it journals each event before the next one is
asked for, so the journal is ahead of every action that follows from it::

    for event in supervise(started, workers, recovery, clock, stop):
        journal.append(event)
"""

from __future__ import annotations

import signal
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeGuard

from orchestrator.config.schema import RecoveryConfig
from orchestrator.errors import Cancelled, NodeLost, OrchestratorError, TrainingFailed
from orchestrator.events import (
    Action,
    AttemptEnded,
    AttemptStarted,
    BatchesSkipped,
    CheckpointSaved,
    Decided,
    Event,
    Fault,
    LossRejected,
    NodeChecked,
    NodeDraining,
    NodeQuarantined,
    Outcome,
    RankLost,
    ResourcesReleased,
    RunEnded,
    RunResumed,
    RunStarted,
    Status,
    StepDone,
    StopRequested,
)
from orchestrator.supervise.budget_watch import BudgetWatch
from orchestrator.supervise.budget_words import settled
from orchestrator.supervise.history import History
from orchestrator.supervise.loss_watch import LossWatch
from orchestrator.supervise.policy import Decision, decide
from orchestrator.supervise.spending import Budget, Do, SaveTimes
from orchestrator.supervise.worker_group import WorkerGroup
from orchestrator.vocabulary import Verdict

# A node whose time is over may stay all the same: so long ranks may save at least.
_LEAST_GRACE_S = 5.0


class Clock(Protocol):
    """Monotonic seconds, and a way to wait that a test can fake."""

    def now_s(self) -> float: ...

    def sleep(self, seconds: float) -> None: ...


@dataclass
class StopRequest:
    """Set from a signal handler: 1 asks to stop within the grace period, 2 stops at once."""

    level: int = 0
    by: str = ""
    signals: tuple[int, ...] = ()  # that ask, as long as the run has them

    def ask(self, by: str) -> None:
        """Raise the level; the first asker is remembered."""
        self.level += 1
        self.by = self.by or by


@dataclass
class ResumeState:
    """What an earlier driver of the run has left: nothing, for a run that begins. ``losses`` are those that
    were accepted: what was rejected is an event of its own, but for what is no number. By the
    number of each attempt, ``went_on_from`` has the step from which it went on, 0 for one that began anew,
    and ``heard`` the last that it was heard of."""

    history: History = field(default_factory=History)
    losses: LossWatch = field(default_factory=lambda: LossWatch(None))
    attempts: int = 0
    went_on_from: dict[int, int] = field(default_factory=dict)
    heard: dict[int, int] = field(default_factory=dict)
    save_times: SaveTimes = field(default_factory=SaveTimes)

    def fold(self, event: Event) -> None:
        """Take an event of the journal into account."""
        self.history.fold(event)
        self.save_times.fold(event)
        match event:
            case AttemptStarted():
                self.attempts = max(self.attempts, event.attempt)
                self.went_on_from[event.attempt] = event.restore_step or 0
            case StepDone():
                self.heard[event.attempt] = max(event.step, self.heard.get(event.attempt, 0))
                self.losses.observe(event)
            case CheckpointSaved():
                self.heard[event.attempt] = max(event.step, self.heard.get(event.attempt, 0))
                self.losses.told(event)
            case LossRejected():
                self.losses.rejected(event)
            case _:
                self.losses.told(event)


class Look(Protocol):
    """Measures a node of the run."""

    def __call__(self, attempt: int, node: str, came: bool = False) -> NodeChecked | None: ...


@dataclass(frozen=True)
class SupervisorOptions:
    """How the run is watched. ``can_skip``: the script leaves out the batches that it is told to;
    ``can_go_back``: we choose the checkpoint that it loads; ``leave_out``: nodes that are not to be taken,
    each with why; ``look`` measures a node on which a rank was lost or, where it is told so, one that came in
    place of a lost one. It is None where nobody asked for that, and says None of one that does not answer."""

    poll_s: float = 0.1
    can_skip: bool = False
    can_go_back: bool = True
    leave_out: Mapping[str, str] = field(default_factory=dict)
    look: Look | None = None


def supervise(
    started: RunStarted | RunResumed,
    workers: WorkerGroup,
    recovery: RecoveryConfig,
    clock: Clock,
    stop: StopRequest,
    options: SupervisorOptions | None = None,
    resume_state: ResumeState | None = None,
    budget: Budget | None = None,
) -> Iterator[Event]:
    """Run attempts until one finishes, the policy gives up, or somebody or the budget asks to stop.

    Any other error ends the run too, on record; it is raised again after the last event.
    """
    failed: Exception | None = None
    options, state = options or SupervisorOptions(), resume_state or ResumeState()
    watch = BudgetWatch(budget, state.save_times, options.poll_s, state.history.highest_step)
    run = _Run(workers, recovery, clock, stop, options, state, watch)
    run.remember()
    yield from run.record(started)
    try:
        yield from run.leave_out(options.leave_out)
        yield from run.record(workers.acquire(lambda: stop.level > 0 or watch.is_due()))
        status, reason = yield from run.attempts()
    except Cancelled:
        yield from run.mind_budget()
        status, reason = run.stopped_as(), f"{stop.by} while waiting for resources"
    except OrchestratorError as error:
        failed, status, reason = error, Status.FAILED, str(error)
    except Exception as error:  # noqa: BLE001 - raised again below, once the journal has the end
        failed, status, reason = error, Status.FAILED, f"{type(error).__name__}: {error}"
    workers.close()
    yield ResourcesReleased()
    if (said := watch.settled()) is not None:  # the bill has the last of it by now
        yield said
        if status is Status.BUDGET_REACHED:
            reason = f"{settled(said)}; {run.kept()}"
    yield RunEnded(status, reason)
    if failed is not None:
        raise failed


@dataclass
class _Run:
    workers: WorkerGroup
    recovery: RecoveryConfig
    clock: Clock
    stop: StopRequest
    options: SupervisorOptions
    resume_state: ResumeState
    budget: BudgetWatch
    _outcome: Outcome | None = None

    def remember(self) -> None:
        """What an earlier driver had learned."""
        self.losses.loss_spike = self.recovery.loss_spike
        for node in self.resume_state.history.quarantined:
            self.workers.quarantine(node)

    @property
    def losses(self) -> LossWatch:
        return self.resume_state.losses

    def leave_out(self, nodes: Mapping[str, str]) -> Iterator[Event]:
        """Before any is taken."""
        for node, why in nodes.items():
            self.workers.quarantine(node)
            yield from self.record(NodeQuarantined(node, why))

    def record(self, event: Event) -> Iterator[Event]:
        """Every event is history before anything is decided from it."""
        self.resume_state.history.fold(event)
        self.budget.told(event)
        yield event

    def attempts(self) -> Generator[Event, None, tuple[Status, str]]:
        """Attempt after attempt; returns the run's status and reason."""
        history = self.resume_state.history
        decision: Decision | None = None
        while True:
            if history.open is not None:
                yield from self._look_at(history.open.cause)
                decision = decide(
                    history,
                    self.recovery,
                    can_skip=self.options.can_skip,
                    can_go_back=self.options.can_go_back,
                )
                yield from self._act(decision)
                if decision.action is Action.STOP:
                    return Status.FAILED, decision.reason
            yield from self.mind_budget()
            if not self.stop.level:
                yield from self._one_attempt(decision)
            if self.stop.level:
                return self.stopped_as(), f"stopped by {self.stop.by}; {self.kept()}"
            if self._outcome is Outcome.FINISHED:
                return Status.FINISHED, "the job ended by itself"
            assert history.open is not None, "an attempt fails with a cause, says the contract"

    def _look_at(self, cause: object) -> Iterator[Event]:
        """Measure the node that may be to blame for a failure; a bad one is not taken again."""
        if self.options.look is None or self.stop.level or not _may_be_the_nodes(cause):
            return
        yield from self._heed(self.options.look(cause.attempt, cause.node))

    def _look_at_new(self, attempt: int) -> Iterator[Event]:
        """Measure nodes that came in place of lost ones before ranks run there; a bad one gives way to
        another."""
        look = self.options.look
        while look is not None and attempt > 1:
            new = self.workers.replace_lost(attempt)
            checked = [look(attempt - 1, node, came=True) for node in new if not self.stop.level]
            for found in checked:
                yield from self._heed(found)
            if all(found is None or found.well for found in checked):
                return

    def _heed(self, found: NodeChecked | None) -> Iterator[Event]:
        """Put on record what was measured of a node."""
        if found is None:
            return
        yield from self.record(found)
        if not found.well:
            self.workers.quarantine(found.node)
            yield from self.record(NodeQuarantined(found.node, found.found))

    def _act(self, decision: Decision) -> Iterator[Event]:
        """Put a decision on record, and what follows from it at once."""
        if decision.skip:
            yield from self.record(BatchesSkipped(list(decision.skip), decision.reason))
        if decision.quarantine is not None:
            self.workers.quarantine(decision.quarantine)
            yield from self.record(NodeQuarantined(decision.quarantine, decision.reason))
        yield from self.record(Decided(decision.action, decision.reason))

    def _one_attempt(self, decision: Decision | None) -> Iterator[Event]:
        """From the start of an attempt to the end of its last rank."""
        self.resume_state.attempts += 1
        number, before = self.resume_state.attempts, decision.restore_before if decision else None
        put_aside = decision.put_aside if decision else ""
        self._outcome = None
        if before is not None:
            self.losses.rewind(before)
        try:
            yield from self._look_at_new(number)
            started = self.workers.start(number, before, self.resume_state.history.skipped, put_aside)
        except NodeLost as error:
            yield from self.record(_lost_before(number, self.resume_state.history.reached, error))
            self._outcome = Outcome.FAILED
            return
        yield from self.record(started)
        yield from self._watch(number, begins_anew=started.restore_step is None and self.options.can_go_back)

    def _refuse_to_begin_anew(self) -> None:
        """Raises :class:`TrainingFailed` where a checkpoint was committed and no node's disk has it whole any
        more."""
        committed = self.resume_state.history.committed
        if committed:
            raise TrainingFailed(
                f"the checkpoint of step {committed[-1]} was committed, and the nodes of this attempt do not"
                " have it whole: what a node had on a disk of its own is gone with it, or somebody removed"
                " it. The run does not begin anew by itself: bring the node or the folder back and resume"
                " the run, or start one of another name; with job.checkpoint_dir on a filesystem that all"
                " nodes share no node takes checkpoints along"
            )

    def _watch(self, attempt: int, begins_anew: bool = False) -> Iterator[Event]:
        """Pass on an attempt's events until its end, and pass stop requests down."""
        asked, rejected, leaving = 0, False, False
        while self._outcome is None:
            yield from self.mind_budget(leaving)
            if self.stop.level > asked:
                yield from self._pass_down_stop(asked, leaving)
                asked = self.stop.level
            events = self.workers.poll()
            for event in events:
                yield from self.record(event)
                if isinstance(event, AttemptEnded):
                    self._outcome = event.outcome
                if isinstance(event, NodeDraining) and not (leaving or rejected or asked):
                    leaving = True
                    self.workers.stop(self._time_to_save_s(event))
                self.losses.told(event)
                if isinstance(event, StepDone) and not rejected and not asked:
                    bad = self.losses.observe(event)
                    if bad is not None:
                        rejected = True
                        yield from self.record(bad)
                        self.workers.abort()
            if begins_anew:  # what was put aside while the attempt was prepared is known by now
                self._refuse_to_begin_anew()
                begins_anew = False
            if not events:
                self.clock.sleep(self.options.poll_s)

    def _time_to_save_s(self, draining: NodeDraining) -> float:
        """What a stop gives, or the node does; ranks that do not hear cost the nodes that stay no more than
        that."""
        grace_s = self.recovery.stop_grace_s
        return grace_s if draining.left_s is None else min(grace_s, max(_LEAST_GRACE_S, draining.left_s))

    def _pass_down_stop(self, asked: int, leaving: bool) -> Iterator[Event]:
        """Ranks that are ``leaving`` have been asked already: a second time would mean at once to some."""
        grace_s = self.recovery.stop_grace_s
        if self.budget.stopping_for is not None:
            grace_s = self.budget.grace_s(grace_s, saves=self._saves)
        if asked == 0:
            yield from self.record(StopRequested(self.stop.by, grace_s if self.stop.level == 1 else 0.0))
        if self.stop.level == 1:
            if not leaving:
                self.workers.stop(grace_s)
        else:
            self.workers.kill()

    def mind_budget(self, leaving: bool = False) -> Iterator[Event]:
        """Ask the run to stop, as somebody would, once its budget says so; or to stop at once."""
        do, events = self.budget.look(self.clock.now_s(), asked=leaving or self.stop.level > 0)
        for event in events:
            yield from self.record(event)
        if do is not Do.GO_ON:
            self.stop.ask(str(self.budget.stopping_for or "budget.hard"))
        if do is Do.KILL:
            self.stop.level = max(self.stop.level, 2)

    def stopped_as(self) -> Status:
        """Whose wish the stop was."""
        return Status.INTERRUPTED if self.budget.stopping_for is None else Status.BUDGET_REACHED

    @property
    def _saves(self) -> bool:
        """Whether the script has saved anything yet."""
        return bool(self.resume_state.history.restorable or self.resume_state.history.own_save)

    def kept(self) -> str:
        """From where it can be gone on."""
        history = self.resume_state.history
        steps, own = history.restorable, history.own_save
        kept = "no checkpoint" if own is None else f"the script has saved {own.path} after step {own.step}"
        return f"the last complete checkpoint is of step {max(steps)}" if steps else kept


def _may_be_the_nodes(cause: object) -> TypeGuard[RankLost]:
    """Whether a node may have lost a rank, as far as is known: the script has not, and memory has not run
    out."""
    return (
        isinstance(cause, RankLost)
        and cause.fault in (Fault.EXIT, Fault.HANG, Fault.NODE)
        and cause.verdict in (None, Verdict.UNKNOWN, Verdict.HARDWARE)
    )


def _lost_before(attempt: int, step: int, error: NodeLost) -> RankLost:
    """A node that was lost while an attempt was prepared."""
    node, how = error.node, error.how
    return RankLost(
        attempt=attempt,
        rank=0,
        node=node,
        gpu="the whole node",
        exit_status=-signal.SIGKILL,
        step=step,
        reason="the node was lost before the attempt began",
        error=how or str(error),
        fault=Fault.NODE,
    )
