from __future__ import annotations

import dataclasses
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.events import (
    AttemptEnded,
    AttemptStarted,
    Event,
    Fault,
    MetricLogged,
    NodeSampled,
    Outcome,
    RankLost,
    Record,
    ResourcesGranted,
    RunEnded,
    RunResumed,
    RunStarted,
    Status,
    StepDone,
)
from orchestrator.ledger.mlflow.points import MAX_KEY_CHARACTERS, Point, clean_key, clip
from orchestrator.ledger.mlflow.projection import Projection

RUN = RunStarted("r", "gpt", "lab", "H100", 4, 2.5, "GPU", 5, 1000, 1e9, 1e12)
BEGIN: list[tuple[float, Event]] = [
    (0, RUN),
    (0, ResourcesGranted(["n"], 4)),
    (0, AttemptStarted(1, "h", 1, 4)),
]


def project(
    timeline: list[tuple[float, Event]], flush_s: float = 2.0, wall: float = 1e9
) -> tuple[Projection, list[Point]]:
    projection = Projection(flush_s)
    points: list[Point] = []
    for seq, (at, event) in enumerate(timeline):
        points += projection.fold(Record(seq, at, wall + at, event))
    return projection, points


def test_a_step_gives_its_own_metrics_with_its_time() -> None:
    _, points = project([*BEGIN, (1.5, StepDone(1, 7, 0.5, 3.0, 1e-3, None))])
    assert {(p.key, p.value) for p in points} == {
        ("loss", 3.0),
        ("lr", 1e-3),
        ("step_time_s", 0.5),
        ("tokens_per_s", 2000.0),
        ("tokens_per_s_per_gpu", 500.0),
        ("mfu", 0.5),
    }
    assert {(p.step, p.timestamp_ms, p.seq) for p in points} == {(7, 1_000_000_001_500, 3)}


def test_samples_are_named_as_mlflow_names_nodes_and_counted_per_node() -> None:
    sample = {"cpu_utilization_percentage": 1.0}
    _, points = project(
        [(0, NodeSampled("a", sample)), (1, NodeSampled("b", sample)), (1.5, NodeSampled("a", sample))]
    )
    assert [(p.key, p.step) for p in points] == [
        ("system/a/cpu_utilization_percentage", 0),
        ("system/b/cpu_utilization_percentage", 0),
        ("system/a/cpu_utilization_percentage", 1),
    ]


def test_a_metric_of_a_job_cannot_pass_for_ours() -> None:
    _, points = project([*BEGIN, (1, MetricLogged(1, 3, {"val_loss": 1.0, "cost_usd": 0.0, "loss": 9.0}))])
    assert [(p.key, p.step) for p in points] == [("val_loss", 3), ("job/cost_usd", 3), ("job/loss", 3)]


def test_a_figure_of_the_job_s_that_the_engine_tells_as_well_is_told_once() -> None:
    """Its line comes before or after its step, and rounded; what says something else is another figure."""
    timeline: list[tuple[float, Event]] = [
        *BEGIN,
        (1, MetricLogged(1, 1, {"loss": 9.0})),  # nobody knows yet that an engine tells steps
        (1, StepDone(1, 1, 0.5, 3.0, 1e-3)),
        (1, MetricLogged(1, 1, {"loss": 3.0004, "lr": 2e-3})),
        (2, MetricLogged(1, 2, {"loss": 2.5, "grad_norm": 1.0, "val_loss": 4.0})),
        (2, StepDone(1, 2, 0.5, 2.5, 1e-3)),
        (3, MetricLogged(1, 3, {"loss": 7.0})),
        (3, StepDone(1, 3, 0.5, 2.0, 1e-3)),
        (4, MetricLogged(1, 4, {"loss": 1.9})),
        (5, RunEnded(Status.FAILED, "before its fourth step")),
    ]
    _, points = project(timeline, 99.0)
    told = [(p.key, p.step, p.value) for p in points if p.key.startswith("job/") or p.key == "val_loss"]
    assert told == [
        ("job/loss", 1, 9.0),
        ("job/lr", 1, 2e-3),
        ("val_loss", 2, 4.0),
        ("job/grad_norm", 2, 1.0),
        ("job/loss", 3, 7.0),
        ("job/loss", 4, 1.9),
    ]


def test_one_step_has_one_point_however_often_it_was_done() -> None:
    timeline: list[tuple[float, Event]] = [*BEGIN]
    for attempt, first, last in ((1, 1, 6), (2, 4, 8), (3, 3, 9)):
        timeline.append((attempt * 10, AttemptStarted(attempt, "h", 1, 4)))
        for step in range(first, last + 1):
            at = attempt * 10 + step / 10
            timeline.append((at, MetricLogged(attempt, step, {"val_loss": 1.0 * attempt, "loss": 5.0})))
            timeline.append((at, StepDone(attempt, step, 0.5, 1.0 * attempt)))
    projection, points = project([*timeline, (50, RunEnded(Status.FINISHED, ""))], 999.0)
    for key in ("loss", "step_time_s", "val_loss", "job/loss"):
        assert sorted(p.step for p in points if p.key == key) == list(range(1, 10)), key
    assert [p.value for p in points if p.key == "loss"] == [1.0] * 6 + [2.0] * 2 + [3.0]
    assert projection.ledger.bill().steps == 9


