"""A trace on a fleet: the same policy as on GPUs of one kind, with quotas, pools and nodes that leave."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import ConfigError
from orchestrator.fleet.contest import Setting, standings
from orchestrator.fleet.played import Fleet, play_on
from orchestrator.fleet.pools import CapacityChange, Pool
from orchestrator.fleet.teams import Team
from orchestrator.fleet.trace import TraceJob

NOW = 1_800_000_000.0
ONE = (Pool("h100", 1, 8),)
EXACT = Setting(gpus=8, sigma=0.0, told_sigma=0.0, seeds=(0,))


def job(key: str, submit_s: float, duration_s: float, gpus: int, team: str = "") -> TraceJob:
    return TraceJob(key, submit_s, duration_s, gpus, team, place=f"line {key}")


def jobs_of(rows: list[tuple[float, float, int]]) -> list[TraceJob]:
    ordered = sorted(rows)
    return [job(str(at), *row) for at, row in enumerate(ordered)]


ROWS = st.lists(
    st.tuples(
        st.integers(0, 20_000).map(float), st.integers(60, 40_000).map(float), st.sampled_from([1, 2, 4, 8])
    ),
    min_size=1, max_size=25,
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(ROWS)
def test_whatever_is_submitted_ends_and_its_times_add_up(rows: list[tuple[float, float, int]]) -> None:
    jobs = jobs_of(rows)
    found = play_on(jobs, "t.csv", EXACT, Fleet("f.yaml", NOW, ONE))
    work_h = sum(one.duration_s * one.gpus for one in jobs) / 3600
    assert found.all.jobs == len(jobs)
    assert found.all.unfinished == 0
    # Each start takes three seconds, the first one as well.
    starts = len(jobs) + found.all.stops
    assert work_h <= found.all.gpu_hours <= work_h + starts * 3 * 8 / 3600 + 1e-6
    assert found.in_use["h100"] == pytest.approx(
        found.all.gpu_hours / (8 * found.makespan_s / 3600), rel=1e-6
    )
    mean_s = sum(one.duration_s for one in jobs) / len(jobs)
    assert found.all.avg_jct_s >= mean_s
    assert found.all.usd == pytest.approx(found.all.gpu_hours * 2.0)


def test_on_gpus_of_one_kind_it_is_what_the_simulator_says() -> None:
    rows = [(100.0 * at, 600.0 + 977.0 * (at * 7 % 13), 1 + at % 8) for at in range(60)]
    jobs = jobs_of(rows)
    here = play_on(jobs, "t.csv", EXACT, Fleet("f.yaml", NOW, ONE)).all
    there = standings(jobs, EXACT, ["ours"])["ours"]
    assert here.avg_jct_s == pytest.approx(there.avg_jct_s, rel=0.05)


def test_a_quota_is_had_whatever_others_submit() -> None:
    flood = [job(str(at), 0.0, 600.0, 4, "cv") for at in range(40)]
    late = [job(f"n{at}", 4000.0 + at, 7200.0, 4, "nlp") for at in range(2)]
    teams = (Team("cv", quota=(("h100", 4),)), Team("nlp", quota=(("h100", 4),)))
    shared = play_on([*flood, *late], "t.csv", EXACT, Fleet("f.yaml", NOW, ONE))
    kept = play_on([*flood, *late], "t.csv", EXACT, Fleet("f.yaml", NOW, ONE, teams))
    assert kept.teams["nlp"].avg_wait_s < shared.teams["nlp"].avg_wait_s
    assert kept.teams["nlp"].jobs == 2
    assert kept.teams["cv"].jobs + kept.teams["nlp"].jobs == kept.all.jobs
    parts = sum(each.gpu_hours for each in kept.teams.values())
    assert parts == pytest.approx(kept.all.gpu_hours)


def test_nodes_that_leave_for_good_leave_jobs_without_an_end() -> None:
    jobs = [job("1", 0.0, 600.0, 8), job("2", 0.0, 7200.0, 16)]
    two = (Pool("h100", 2, 8),)
    leave = (CapacityChange("h100", -1, NOW + 3600.0),)
    found = play_on(jobs, "t.csv", EXACT, Fleet("f.yaml", NOW, two, changes=leave))
    assert (found.all.jobs, found.all.unfinished) == (1, 1)
    assert found.gpus == 16
    back = (*leave, CapacityChange("h100", 1, NOW + 7200.0))
    found = play_on(jobs, "t.csv", EXACT, Fleet("f.yaml", NOW, two, changes=back))
    assert found.all.unfinished == 0
    assert found.makespan_s > 3600.0 + 7200.0


def test_a_gang_beyond_what_its_team_may_have_never_runs() -> None:
    teams = (Team("cv", borrow_limit=4), Team("nlp", quota=(("h100", 4),)))
    jobs = [job("1", 0.0, 60.0, 8, "cv"), job("2", 0.0, 60.0, 4, "cv")]
    found = play_on(jobs, "t.csv", EXACT, Fleet("f.yaml", NOW, ONE, teams))
    assert (found.teams["cv"].jobs, found.teams["cv"].unfinished) == (1, 1)


def test_a_team_of_which_no_job_ends_has_no_times() -> None:
    teams = (Team("cv", borrow_limit=4), Team("nlp"))
    jobs = [job("1", 0.0, 60.0, 8, "cv"), job("2", 0.0, 60.0, 4, "nlp")]
    cv = play_on(jobs, "t.csv", EXACT, Fleet("f.yaml", NOW, ONE, teams)).teams["cv"]
    assert (cv.jobs, cv.unfinished, cv.avg_jct_s, cv.p99_jct_s, cv.avg_wait_s) == (0, 1, None, None, None)
    assert (cv.gpu_hours, cv.delay_usd, cv.usd) == (0.0, 0.0, 0.0)


def test_the_cheaper_of_two_pools_is_taken_first() -> None:
    pools = (Pool("dear", 1, 8, 4.0), Pool("cheap", 1, 8, 1.0))
    found = play_on([job("1", 0.0, 3600.0, 8)], "t.csv", EXACT, Fleet("f.yaml", NOW, pools))
    assert found.in_use["dear"] == 0.0
    assert found.all.usd == pytest.approx(8.0, rel=0.01)


def test_what_does_not_go_together_is_refused_by_name() -> None:
    fleet = Fleet("f.yaml", NOW, ONE, (Team("nlp"), Team("cv")))
    with pytest.raises(
        ConfigError, match=r"job a \(line a\) of the trace is of team 'nlpp', and there are nlp, cv"
    ):
        play_on([TraceJob("a", 0.0, 1.0, 1, "nlpp", place="line a")], "t.csv", EXACT, fleet)
    with pytest.raises(ConfigError, match=r"takes 16 GPUs, more than any pool has \(h100 8\)"):
        play_on([job("a", 0.0, 1.0, 16)], "t.csv", EXACT, fleet)
