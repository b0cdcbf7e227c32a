"""Records → incidents: what broke, where, what was done, how long it took and what it cost. Pure.

Whose GPU-second is it?
-----------------------
Every GPU-second that the meter counts as recovering or redone belongs to one incident, so their costs
sum to what the meter says and nothing is counted twice:

- The time since the last step belongs to the fault that ended it; from there on, to the first fault of the
  newest attempt that failed, until the next fault. A fault during a recovery takes the rest of it over.
- A step that is done again belongs to the newest incident whose attempt had reached it, or whose checkpoint,
  had it been good, would have held it: what an earlier fault had lost anyway stays with the earlier one.

- Somebody who stops a run and takes it up again is no incident: what is done again for it is on the bill, and
  in no incident's cost.

A disk that is full and a second fault of the same attempt are told, and cost nothing of their own.
"""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.events import (
    AttemptEnded,
    AttemptStarted,
    BatchesSkipped,
    CheckpointLoaded,
    CheckpointWriteBlocked,
    CheckpointWriteResumed,
    Decided,
    Event,
    Fault,
    LossRejected,
    NodeChecked,
    NodeDraining,
    NodeQuarantined,
    Outcome,
    RankLost,
    Record,
    RunEnded,
    RunResumed,
    RunStarted,
    SnapshotQuarantined,
    StepDone,
)
from orchestrator.ledger.bill import Bucket
from orchestrator.ledger.charge import Charge
from orchestrator.ledger.fault_words import draining_in_words
from orchestrator.ledger.incident import (
    NOTHING_RESTORED,
    Case,
    Incident,
    Kind,
    Redone,
    Trouble,
    begun_in_words,
    is_alike,
    lost_with_reason,
    one_line,
    restored_in_words,
    resumed_in_words,
)
from orchestrator.ledger.meter import STEPPING
from orchestrator.text import number, ranges
from orchestrator.vocabulary import STOPPED_ON_PURPOSE

__all__ = ["Incident", "Incidents"]

_Cause = RankLost | LossRejected | NodeDraining | AttemptEnded