def test_hours_of_cores_are_not_called_gpu_hours() -> None:
    cores = dataclasses.replace(RUN, unit="CPU core")
    for run, hours, price in ((RUN, "gpu_hours", "gpu_hour"), (cores, "core_hours", "core_hour")):
        begin = [(at, run if event is RUN else event) for at, event in BEGIN]
        projection, points = project([*begin, (3600, RunEnded(Status.FINISHED, ""))], 99.0)
        told = {p.key: p.value for p in points}
        assert {key: told[key] for key in told if key.endswith("_hours")} == {hours: 4.0}
        assert {key for key in projection.tags if key.startswith("price_")} == {f"price_usd_per_{price}"}


def test_a_wall_clock_set_back_does_not_make_an_old_bill_the_latest() -> None:
    projection = Projection(1.0)
    projection.fold(Record(0, 0.0, 1e9, RUN))
    points = projection.fold(Record(1, 5.0, 1e9 - 3600, StepDone(1, 1, 1.0)))
    assert {p.timestamp_ms for p in points} == {10**12 + 1}, "later than all before"


def test_a_month_has_thousands_of_bills_and_not_a_million() -> None:
    month_s = 30 * 86400
    timeline = [*BEGIN, *[(float(at), StepDone(1, at // 60, 60.0)) for at in range(60, month_s, 60)]]
    _, points = project(timeline)
    bills = [p for p in points if p.key == "cost_usd"]
    assert 1000 < len(bills) < 6000
    ages = [later.timestamp_ms - earlier.timestamp_ms for earlier, later in pairwise(bills)]
    assert max(ages) / 1000 < 0.0021 * month_s


def test_the_end_is_billed_and_tagged() -> None:
    projection, points = project(
        [*BEGIN, (1, StepDone(1, 1, 1.0, 3.0)), (2, RunEnded(Status.FAILED, "boom"))], 99.0
    )
    last = {p.key: p.value for p in points if p.seq == 4}
    assert last["gpu_hours"] == 8 / 3600
    assert last["final_loss"] == 3.0
    assert last["seconds_training"] == 1.0
    wanted = {"status": "failed", "status_reason": "boom", "nodes": "1", "gpus": "4"}
    assert wanted.items() <= projection.tags.items()


def test_a_run_taken_up_again_is_running() -> None:
    projection, _ = project([*BEGIN, (1, RunEnded(Status.INTERRUPTED, "")), (1, RUN)])
    assert projection.ended is None
    assert projection.tags["status"] == "running"

    projection, _ = project(
        [*BEGIN, (1, RunEnded(Status.INTERRUPTED, "Ctrl-C")), (1, RunResumed("r", "it was stopped"))]
    )
    assert projection.ended is None
    assert projection.tags["status"] == "running"
    assert projection.tags["status_reason"] == "taken up again: it was stopped"
    assert projection.tags["cluster"] == "lab", "what is known of the run stays known"


def test_incidents_are_counted_and_what_they_cost_is_what_the_buckets_say() -> None:
    lost = RankLost(1, 2, "n", "GPU 2", -9, 1, "killed by SIGKILL")
    timeline: list[tuple[float, Event]] = [
        *BEGIN, (1, StepDone(1, 1, 1.0)), (3, lost), (3, AttemptEnded(1, Outcome.FAILED, 1)),
        (4, AttemptStarted(2, "h", 1, 4)), (6, StepDone(2, 1, 1.0)),
        (9, RankLost(2, 1, "n", "GPU 1", -9, 1, "no progress", fault=Fault.HANG)),
        (12, AttemptEnded(2, Outcome.FAILED, 1)), (12, RunEnded(Status.FAILED, "stop")),
    ]  # fmt: skip
    projection, points = project(timeline, flush_s=1.5)
    counts = [p.value for p in points if p.key == "incidents"]
    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (1, 2), "the first bill came with the first fault"
    last = {p.key: p.value for p in points if p.seq == len(timeline) - 1}
    seconds = last["seconds_recovering"] + last["seconds_redone"]
    assert seconds == 2 + 2 + 1 + 3 + 3
    assert last["incident_cost_usd"] == pytest.approx(seconds * 4 * 2.5 / 3600)
    assert [incident.fault for incident in projection.incidents()] == ["exit", "hang"]
    text = (
        "1 exit, 1 hang: 0.0122 GPU-hours, $0.0306; last: rank 1 on node n, GPU 1: made no progress any more"
        " at step 1"
    )
    assert projection.tags["incidents"] == text
    assert project(timeline, flush_s=1.5)[1] == points, "the same journal, the same points"


def test_a_run_without_incidents_has_none() -> None:
    projection, points = project([*BEGIN, (1, StepDone(1, 1, 1.0)), (3, RunEnded(Status.FINISHED, ""))])
    last = {p.key: p.value for p in points if p.seq == 4}
    assert (last["incidents"], last["incident_cost_usd"]) == (0, 0)
    assert "incidents" not in projection.tags


@given(st.text())
def test_any_text_becomes_a_key_that_mlflow_accepts(text: str) -> None:
    key = clean_key(text)
    assert 0 < len(key) <= MAX_KEY_CHARACTERS
    assert not key.startswith("/")
    assert not key.endswith("/")
    assert clean_key(key) == key


def test_what_is_cut_says_so() -> None:
    assert clip("short", 100) == "short"
    cut = clip("x" * 7000, 6000)
    assert len(cut) == 6000
    assert cut.endswith("x … (cut, 7000 characters in all)")
