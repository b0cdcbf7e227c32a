from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Iterable

import pytest
from hypothesis import example, given, settings

from orchestrator.events import AttemptEnded, CheckpointSaved, Outcome, Record, ResourcesReleased, StepDone
from orchestrator.ledger.bill import Bucket
from orchestrator.ledger.charge import Charge, Spent
from orchestrator.ledger.incident import Incident
from orchestrator.ledger.incidents import Incidents
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.meter import Meter
from orchestrator.ledger.record_lines import line_of, record_of
from orchestrator.papers import json_of
from orchestrator.records import record_to_json
from tests.support.played_runs import (
    BEGIN,
    GRANTED,
    PRICE,
    RUN,
    SCRIPTS,
    SECONDS,
    STEP,
    lost,
    played,
    records,
    started,
    steps,
)
from tests.support.timelines import TIMELINES, held_and_paid

LOST = (Bucket.RECOVERING, Bucket.REDONE)


def charges_of(timeline: list[Record], now_s: float | None = None) -> list[Charge]:
    """All that a meter charges for a run, with what is still open."""
    meter = Meter()
    charges = [charge for record in timeline for charge in meter.fold(record)]
    return [*charges, *meter.open_charges(now_s)]


def spent(charges: list[Charge], *buckets: Bucket) -> Spent:
    return Spent().plus(*(charge for charge in charges if charge.bucket in buckets))


def gpu_us(found: list[Incident]) -> int:
    return sum(round(incident.gpu_hours * 3.6e9) for incident in found)


@settings(max_examples=300, deadline=None)
@given(TIMELINES)
def test_charges_sum_to_the_time_that_was_allocated_and_to_its_cost(timeline: list[Record]) -> None:
    charges, bill = charges_of(timeline), Ledger().fold_all(timeline).bill()
    held_us, paid_usd = held_and_paid(timeline)
    assert sum(charge.us for charge in charges) == (round(timeline[-1].elapsed_s * 1e6) if timeline else 0)
    assert spent(charges, *Bucket).gpu_us == held_us
    assert spent(charges, *Bucket).cost_usd == pytest.approx(paid_usd) == bill.cost_usd
    assert spent(charges, *Bucket).gpu_hours == bill.gpu_hours
    for bucket in Bucket:
        assert sum(charge.us for charge in charges if charge.bucket is bucket) == round(
            bill.seconds[bucket] * 1e6
        )
        assert spent(charges, bucket).gpu_us == round(bill.gpu_seconds[bucket] * 1e6)


def replayed(timeline: Iterable[Record]) -> list[Record]:
    """As they come back from a journal."""
    told: list[Record] = []
    wrote: Record | None = None
    for record in timeline:
        line, wrote = line_of(record, wrote), record
        told.append(record_of(json_of(line), told[-1] if told else None))
    return told


@settings(max_examples=200, deadline=None)
@given(TIMELINES | SCRIPTS.map(played))
def test_what_is_told_of_a_run_under_way_is_what_its_journal_says_afterwards(timeline: list[Record]) -> None:
    live = Ledger()
    for record, read in zip(timeline, replayed(timeline), strict=True):
        live.fold(record)
        live.bill(record.elapsed_s + 1)  # asked meanwhile, which changes nothing
        live.incidents(record.elapsed_s + 1)
        assert record_to_json(read) == record_to_json(record)
    after = Ledger().fold_all(replayed(timeline))
    # repr, because a loss may be NaN, which is not equal to itself
    assert repr(after.bill()) == repr(live.bill())
    assert after.incident_totals() == live.incident_totals()
    assert repr(after.predicted_actual()) == repr(live.predicted_actual())


def asked_for(folded: Ledger, now_s: float | None = None) -> list[Incident]:
    """What a stop by somebody answers for, in the form of an incident."""
    incidents, still_open = folded._incidents, folded._meter.open_charges(now_s)
    answers = incidents._answering_for_open(still_open)
    cases = [case for case in incidents._cases if case.asked_for]
    return [case.incident(0, still_open if case is answers else ()) for case in cases]