class Incidents:
    """Folds records, in the journal's order, with the charges that the meter has made of each."""

    def __init__(self) -> None:
        self._cases: list[Case] = []
        self._open: list[Case] = []  # not recovered from yet; a full disk is not among them
        self._write_blocked: dict[str, Case] = {}  # full disks, by node
        self._causes: dict[int, Case] = {}  # of each attempt that failed
        self._recovering: Case | None = None
        self._redone = Redone()
        self._attempt = self._step = self._reached = 0
        self._stopping = self._stopped = False
        self._last: Record | None = None

    def fold(self, record: Record, before: Bucket, charges: Sequence[Charge]) -> None:
        """Take one record into account: where time went ``before`` it, and what was charged for it."""
        event, was = record.event, self._recovering
        self._stopping = before is Bucket.STOPPING
        self._note(record)
        answers = self._recovering if was is None or before in STEPPING else was
        for charge in charges:
            if charge.bucket is Bucket.RECOVERING:
                if answers is not None:
                    answers.spent.add(charge)
            elif charge.bucket is Bucket.REDONE:
                if isinstance(event, StepDone):
                    self._redone.add(self._answering_for(event.step), charge)
                else:
                    self._redone.give_back(charge)
        redone = any(charge.bucket is Bucket.REDONE for charge in charges)
        if redone and isinstance(event, StepDone) and (case := self._answering_for(event.step)) is not None:
            case.redone_steps += 1
        self._last = record

    def so_far(self, still_open: Sequence[Charge]) -> list[Incident]:
        """All incidents; whoever answers for the time that is ``still_open`` has that too."""
        answers = self._answering_for_open(still_open)
        return [
            case.incident(number, still_open if case is answers else ())
            for number, case in enumerate(self._told, 1)
        ]

    def totals(self, still_open: Sequence[Charge]) -> tuple[int, float]:
        """How many there are, and what they cost in dollars; cheaper than to list them."""
        answers = self._answering_for_open(still_open)
        spent = (case.spent.plus(*still_open) if case is answers else case.spent for case in self._told)
        return len(self._told), sum(each.cost_usd for each in spent)

    def asked_for_usd(self, still_open: Sequence[Charge]) -> float:
        """What was done again for somebody who stopped the run and took it up, in dollars: no incident's."""
        answers = self._answering_for_open(still_open)
        cases = [case for case in self._cases if case.asked_for]
        return sum(
            (case.spent.plus(*still_open) if case is answers else case.spent).cost_usd for case in cases
        )

    @property
    def _told(self) -> list[Case]:
        return [case for case in self._cases if not case.asked_for]

    def _answering_for_open(self, still_open: Sequence[Charge]) -> Case | None:
        match still_open[0].bucket:
            case Bucket.RECOVERING:
                return self._recovering
            case Bucket.REDONE:
                return self._answering_for(self._step + 1)
        return None

    def _note(self, record: Record) -> None:
        match record.event:
            case StepDone() as step:
                self._step_done(record, step)
            case AttemptStarted() as started:
                self._attempt, self._reached, self._redone = started.attempt, 0, Redone()
                for case in self._open:
                    case.restarted, case.outcome = True, restored_in_words(started)
            case CheckpointLoaded() as loaded:
                for case in self._open:
                    if case.outcome == NOTHING_RESTORED:
                        case.outcome = f"loaded step {loaded.step} by itself"
            case Decided() as decided:
                for case in self._open:
                    case.decided = (
                        case.decided if case.restarted or case.fault is Trouble.CHECKPOINT else decided
                    )
            case RunEnded() as ended:
                self._stopped = ended.status in STOPPED_ON_PURPOSE
                for case in self._open:
                    case.outcome = "; ".join(filter(None, [case.outcome, f"the run ended, {ended.status}"]))
            case BatchesSkipped(batches=batches):
                self._remark(f"batch{'es' if len(batches) > 1 else ''} {ranges(batches)} left out")
            case NodeChecked() as checked:
                if (cause := self._causes.get(checked.attempt)) is not None:
                    verdict = "well" if checked.well else one_line(checked.found)
                    cause.checked = (cause.checked or verdict) if checked.well else verdict
                    came = "came in place of a lost one and " if checked.came else ""
                    cause.remarks.append(f"node {checked.node} {came}was checked: {verdict}")
            case NodeQuarantined(node=node):
                self._remark(f"node {node} quarantined")
            case CheckpointWriteResumed(node=node, held_s=held_s):
                self._freed(node, held_s)
            case event:
                self._struck(record, event)

    def _struck(self, record: Record, event: Event) -> None:
        """Open a case if the event is a fault."""
        match event:
            case RankLost():
                self._rank_lost(record, event)
            case LossRejected():
                self._loss_rejected(record, event)
            case NodeDraining():
                self._fault(record, Fault.DRAIN, draining_in_words(event), event).node = event.node
            case AttemptEnded(outcome=Outcome.FAILED) if not (
                event.attempt in self._causes or self._stopping
            ):
                self._fault(record, Fault.EXIT, f"attempt {event.attempt} failed at step {event.step}", event)
            case RunResumed() | RunStarted() if self._last is not None:
                self._resumed(record, self._last)
            case CheckpointWriteBlocked():
                self._disk_full(record, event)
            case SnapshotQuarantined():
                self._quarantined(record, event)

    def _rank_lost(self, record: Record, lost: RankLost) -> None:
        cause = self._causes.get(lost.attempt)
        if cause is not None and cause.fault == lost.fault == Fault.LOSS:
            cause.lost = cause.lost or lost
            return
        if cause is not None and cause.lost is not None and is_alike(lost, cause.lost):
            return
        self._fault(record, Fault(lost.fault), lost_with_reason(lost), lost).lost = lost

    def _loss_rejected(self, record: Record, rejected: LossRejected) -> None:
        cause = self._causes.get(rejected.attempt)
        if cause is None or cause.fault != Fault.LOSS:
            what = f"the loss of step {rejected.step} was rejected: {one_line(rejected.reason)}"
            self._fault(record, Fault.LOSS, what, rejected)

    def _fault(self, record: Record, fault: Kind, what: str, event: _Cause) -> Case:
        """The first of an attempt is its cause, and answers for what follows."""
        case = self._case(record, fault, what, event.step, event.attempt)
        if event.attempt not in self._causes:
            self._causes[event.attempt] = case
            if not self._stopping:
                self._take_over(case)
        return case

    def _take_over(self, case: Case) -> None:
        self._recovering, case.reached, self._reached = case, self._reached, 0

    def _resumed(self, record: Record, last: Record) -> None:
        because = record.event.because if isinstance(record.event, RunResumed) else "its journal was there"
        case = self._case(record, Fault.DRIVER, resumed_in_words(because, last, record), self._step)
        if self._stopped:
            case.asked_for, self._stopped = True, False
            self._open.remove(case)
        self._take_over(case)

    def _quarantined(self, record: Record, event: SnapshotQuarantined) -> None:
        """After a rejected loss, checkpoints that may hold it are no incident: nothing else is wrong with
        them."""
        rejected = next((case for case in reversed(self._open) if case.fault == Fault.LOSS), None)
        if rejected is not None:
            again = sum(case.fault == Fault.LOSS and case.step == rejected.step for case in self._cases) - 1
            if event.step >= rejected.step - again:  # each time the run goes back a step further
                rejected.remarks.append(f"checkpoint {event.tag} quarantined")
                return
        what = f"checkpoint {event.tag} was quarantined: {one_line(event.reason)}"
        self._case(record, Trouble.CHECKPOINT, what, event.step).reached = event.step

    def _case(self, record: Record, fault: Kind, what: str, step: int, attempt: int | None = None) -> Case:
        case = Case(record, fault, what, self._attempt if attempt is None else attempt, step)
        self._cases.append(case)
        if fault is not Trouble.WRITE_BLOCKED:
            self._open.append(case)
        return case

    def _remark(self, text: str) -> None:
        if self._recovering is not None and self._recovering in self._open:
            self._recovering.remarks.append(text)

    def _step_done(self, record: Record, step: StepDone) -> None:
        self._step = step.step
        failed = self._causes.get(step.attempt)
        if failed is not None:
            failed.reached = max(failed.reached, step.step)
        else:
            self._reached = max(self._reached, step.step)
        for case in self._open:
            if case.outcome == NOTHING_RESTORED:
                case.outcome = begun_in_words(step.step)
            if case.restarted or case.fault is Trouble.CHECKPOINT:
                noticed_after_s = (case.lost.detected_s or 0.0) if case.lost else 0.0
                case.recovered_after_s = record.elapsed_s - case.record.elapsed_s + noticed_after_s
        if self._open:
            self._open = [case for case in self._open if case.recovered_after_s is None]

    def _disk_full(self, record: Record, event: CheckpointWriteBlocked) -> None:
        if event.node in self._write_blocked:
            self._write_blocked[event.node].remarks.append(one_line(event.reason))
            return
        what = f"node {event.node} could not write its checkpoint: {one_line(event.reason)}"
        case = self._write_blocked[event.node] = self._case(record, Trouble.WRITE_BLOCKED, what, self._step)
        case.node = event.node

    def _freed(self, node: str, held_s: float) -> None:
        case = self._write_blocked.pop(node, None)
        if case is not None:
            case.recovered_after_s, case.outcome = held_s, f"wrote it after {number(held_s, 3)} s"

    def _answering_for(self, step: int) -> Case | None:
        return next((case for case in reversed(self._cases) if case.reached >= step), self._recovering)
