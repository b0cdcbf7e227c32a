"""When jobs start and end, with a range: what it is of jobs whose future is plain, and how good on a trace."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from orchestrator.fleet.forecast import Forecast, coming, forecast
from orchestrator.fleet.hindsight import hindsight
from orchestrator.fleet.jobs import Job, JobState, PoolPlan
from orchestrator.fleet.record import Ended, Record
from orchestrator.fleet.settings import Policy
from orchestrator.fleet.world import World
from tests.support.fleet_traces import drawn
from tests.support.fleet_worlds import NOW, queued, running, world


def _forecast(of: World, *recent: Job) -> dict[str, Forecast]:
    return dict(forecast(of, Policy(), futures=40, recent=recent, coarse=0.0))


def _hours(at: float | None) -> float:
    assert at is not None
    return (at - NOW) / 3600


def test_a_job_alone_starts_at_once_and_ends_as_its_plan_may_be_wrong():
    found = _forecast(world(queued("j", 8, 10.0)))["j"]
    assert (found.start.low_at, found.start.high_at) == (NOW, NOW)
    assert _hours(found.end.at) == pytest.approx(10.0, rel=0.1)
    assert _hours(found.end.low_at) == pytest.approx(10 * math.exp(-1.28 * 0.5), rel=0.15)
    assert _hours(found.end.high_at) == pytest.approx(10 * math.exp(1.28 * 0.5), rel=0.15)
    assert found.usd == pytest.approx(8 * 10 * math.exp(0.125) * 2.0, rel=0.1)
    assert found.stops == 0


def test_a_job_whose_steps_are_counted_is_known_well():
    job = replace(running("r", (0, 8), hours=99.0), step=500, saved_step=500, steps=1000, step_s=7.2)
    found = _forecast(world(job))["r"]
    assert found.start.at == NOW - 3600
    assert _hours(found.end.low_at) == pytest.approx(1.0 * math.exp(-1.28 * 0.05), rel=0.02)
    assert _hours(found.end.high_at) == pytest.approx(1.0 * math.exp(1.28 * 0.05), rel=0.02)


def test_a_job_that_is_past_its_plan_is_expected_to_go_on():
    found = _forecast(world(running("r", (0, 8), hours=1.0, since_s=2 * 3600.0)))["r"]
    assert 0.0 < _hours(found.end.low_at) < _hours(found.end.at) < 3.0


def test_who_waits_starts_when_the_other_may_have_ended_and_is_told_how_often_it_is_stopped():
    blocks = running("r", (0, 8), (1, 8), (2, 8), (3, 8), hours=2.0, preemptible=False)
    found = _forecast(world(blocks, queued("j", 32, 1.0)))
    assert found["j"].start == pytest.approx(found["r"].end)
    lost = queued("long", 32, 200.0), queued("other", 32, 200.0)
    stopped = _forecast(world(*lost, *(queued(f"s{at}", 32, 300.0, ago_s=-3600.0 * at) for at in (1, 2))))
    assert sum(one.stops for one in stopped.values()) > 0


def test_what_never_starts_has_no_time():
    held = replace(queued("held", 8), state=JobState.HELD)
    found = _forecast(
        world(held, queued("after", 8, depends_on=("held",)), queued("huge", 64), queued("j", 8))
    )
    assert {key for key, one in found.items() if one.start is None and one.end is None} == {
        "held",
        "after",
        "huge",
    }


def test_where_nobody_knows_durations_it_takes_what_others_took():
    record = Record(tuple(Ended("nlp", "", "", 8, 5.0) for _ in range(200)))
    found = _forecast(world(replace_hours(queued("j", 8)), record=record))["j"]
    assert 4.0 < _hours(found.end.at) < 6.0


def replace_hours(job: Job) -> Job:
    return replace(job, spec=replace(job.spec, plans=(PoolPlan("h100", 8, None),)))


def test_what_is_decided_together_leaves_no_gpus_idle_for_long():
    """A long queue of short jobs is done as soon as when each end is looked at."""
    jobs = [queued(f"short{number}", 8, 0.02) for number in range(200)]
    of = world(*jobs, queued("long", 8, 100.0))
    exact = _forecast(of)["long"]
    coarse = forecast(of, Policy(), futures=16, coarse=0.05)["long"]
    assert coarse.start is not None
    assert _hours(coarse.start.at) == pytest.approx(_hours(exact.start.at), rel=0.25)


def test_jobs_like_those_of_late_are_expected_to_come_and_to_go_first():
    late = [queued(f"l{at}", 32, 0.5, ago_s=3600.0 * at) for at in range(1, 13)]  # half of all that there is
    alone, among = (
        _forecast(world(queued("j", 32, 50.0)))["j"],
        _forecast(world(queued("j", 32, 50.0)), *late)["j"],
    )
    assert _hours(among.end.at) > 1.4 * _hours(alone.end.at)
    assert among.stops > 3


def test_jobs_to_come_take_as_long_on_average_as_those_of_late_took():
    sigma, took_h = 0.5, 4.0
    ended = [
        replace(queued(f"l{at}", 8, hours, ago_s=60.0 * at), step=900, steps=1000, step_s=took_h * 3.6)
        for at, hours in enumerate((1.0, 2.0, 4.0, 8.0, 16.0) * 4, 1)
    ]
    hours = [job.spec.plans[0].hours for job in coming(world(), ended)]
    assert [each * math.exp(sigma**2 / 2) for each in hours] == pytest.approx([took_h] * len(hours))
    waits = [queued(f"w{at}", 8, 4.0, ago_s=60.0 * at) for at in range(1, 21)]  # known by their plans alone
    hours = [job.spec.plans[0].hours for job in coming(world(), waits)]
    assert [each * math.exp(sigma**2) for each in hours] == pytest.approx([4.0] * len(hours))


def test_in_hindsight_most_ends_were_near_the_forecast():
    found = hindsight(drawn(80, seed=5, load=2.0), 64, Policy(), asked=8)
    assert found.asked == 8
    assert found.within_twice >= 0.6
    assert found.in_range >= 0.6
