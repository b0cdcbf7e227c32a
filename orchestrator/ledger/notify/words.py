"""Records → words: what people are told of a run while they do not look at it. Pure.

:data:`TELLERS` has what is said of each kind of event. An event that is to be told of needs an entry there,
and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.events import (
    BudgetKilled,
    BudgetReached,
    BudgetSettled,
    BudgetWarned,
    CheckpointWriteBlocked,
    CheckpointWriteResumed,
    Decided,
    Event,
    NodeDraining,
    Record,
    RunEnded,
    RunResumed,
    RunStarted,
    SharedBudgetWarned,
    StallNamed,
    Status,
    StepDone,
    StragglerNamed,
)
from orchestrator.ledger.bill import Bucket
from orchestrator.ledger.fault_words import draining_in_words
from orchestrator.ledger.incident import one_line
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.run_directory import LOST
from orchestrator.redact import redact_fields
from orchestrator.supervise import budget_words
from orchestrator.text import duration, hours_name, plural, usd
from orchestrator.vocabulary import Moment

FORMAT = 1


@dataclass(frozen=True)
class Sender:
    """What a word says of the run beside what its journal does."""

    run_dir: str
    host: str
    user: str
    go_on: str | None = None  # the command that takes the run up again


@dataclass(frozen=True)
class Word:
    """What a webhook of format ``generic`` and a command are given, as JSON."""

    format: int  # of this object; it grows with a change that breaks readers
    moment: Moment  # why it is sent
    run: str  # name of the run
    job: str  # name of the job
    cluster: str  # name of the cluster
    state: str  # what the run's time goes to, or how it ended; `lost` where its driver is gone
    title: str  # what happened, in one line
    reason: str  # why, or what is done about it, in one line; may be empty
    step: int  # the highest step reached
    steps: int | None  # of the whole run; null where that is not known
    attempt: int  # the newest one, from 1; 0 before the first
    restarts: int  # so far
    cost_usd: float  # spent so far
    gpu_hours: float  # held so far, in the unit
    unit: str  # what an hour is counted of: `GPU` or `CPU core`
    goodput: float | None  # share of them that trained; null while nothing was held
    elapsed_s: float  # since the run began
    time_unix_s: float  # when it happened
    user: str  # who started the run
    host: str  # where its driver runs
    run_dir: str  # there
    go_on: str | None  # what to type to go on with the run; null where there is nothing to type
    # words of each kind since the last one that were not told: there were too many, or nobody answered
    left_out: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Said:
    """What is told of one event. ``goes_on`` says that the run can be taken up by hand from here."""

    moment: Moment
    title: str
    reason: str = ""
    goes_on: bool = False


Teller = Callable[[Any, Ledger], "Said | None"]


def _started(event: RunStarted, _ledger: Ledger) -> Said:
    price = f"{usd(event.price_usd_per_gpu_hour)} per {hours_name(event.unit)[:-1]}"
    return Said(Moment.START, f"started: {plural(event.gpus, event.unit)} of {event.cluster} at {price}")


def _resumed(event: RunResumed, _ledger: Ledger) -> Said:
    return Said(Moment.START, "taken up again", event.because)


def _decided(event: Decided, ledger: Ledger) -> Said:
    incidents = ledger.incidents()
    what = incidents[-1].what if incidents else "an attempt failed"
    return Said(Moment.FAULT, what, f"{event.action}: {event.reason}")


def _blocked(event: CheckpointWriteBlocked, _ledger: Ledger) -> Said:
    return Said(Moment.FAULT, f"node {event.node} cannot write its checkpoint", event.reason)


def _unblocked(event: CheckpointWriteResumed, _ledger: Ledger) -> Said:
    return Said(
        Moment.RECOVERED,
        f"node {event.node} writes checkpoints again",
        f"it could not for {duration(event.held_s)}",
    )


def _draining(event: NodeDraining, _ledger: Ledger) -> Said:
    return Said(Moment.FAULT, draining_in_words(event), "the ranks save, and the run goes on without it")


def _straggler(event: StragglerNamed, _ledger: Ledger) -> Said:
    who = f"rank {event.rank} on node {event.node}, {event.gpu}"
    return Said(Moment.STRAGGLER, f"{who}: its own work takes {event.ratio:.2f} times that of the others")


def _stalled(event: StallNamed, _ledger: Ledger) -> Said:
    who = f"rank {event.rank} on node {event.node}, {event.gpu}"
    return Said(
        Moment.STRAGGLER,
        f"no progress for {duration(event.silent_s)}: {who} {event.doing}",
        f"{event.awaited or event.where} (it is left to run)".strip(),
    )


def _ended(event: RunEnded, _ledger: Ledger) -> Said:
    return Said(Moment.END, event.status.value, event.reason, goes_on=event.status is not Status.FINISHED)


def _unit(ledger: Ledger) -> str:
    return ledger.facts.unit if ledger.facts else ""


def _budget_warned(event: BudgetWarned, ledger: Ledger) -> Said:
    return Said(Moment.BUDGET_WARNING, budget_words.warned(event, _unit(ledger)))


def _shared_budget_warned(event: SharedBudgetWarned, ledger: Ledger) -> Said:
    return Said(Moment.BUDGET_WARNING, budget_words.shared_warned(event, _unit(ledger)))


def _budget_reached(event: BudgetReached, ledger: Ledger) -> Said:
    return Said(Moment.BUDGET_REACHED, budget_words.reached(event, _unit(ledger)))


def _budget_killed(event: BudgetKilled, ledger: Ledger) -> Said:
    return Said(Moment.BUDGET_REACHED, budget_words.killed(event, _unit(ledger)))


# What is said of which event. None of them costs a step anything: steps are looked at in `Words` alone.
TELLERS: dict[type[Event], Teller] = {
    RunStarted: _started,
    RunResumed: _resumed,
    Decided: _decided,
    CheckpointWriteBlocked: _blocked,
    CheckpointWriteResumed: _unblocked,
    NodeDraining: _draining,
    StragglerNamed: _straggler,
    StallNamed: _stalled,
    BudgetWarned: _budget_warned,
    SharedBudgetWarned: _shared_budget_warned,
    BudgetReached: _budget_reached,
    BudgetKilled: _budget_killed,
    RunEnded: _ended,
}


class Words:
    """Folds records, in the journal's order; ``moments`` are those that somebody wants to be told of."""

    def __init__(
        self, moments: frozenset[Moment], sender: Sender, tellers: Mapping[type[Event], Teller] = TELLERS
    ) -> None:
        self._moments, self._sender, self._tellers = moments, sender, tellers
        self._ledger = Ledger()
        self._attempt = 0
        self._failed_at_s: float | None = None
        self._settled: BudgetSettled | None = None  # of a run that has stopped for it

    def fold(self, record: Record) -> Word | None:
        """Take a record into account; what is to be told of it, often nothing."""
        self._ledger.fold(record)
        event = record.event
        if isinstance(event, BudgetSettled | RunResumed):
            self._settled = event if isinstance(event, BudgetSettled) else None
        if isinstance(event, StepDone):
            self._attempt = max(self._attempt, event.attempt)
            said = None if self._failed_at_s is None else self._recovered(record, event)
        else:
            self._attempt = max(self._attempt, getattr(event, "attempt", 0))
            if isinstance(event, Decided) and self._failed_at_s is None:
                self._failed_at_s = record.elapsed_s
            teller = self._tellers.get(type(event))
            said = teller(event, self._ledger) if teller else None
        if said is None or said.moment not in self._moments:
            return None
        if not isinstance(event, RunEnded):
            return self._word(said, record, self._ledger.bucket.value)
        settled = self._settled if event.status is Status.BUDGET_REACHED else None
        return self._word(said, record, said.title, settled)

    def lost(self, last: Record) -> Word | None:
        """The run's driver is gone, and ``last`` was its last word."""
        said = Said(
            Moment.END,
            "its driver is gone without a last word",
            "nobody supervises the run any more; its ranks end with their driver",
            goes_on=True,
        )
        return self._word(said, last, LOST) if Moment.END in self._moments else None

    def _recovered(self, record: Record, step: StepDone) -> Said:
        assert self._failed_at_s is not None
        took = duration(record.elapsed_s - self._failed_at_s)
        self._failed_at_s = None
        return Said(Moment.RECOVERED, f"trains again at step {step.step}, {took} after the fault was decided")

    def _word(
        self, said: Said, record: Record, state: str | Bucket, settled: BudgetSettled | None = None
    ) -> Word:
        facts, bill, sender = self._ledger.facts, self._ledger.bill(), self._sender
        word = Word(
            format=FORMAT,
            moment=said.moment,
            run=facts.run if facts else "",
            job=facts.job if facts else "",
            cluster=facts.cluster if facts else "",
            state=str(state),
            title=one_line(said.title),
            reason=one_line(said.reason),
            step=bill.step,
            steps=facts.steps if facts else None,
            attempt=self._attempt,
            restarts=bill.restarts,
            cost_usd=bill.cost_usd,
            gpu_hours=bill.gpu_hours,
            unit=facts.unit if facts else "GPU",
            goodput=bill.goodput,
            elapsed_s=record.elapsed_s,
            time_unix_s=record.time_unix_s,
            user=sender.user,
            host=sender.host,
            run_dir=sender.run_dir,
            go_on=budget_words.going_on(sender.go_on or "", settled) or None if said.goes_on else None,
        )
        return redact_fields(word)
