"""The ledger of a run: every record folded once, and all that is derived from it. Pure.

The meter makes charges of a record's time; the bill is their sum, the incidents have theirs from the same
ones, and the plan's word is compared with the same bill. So no two of them can differ, and nobody who shows
one folds anew.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from orchestrator.events import Record, RunStarted
from orchestrator.ledger.bill import Bill, Bucket
from orchestrator.ledger.charge import Spent
from orchestrator.ledger.energy import Drawn, EnergyMeter
from orchestrator.ledger.incident import Incident
from orchestrator.ledger.incidents import Incidents
from orchestrator.ledger.meter import Meter
from orchestrator.ledger.money import Attempts, Held, Money, by_month, money_of
from orchestrator.ledger.predicted_actual import Comparison, PredictedVsActual


@dataclass
class Ledger:
    """Folds records, in the journal's order. What it tells is as at the last record or, for a run under way,
    at a later ``now_elapsed_s``."""

    _meter: Meter = field(default_factory=Meter)
    _incidents: Incidents = field(default_factory=Incidents)
    _attempts: Attempts = field(default_factory=Attempts)
    _accuracy: PredictedVsActual = field(default_factory=PredictedVsActual)
    _energy: EnergyMeter = field(default_factory=EnergyMeter)
    _bill: Bill | None = None

    def fold(self, record: Record) -> None:
        """Take one record into account."""
        before = self._meter.bucket
        charges = self._meter.fold(record)
        self._incidents.fold(record, before, charges)
        self._attempts.fold(record.event, charges)
        self._accuracy.fold(record)
        self._energy.fold(record)
        self._bill = None

    def fold_all(self, records: Iterable[Record]) -> Ledger:
        """Fold them one after another; returns itself."""
        for record in records:
            self.fold(record)
        return self

    def bill(self, now_elapsed_s: float | None = None) -> Bill:
        """What the run has taken and given."""
        if now_elapsed_s is not None:
            return self._meter.bill(now_elapsed_s)
        if self._bill is None:
            self._bill = self._meter.bill()
        return self._bill

    def incidents(self, now_elapsed_s: float | None = None) -> list[Incident]:
        """What broke, what was done about it and what that cost, in the order of the journal."""
        return self._incidents.so_far(self._meter.open_charges(now_elapsed_s))

    def incident_totals(self) -> tuple[int, float]:
        """How many there are, and what they cost in dollars; cheaper than to list them."""
        return self._incidents.totals(self._meter.open_charges())

    def asked_for_usd(self) -> float:
        """What was done again for somebody who stopped the run and took it up, in dollars: no incident's."""
        return self._incidents.asked_for_usd(self._meter.open_charges())

    def money(self, now_elapsed_s: float | None = None) -> Money:
        """Where it went: the bill by bucket, by attempt and by incident."""
        attempts = self._attempts.shares(self._meter.open_charges(now_elapsed_s))
        return money_of(self.bill(now_elapsed_s), attempts, self.incidents(now_elapsed_s))

    def by_month(self, now_elapsed_s: float | None = None) -> list[Held]:
        """The bill by the month in which it was held, and by what it was spent on."""
        return by_month(self._meter.by_month(self._meter.open_charges(now_elapsed_s)))

    def drawn(self) -> Drawn:
        """Its energy, measured and modelled."""
        return self._energy.drawn(self.facts, self.bill().gpu_hours)

    def usd_per_gpu_hour(self, now_elapsed_s: float) -> float:
        """The price that holds then."""
        return self._meter.usd_per_gpu_hour(now_elapsed_s)

    def predicted_actual(self) -> Comparison:
        """What the plan had said of the run beside what it took."""
        return self._accuracy.comparison(self.bill())

    @property
    def newest_step_time_s(self) -> float | None:
        """The median of the steady steps of the newest attempt, None without any."""
        return self._accuracy.newest_step_time_s

    def spent(self, now_elapsed_s: float) -> Spent:
        """What the bill's hours and dollars are the sums of; asked ten times a second."""
        return self._meter.spent(now_elapsed_s)

    @property
    def facts(self) -> RunStarted | None:
        """What the run said of itself when it began; None before it has."""
        return self._meter.facts

    @property
    def bucket(self) -> Bucket:
        """Where its time goes."""
        return self._meter.bucket

    @property
    def gpus_held(self) -> int:
        """Without a bill, which costs more than all else that is done for a step."""
        return self._meter.gpus_held