@settings(max_examples=300, deadline=None)
@given(SCRIPTS, SECONDS)
@example([*3 * [STEP], ("fault", 1.0, 1.0, 0), *2 * [STEP], ("save", 0.0, 1.5, 0), STEP], 1.0)
def test_incidents_and_stops_cost_what_the_meter_charges_as_recovering_and_redone(
    script: list[tuple[str, float, float, int]], ahead_s: float
) -> None:
    folded, timeline, highest, redone = Ledger(), played(script), 0, 0
    for record in timeline:
        folded.fold(record)
        if isinstance(record.event, StepDone):
            redone += record.event.step <= highest
            highest = max(highest, record.event.step)
        found, now_s = folded.incidents(), record.elapsed_s + ahead_s
        bill, later = folded.bill(), folded.bill(now_s)
        stops, stops_now = asked_for(folded), asked_for(folded, now_s)
        assert gpu_us(found + stops) == sum(round(bill.gpu_seconds[bucket] * 1e6) for bucket in LOST)
        assert gpu_us(folded.incidents(now_s) + stops_now) == sum(
            round(later.gpu_seconds[bucket] * 1e6) for bucket in LOST
        )
        assert folded.incident_totals() == (
            len(found),
            pytest.approx(sum(incident.cost_usd for incident in found)),
        )
        assert folded.asked_for_usd() == pytest.approx(sum(one.cost_usd for one in stops))
        assert all(incident.gpu_hours >= 0 for incident in found)
        assert sum(incident.redone_steps for incident in found + stops) == redone
    assert sum(incident.cost_usd for incident in found + stops) == pytest.approx(
        spent(charges_of(timeline), *LOST).cost_usd
    )
    assert [incident.number for incident in found] == list(range(1, len(found) + 1))
    assert all(incident.recovered_after_s is None or incident.recovered_after_s >= 0 for incident in found)


@settings(max_examples=300, deadline=None)
@given(TIMELINES)
def test_records_in_any_order_never_cost_more_than_the_meter_charges(timeline: list[Record]) -> None:
    found, lost = Ledger().fold_all(timeline).incidents(), spent(charges_of(timeline), *LOST)
    assert all(incident.gpu_hours >= 0 for incident in found)
    assert gpu_us(found) <= lost.gpu_us
    assert sum(incident.cost_usd for incident in found) <= lost.cost_usd * (1 + 1e-9)


def test_a_stall_that_is_found_in_steps_before_an_earlier_checkpoint_is_nobody_s_redone_step() -> None:
    """A driver that was frozen hears of steps and of two checkpoints at once. The second's stall is found in
    steps that were counted before the first one."""
    timeline = records(
        [
            *BEGIN,
            *steps(1, 1, 3, at=1),
            (4, lost(1, 3)),
            (4, AttemptEnded(1, Outcome.FAILED, 3)),
            (5, started(2)),
            (6, StepDone(2, 1, 1.0)),
            (56, StepDone(2, 2, 1.0)),
            (56, CheckpointSaved(2, 2, "a", "/c", 0.5, True)),
            (56, StepDone(2, 3, 1.0)),
            (56, CheckpointSaved(2, 3, "b", "/c", 45.0, True)),
        ]
    )
    ledger = Ledger().fold_all(timeline)
    (incident,) = ledger.incidents()
    assert ledger.bill().seconds[Bucket.CHECKPOINT] == 45.5
    assert ledger.bill().seconds[Bucket.REDONE] == 1 + 50 - 45.5
    assert incident.gpu_hours * 3600 == pytest.approx(4 * (2 + 51 - 45.5))
    assert incident.redone_steps == 3


def test_what_a_run_has_redone_is_kept_in_as_little_as_what_it_has_not() -> None:
    """The driver keeps what it has folded beside the journal, and a run may redo very many steps."""

    def kept_bytes(redone: int) -> int:
        again = [
            (110.0, AttemptEnded(1, Outcome.FAILED, 99)),
            (111.0, started(2)),
            *steps(2, 1, redone, at=112),
        ]
        meter, incidents = Meter(), Incidents()
        for record in records([*BEGIN, *steps(1, 1, 99, at=1), *again]):
            incidents.fold(record, meter.bucket, meter.fold(record))
        return len(pickle.dumps(incidents))

    assert kept_bytes(99) < kept_bytes(2) + 99


def test_an_hour_is_paid_at_the_price_that_it_was_held_for() -> None:
    """A driver of before wrote a second beginning when it took its run up, and the price may have changed."""
    dearer = dataclasses.replace(RUN, price_usd_per_gpu_hour=2 * PRICE)
    hour = [(0.0, RUN), (0.0, GRANTED), (3600.0, ResourcesReleased())]
    bill = (
        Ledger()
        .fold_all(records([*hour, (3600.0, dearer), (3600.0, GRANTED), (7200.0, ResourcesReleased())]))
        .bill()
    )
    assert bill.gpu_hours == 8
    assert bill.cost_usd == pytest.approx(4 * PRICE + 4 * 2 * PRICE)
