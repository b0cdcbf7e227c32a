"""One incident, and the sentences that tell it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from orchestrator.events import AttemptStarted, Decided, Fault, RankLost, Record, RestoreSource
from orchestrator.ledger.charge import Charge, Spent
from orchestrator.ledger.fault_words import lost_in_words
from orchestrator.text import clean, number, plural

# What the script makes of it, its own snapshot or a beginning, is known with its first step only.
NOTHING_RESTORED = "restarted without a checkpoint of ours"
MAX_REASON_CHARACTERS = 300


class Trouble(StrEnum):
    """What goes wrong without ending an attempt; no value of it is one of :class:`Fault`."""

    CHECKPOINT = "checkpoint"  # one cannot be loaded
    WRITE_BLOCKED = "write_blocked"  # one cannot be written, and is tried again


Kind = Fault | Trouble


@dataclass(frozen=True)
class Incident:
    """One fault: what broke, what was done about it, and what that took. The costs of a run's incidents add
    up to what the meter counted as recovering and redone."""

    number: int  # counts from 1, in the order of the journal
    # as of `RankLost`, or `checkpoint` (one cannot be loaded) or `write_blocked` (one cannot be written)
    fault: str
    what: str  # what broke, in one line
    node: str | None  # name of the node; null where none is to blame
    gpu: str | None  # name of the GPU; null where no rank is to blame
    rank: int | None  # number of the rank; null where none is to blame
    step: int  # the last step done when it was noticed
    attempt: int  # that it struck
    at_elapsed_s: float  # when it was noticed, by the run's clock
    time_unix_s: float  # the same by the wall clock
    # from the fault to its being noticed; null where nobody knows when it struck
    detected_after_s: float | None
    # from the fault to the next attempt's first step; for a disk, to when the node could write again; null
    # before that
    recovered_after_s: float | None
    redone_steps: int  # steps done again because of it
    gpu_hours: float  # of the recovery and the redone steps, in the run's unit
    cost_usd: float  # the same in dollars
    # what the policy chose: `restart`, `replace`, `rewind` or `stop`; null where nothing had to be decided
    action: str | None
    reason: str | None  # why; null where nothing had to be decided
    done: str | None  # what came of it; null before anything has
    # `hardware`, `code`, `memory` or `unknown`, by what its node, its error and its exit status say; null
    # where no rank is to blame or its node was not heard
    verdict: str | None = None
    evidence: dict[str, float] = field(default_factory=dict)  # what its node has counted, by what it is of
    # what a check of its node found before the run went on, `well` or what is bad; null where none was made
    checked: str | None = None


@dataclass(eq=False)
class Case:
    """An incident that is not over. ``reached`` is the highest step whose loss it answers for, ``restarted``
    whether an attempt was started after it; ``remarks`` and ``outcome`` become ``done``. One that was
    ``asked_for`` is no incident: somebody stopped the run and took it up again."""

    record: Record
    fault: Kind
    what: str
    attempt: int
    step: int
    reached: int = 0
    lost: RankLost | None = None
    node: str | None = None
    recovered_after_s: float | None = None
    redone_steps: int = 0
    spent: Spent = field(default_factory=Spent)  # the charges that it answers for
    decided: Decided | None = None
    restarted: bool = False
    remarks: list[str] = field(default_factory=list)
    outcome: str | None = None
    asked_for: bool = False
    checked: str | None = None

    def incident(self, number: int, still_open: Sequence[Charge] = ()) -> Incident:
        """As it stands, answering for ``still_open`` too."""
        lost, decided = self.lost, self.decided
        spent = self.spent.plus(*still_open)
        return Incident(
            number=number,
            fault=str(self.fault),
            what=self.what,
            node=lost.node if lost else self.node,
            gpu=lost.gpu if lost else None,
            rank=lost.rank if lost else None,
            step=self.step,
            attempt=self.attempt,
            at_elapsed_s=self.record.elapsed_s,
            time_unix_s=self.record.time_unix_s,
            detected_after_s=lost.detected_s if lost else None,
            recovered_after_s=self.recovered_after_s,
            redone_steps=self.redone_steps,
            gpu_hours=spent.gpu_hours,
            cost_usd=spent.cost_usd,
            action=decided.action if decided else None,
            reason=decided.reason if decided else None,
            verdict=str(lost.verdict) if lost and lost.verdict else None,
            evidence=dict(lost.evidence) if lost else {},
            checked=self.checked,
            done="; ".join([*self.remarks, *([self.outcome] if self.outcome else [])]) or None,
        )


class Redone:
    """Whose the steps are that an attempt has done again, and what is still charged for them: one charge for
    all that are the same case's in a row, so that a run which redoes a million steps keeps no million
    charges."""

    def __init__(self) -> None:
        self._stretches: list[tuple[Case | None, Charge]] = []

    def add(self, case: Case | None, charge: Charge) -> None:
        """More of a step."""
        if case is not None:
            case.spent.add(charge)
        if self._stretches:
            whose, had = self._stretches[-1]
            if whose is case and had[2:] == charge[2:]:
                self._stretches[-1] = case, had._replace(us=had.us + charge.us)
                return
        self._stretches.append((case, charge))

    def give_back(self, charge: Charge) -> None:
        """The meter has found a checkpoint's stall in the time of these steps, the last ones first. That may
        be one of steps before an earlier checkpoint: where the driver was frozen it heard of them all at
        once."""
        left_us = -charge.us
        while left_us > 0 and self._stretches:
            case, had = self._stretches.pop()
            taken_us = min(left_us, had.us)
            left_us -= taken_us
            if case is not None:
                case.spent.add(had._replace(us=-taken_us))
            if taken_us < had.us:
                self._stretches.append((case, had._replace(us=had.us - taken_us)))


def restored_in_words(started: AttemptStarted) -> str:
    """What a new attempt goes on from."""
    if started.restore_step is None:
        return NOTHING_RESTORED
    where = started.restore_from or RestoreSource.DISK
    parked = "memory parked on the node"
    return f"restored step {started.restore_step} from {parked if where == RestoreSource.PARKED else where}"


def begun_in_words(first_step: int) -> str:
    """What an attempt that was given no checkpoint did, by the number of its first step."""
    if first_step <= 1:
        return "began again at step 1"
    return f"went on at step {first_step}, from a snapshot of the script's own"


def one_line(text: str) -> str:
    """One line of a text, at most so long."""
    line = next(iter(clean(text).strip().splitlines()), "")
    return line if len(line) <= MAX_REASON_CHARACTERS else f"{line[: MAX_REASON_CHARACTERS - 1]}\u2026"


def lost_with_reason(lost: RankLost) -> str:
    """Where, how and why, in one line."""
    what = lost_in_words(lost)
    if lost.alike > 1:
        what += f" ({plural(lost.alike - 1, 'other rank')} alike)"
    why = lost.error or (lost.reason if lost.reason not in what else "")
    return f"{what}: {one_line(why)}" if why else what


def is_alike(lost: RankLost, cause: RankLost) -> bool:
    """Whether a rank is one of those that the cause counts already."""
    return cause.alike > 1 and (lost.error or lost.reason) == (cause.error or cause.reason)


def resumed_in_words(because: str, before: Record, now: Record) -> str:
    """The time between two drivers is on the wall clock only, which may have been set back."""
    gap_s = now.time_unix_s - before.time_unix_s
    after = f" {number(gap_s, 3)} s after its last word" if gap_s > 0 else ""
    return f"the run was taken up again{after}: {one_line(because)}"
