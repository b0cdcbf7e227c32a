"""The engine, the bound below all policies, and what ours reaches without being told how long jobs take."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import ConfigError
from orchestrator.fleet import shortlist
from orchestrator.fleet.bound import bound_jct_s
from orchestrator.fleet.contest import POLICIES, Setting, contest, play, standings
from orchestrator.fleet.measures import measures
from orchestrator.fleet.queueings import Easy, Fifo, Ours, Shortest
from orchestrator.fleet.simulate import simulate
from orchestrator.fleet.trace import Arrivals, TraceJob
from tests.support.fleet_traces import SIZES, drawn


def bound_of(jobs: list[TraceJob], gpus: int) -> float:
    return bound_jct_s(Arrivals.of(jobs), gpus)


jobs_strategy = st.lists(
    st.builds(
        TraceJob,
        key=st.just("j"),
        submit_s=st.floats(0, 5000),
        duration_s=st.floats(1, 50_000),
        gpus=st.sampled_from(SIZES),
    ),
    min_size=1,
    max_size=25,
).map(lambda jobs: sorted(jobs, key=lambda job: job.submit_s))


@given(jobs_strategy, st.sampled_from(POLICIES), st.sampled_from([0.0, 3.0, 100.0]))
@settings(max_examples=60, deadline=None)
def test_every_job_does_all_of_its_work_and_none_beats_the_bound(jobs, name, restart_s):
    run = play(jobs, Setting(gpus=32, restart_s=restart_s), name, 0)
    assert run.done_s == pytest.approx(run.work_s, rel=1e-6, abs=1e-3)
    jct_s = run.ended_at - run.arrivals.submit_s
    assert (jct_s >= run.work_s - 1e-3).all()
    assert jct_s.mean() >= bound_of(jobs, 32) * (1 - 1e-9) - 1e-3
    assert run.free == 32
    ends_s = float(run.ended_at.max())
    used_s = float((run.work_s * run.arrivals.gpus).sum()) + run.lost_gpu_s
    assert used_s + sum(run.idle_gpu_s.values()) == pytest.approx(32 * ends_s, rel=1e-6, abs=1e-2)
    assert run.preemptions == int((run.starts - 1).sum())


def test_the_bound_of_one_job_is_its_duration_where_it_takes_all_gpus():
    assert bound_of([TraceJob("a", 7.0, 100.0, 64)], 64) == pytest.approx(100.0)
    assert bound_of([TraceJob("a", 0.0, 100.0, 32)], 64) == pytest.approx(
        75.0
    )  # half of it, and half of 50 s


def _jct(jobs: list[TraceJob], queueing: object) -> list[float]:
    run = simulate(Arrivals.of(jobs), 8, queueing, restart_s=10.0)
    return [round(float(each), 3) for each in run.ended_at - run.arrivals.submit_s]


def test_fifo_lets_nobody_pass_and_easy_lets_pass_who_takes_nothing_from_the_first():
    jobs = [
        TraceJob("runs", 0, 100.0, 4),
        TraceJob("first", 1, 50.0, 8),
        TraceJob("short", 2, 90.0, 4),  # ends before the first could start
        TraceJob("long", 3, 200.0, 4),
    ]
    assert _jct(jobs, Fifo()) == [100, 149, 238, 347]
    assert _jct(jobs, Easy()) == [100, 149, 90, 347]


def test_gpus_that_are_free_while_somebody_waits_are_told_by_why():
    jobs = [
        TraceJob("runs", 0, 100.0, 4),
        TraceJob("first", 0, 50.0, 8),
        TraceJob("short", 40, 20.0, 4, usd_per_hour=3600.0),
    ]
    fifo = measures(simulate(Arrivals.of(jobs), 8, Fifo()))
    assert fifo.idle_gpu_h == {"gang": pytest.approx(4 * 40 / 3600), "fits": pytest.approx(4 * 60 / 3600)}
    assert fifo.allocation == pytest.approx((4 * 100 + 8 * 50 + 4 * 20) / (8 * 170))
    assert fifo.delay_usd == pytest.approx(110.0 + 100 / 3600)
    easy = measures(simulate(Arrivals.of(jobs), 8, Easy()))
    assert easy.idle_gpu_h == {"gang": pytest.approx(4 * 80 / 3600), "fits": 0.0}


def test_a_team_beside_itself_alone():
    many = [TraceJob(f"a{row}", 0, 100.0, 4, team="a") for row in range(8)]
    jobs = [*many, TraceJob("b", 0, 100.0, 4, team="b")]
    [found] = standings(jobs, Setting(gpus=8, by_team=True), ["fifo"]).values()
    assert found.fairness == {"a": pytest.approx((100 + 200 + 300 + 400) / 4 / 450), "b": pytest.approx(5.0)}


def test_a_stopped_job_goes_on_from_where_it_was_and_pays_for_its_start():
    jobs = [TraceJob("long", 0, 100.0, 8), TraceJob("short", 30, 20.0, 8)]
    assert _jct(jobs, Shortest(by_service=True)) == [100 + 20 + 10, 20]


def test_ours_stops_nobody_within_its_least_time():
    jobs = [TraceJob("long", 0, 5000.0, 8), TraceJob("short", 30, 20.0, 8)]
    run = play(jobs, Setting(gpus=8, sigma=0.0, told_sigma=0.0, seeds=(0,)), "ours", 0)
    assert run.first_start[1] == pytest.approx(150.0)


@pytest.fixture(scope="module")
def reached() -> dict[str, dict[str, float]]:
    trace = drawn(300, seed=3, load=8.0)
    return {name: dataclasses.asdict(one) for name, one in standings(trace, Setting()).items()}


def test_ours_is_near_who_knows_each_duration_and_far_before_who_knows_none(reached):
    avg = {name: one["avg_jct_s"] for name, one in reached.items()}
    assert avg["ours"] <= 1.10 * avg["srsf"]
    assert avg["ours"] <= 0.70 * avg["tiresias_l"]
    assert avg["ours_blind"] < avg["tiresias_l"]
    p99 = {name: one["p99_jct_s"] for name, one in reached.items()}
    assert p99["ours"] <= 1.10 * p99["srsf"]


def test_little_time_is_lost_to_preemption_also_where_a_restart_takes_half_an_hour(reached):
    assert reached["ours"]["gpu_time_lost"] <= 0.001
    slow = standings(drawn(300, seed=4), Setting(restart_s=1800.0, seeds=(0,)), ["ours"])
    assert slow["ours"].gpu_time_lost <= 0.02


def test_with_three_of_ten_ending_early_ours_is_far_before_tiresias():
    found = standings(drawn(300, seed=3, load=8.0), Setting(early=0.3), ["tiresias_l", "ours"])
    assert found["ours"].avg_jct_s <= 0.75 * found["tiresias_l"].avg_jct_s


def test_where_jobs_end_early_the_bound_is_of_what_they_really_take():
    """Which policies do as well as, where nobody waits and each takes all GPUs."""
    jobs = [TraceJob(str(day), day * 86400.0, 3600.0, 64) for day in range(20)]
    found = contest(jobs, "days", Setting(early=0.9), ["srsf", "ours"])
    for one in found.policies.values():
        assert one.avg_jct_s == pytest.approx(found.bound_jct_s)
    assert found.bound_jct_s < 0.8 * contest(jobs, "days", Setting(), ["srsf"]).bound_jct_s


def test_the_same_seed_plays_the_same_and_another_does_not():
    trace = drawn(200, seed=6)
    one, same, other = (play(trace, Setting(jitter_s=60.0), "ours", seed).ended_at for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_what_cannot_be_played_is_refused():
    with pytest.raises(ConfigError, match="takes 32 GPUs; give as many"):
        standings([TraceJob("a", 0, 1, 32)], Setting(gpus=16))
    with pytest.raises(ConfigError, match="did you mean 'srtf'"):
        standings([TraceJob("a", 0, 1, 1)], Setting(), ["srft"])


def test_of_a_long_queue_only_those_are_weighed_who_could_start_and_it_comes_out_the_same(monkeypatch):
    trace = drawn(400, seed=7, load=30.0)
    weighed: list[int] = []
    table = Ours.table
    monkeypatch.setattr(
        Ours, "table", lambda of, run, rows: weighed.append(len(rows)) or table(of, run, rows)
    )
    monkeypatch.setattr(shortlist, "_KEPT", 4)
    for name in ("ours", "ours_blind"):
        looked_at, averages = [], []
        for longer_than in (32, 10**9):
            monkeypatch.setattr(shortlist, "_LONG", longer_than)
            weighed.clear()
            run = play(trace, Setting(), name, 0)
            looked_at.append(sum(weighed))
            averages.append(float((run.ended_at - run.arrivals.submit_s).mean()))
        assert looked_at[0] < 0.7 * looked_at[1]
        assert averages[0] == pytest.approx(averages[1], rel=0.01)
