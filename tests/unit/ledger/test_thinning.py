from __future__ import annotations

import math
import random
from itertools import pairwise

import pytest

from orchestrator.events import AttemptStarted, Event, NodeSampled, Record, RunEnded, Status, StepDone
from orchestrator.ledger.mlflow import thinning
from orchestrator.ledger.mlflow.points import Point
from orchestrator.ledger.mlflow.projection import Projection
from orchestrator.ledger.mlflow.thinning import EVERY_STEP_UNTIL, Done, Thinning
from tests.unit.ledger.test_projection import BEGIN

LONG = 200_000


def done(
    number: int, loss: float | None = 2.0, grad_norm: float | None = 1.0, step_time_s: float = 0.5
) -> Done:
    return Done(StepDone(1, number, step_time_s, loss, 1e-3, grad_norm), number, 1000 * number, 4)


def test_a_run_that_is_not_long_keeps_every_step() -> None:
    thin = Thinning()
    steps = [done(number) for number in range(1, EVERY_STEP_UNTIL + 1)]
    assert [kept for step in steps for kept in thin.add(step)] == steps
    assert thin.rest() == []


def test_a_long_run_keeps_few_steps_evenly_and_all_that_stand_out() -> None:
    chance = random.Random(7)
    odd = {
        50_001: done(50_001, loss=90.0),
        60_002: done(60_002, loss=0.01),
        70_003: done(70_003, grad_norm=400.0),
        80_004: done(80_004, step_time_s=30.0),
        90_005: done(90_005, loss=math.nan),
        95_006: done(95_006, grad_norm=math.inf),
    }
    thin = Thinning()
    kept: list[Done] = []
    for number in range(1, LONG + 1):
        plain = done(number, 2 + chance.random(), 1 + chance.random(), 0.5 + chance.random())
        kept += thin.add(odd.get(number, plain))
    kept += thin.rest()
    numbers = [one.step.step for one in kept]
    assert numbers == sorted(set(numbers))
    assert len(numbers) < EVERY_STEP_UNTIL + 5 * 1000 * math.log(LONG / EVERY_STEP_UNTIL) + 1000
    assert max(later - earlier for earlier, later in pairwise(numbers)) <= LONG * 0.001 + 1
    assert odd.keys() <= set(numbers)
    assert numbers[-1] == LONG


def long_run(monkeypatch: pytest.MonkeyPatch) -> list[Record]:
    """Of 300 steps, where every step counts until the hundredth, and windows have ten."""
    monkeypatch.setattr(thinning, "EVERY_STEP_UNTIL", 100)
    monkeypatch.setattr(thinning, "WINDOW", 0.05)
    events: list[Event] = [event for _, event in BEGIN]
    events += [StepDone(1, number, 0.5, 2.0 + number % 7, 1e-3) for number in range(1, 205)]
    events += [AttemptStarted(2, "h", 1, 4)]
    events += [StepDone(2, number, 0.5, 2.0 + number % 5, 1e-3) for number in range(150, 301)]
    events += [RunEnded(Status.FINISHED, "")]
    return [Record(seq, seq / 2, 1e9 + seq / 2, event) for seq, event in enumerate(events)]


def points_of(records: list[Record], after_seq: int = -1) -> list[Point]:
    """As the sink makes them once everything up to ``after_seq`` has been written."""
    projection = Projection(1e9)
    return [point for record in records for point in projection.fold(record) if record.seq > after_seq]


def test_a_sink_that_is_started_again_within_a_window_leaves_nothing_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    records = long_run(monkeypatch)
    everything = points_of(records)
    for written_seq in range(95, len(records), 13):
        before = points_of(records[: written_seq + 1])
        assert before + points_of(records, written_seq) == everything


def test_the_last_step_before_each_turn_is_kept_with_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    records = long_run(monkeypatch)
    losses = [point for point in points_of(records) if point.key == "loss"]
    times = {record.seq: int(record.time_unix_s * 1000) for record in records}
    assert all(point.timestamp_ms == times[point.seq] for point in losses)
    assert len(losses) < 355
    turn = next(record.seq for record in records if record.event == AttemptStarted(2, "h", 1, 4))
    assert [point.step for point in losses if point.seq < turn][-1] == 204
    assert (losses[-1].step, losses[-1].value) == (300, 2.0)


def test_samples_of_a_node_are_not_closer_than_a_thousandth_of_the_run() -> None:
    projection = Projection(1e9)
    kept: dict[str, list[int]] = {"a": [], "b": []}
    for number in range(40_000):
        for node in ("a", "b"):
            record = Record(0, 10.0 * number, 1e9 + 10 * number, NodeSampled(node, {"cpu": 1.0}))
            kept[node] += [p.step for p in projection.fold(record)]
    assert kept["a"] == kept["b"]
    assert kept["a"][:500] == list(range(500))
    assert 1000 < len(kept["a"]) < 6000
