"""Where the money of a run went: its bill by bucket, by attempt and by incident. Pure.

All of it is summed from the charges that the bill is the sum of, so the parts make up the whole, exactly in
accelerator-time and to less than a cent in dollars.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.events import AttemptStarted, Event
from orchestrator.ledger.bill import Bill, Bucket
from orchestrator.ledger.charge import Charge, Spent
from orchestrator.ledger.incident import Incident
from orchestrator.text import hours, hours_name, percent, usd

# What did not train the model, as people call it. Time that nobody has observed may have trained it.
LOST = {
    Bucket.REDONE: "rollback",
    Bucket.RECOVERING: "restart",
    Bucket.CHECKPOINT: "checkpoint stall",
    Bucket.STARTING: "start",
    Bucket.STOPPING: "stop",
    Bucket.SKIPPED: "steps skipped by the loss scale",
}


@dataclass(frozen=True)
class Share:
    """A part of what a run has taken."""

    name: str  # a bucket, `attempt N`, `before the first attempt`, or `incident N`
    gpu_hours: float  # held, in the run's unit
    cost_usd: float  # the same in dollars


@dataclass(frozen=True)
class Money:
    """Where it went: each list but that of incidents sums to the whole. An incident is a part of what is lost
    to rollbacks and restarts."""

    gpu_hours: float  # held in all, in the run's unit
    cost_usd: float  # the same in dollars
    lost_usd: float  # of all that trained nothing
    buckets: tuple[Share, ...]  # that cost something
    attempts: tuple[Share, ...]  # in their order
    incidents: tuple[Share, ...]  # that cost something, `incident N`

    def lost_in_words(self) -> str:
        """Most first: $412.00 of $9,300.00: $180.00 rollback, $150.00 restart, $82.00 checkpoint stall."""
        lost = sorted(
            ((each.cost_usd, LOST[Bucket(each.name)]) for each in self.buckets if Bucket(each.name) in LOST),
            reverse=True,
        )
        parts = ", ".join(f"{usd(cost)} {what}" for cost, what in lost)
        return f"{usd(self.lost_usd)} of {usd(self.cost_usd)}: {parts}" if parts else "nothing"

    def rows(self, shares: Sequence[Share], unit: str) -> list[tuple[str, str, str, str]]:
        """As a person reads them: name, hours, dollars and share of the whole."""
        return [
            (
                each.name,
                f"{hours(each.gpu_hours)} {hours_name(unit)}",
                usd(each.cost_usd),
                percent(each.cost_usd / self.cost_usd if self.cost_usd else None),
            )
            for each in shares
        ]


@dataclass(frozen=True)
class Held:
    """What was held in one month for one kind of work."""

    month: str  # of UTC, as 2026-11
    bucket: str  # what it was spent on: `training`, `checkpoint`, `redone`, …
    gpu_hours: float  # in the run's unit
    cost_usd: float  # the same in dollars


def by_month(spent: Mapping[tuple[str, Bucket], Spent]) -> list[Held]:
    """What cost something, in the order of the months."""
    return [
        Held(month, bucket.value, one.gpu_hours, one.cost_usd)
        for (month, bucket), one in sorted(spent.items())
        if one.gpu_us
    ]


@dataclass
class Attempts:
    """What each attempt has taken, up to the start of the next one; 0 is before the first."""

    _now: int = 0
    _spent: dict[int, Spent] = field(default_factory=dict)

    def fold(self, event: Event, charges: Sequence[Charge]) -> None:
        """Charges of an event are for the time before it."""
        for charge in charges:
            self._spent.setdefault(self._now, Spent()).add(charge)
        if isinstance(event, AttemptStarted):
            self._now = event.attempt

    def shares(self, still_open: Sequence[Charge]) -> tuple[Share, ...]:
        """Those that cost something, in their order."""
        spent = dict(self._spent)
        spent[self._now] = spent.get(self._now, Spent()).plus(*still_open)
        return tuple(
            Share(f"attempt {number}" if number else "before the first attempt", one.gpu_hours, one.cost_usd)
            for number, one in sorted(spent.items())
            if one.gpu_us
        )


def money_of(bill: Bill, attempts: tuple[Share, ...], incidents: Sequence[Incident]) -> Money:
    """Put together what was summed of the same charges."""
    buckets = tuple(
        Share(bucket.value, bill.gpu_seconds[bucket] / 3600, bill.bucket_usd.get(bucket, 0.0))
        for bucket in Bucket
        if bill.gpu_seconds.get(bucket)
    )
    return Money(
        gpu_hours=bill.gpu_hours,
        cost_usd=bill.cost_usd,
        lost_usd=sum(each.cost_usd for each in buckets if Bucket(each.name) in LOST),
        buckets=buckets,
        attempts=attempts,
        incidents=tuple(
            Share(f"incident {each.number}", each.gpu_hours, each.cost_usd)
            for each in incidents
            if each.gpu_hours
        ),
    )
