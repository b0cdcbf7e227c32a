"""Budgets of teams: who may start with what is left of the month, and who stops before it is spent."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.fleet.after import after, foreseen, settled
from orchestrator.fleet.decide import decide
from orchestrator.fleet.decisions import Hold, HoldCause, Start, Stop, StopCause
from orchestrator.fleet.forecast import forecast
from orchestrator.fleet.jobs import JobState, StopPrice
from orchestrator.fleet.settings import Policy
from orchestrator.fleet.teams import Team, next_month_at
from orchestrator.fleet.world import World
from tests.support.fleet_worlds import NOW, queued, running, world, worlds

POLICY = Policy()


def _team(limit_usd: float | None, spent_usd: float = 0.0) -> tuple[Team, ...]:
    return (Team("nlp", usd_per_month=limit_usd, spent_usd=spent_usd),)


def _decided(of: World) -> dict[str, Start | Stop | Hold]:
    return {one.job: one for one in decide(of, POLICY)}  # type: ignore[misc]


def test_a_budget_of_nothing_starts_nothing_and_no_end_of_it_is_told() -> None:
    for spent_usd in (0.0, 50.0):
        found = _decided(world(queued("a", 8), teams=_team(0.0, spent_usd)))["a"]
        assert isinstance(found, Hold)
        assert (found.cause, found.until_at) == (HoldCause.BUDGET, None)
    assert isinstance(_decided(world(queued("a", 8), teams=_team(None, 50.0)))["a"], Start)


def test_two_starts_together_leave_the_budget_whole() -> None:
    jobs = queued("a", 8, 5.0, usd_per_hour=9.0), queued("b", 8, 5.0), queued("c", 8, 1.0, usd_per_hour=0.1)
    found = _decided(world(*jobs, teams=_team(120.0)))  # a takes 80, b 80, c 16
    assert isinstance(found["a"], Start)
    assert isinstance(found["c"], Start)
    assert isinstance(found["b"], Hold)
    assert (found["b"].cause, found["b"].behind) == (HoldCause.CLAIMED, ("a",))
    assert all(isinstance(one, Start) for one in _decided(world(*jobs, teams=_team(200.0))).values())


def test_who_runs_claims_what_it_takes_still_of_those_who_are_worth_less_alone() -> None:
    there = running("r", (0, 8), hours=5.0, since_s=0.0, usd_per_hour=5.0)  # takes 80
    for worth, starts in ((1.0, False), (50.0, True)):
        found = _decided(world(there, queued("a", 8, 5.0, usd_per_hour=worth), teams=_team(100.0)))
        assert isinstance(found["a"], Start) is starts


def test_what_takes_more_than_a_month_begins_all_the_same_where_nobody_else_needs_the_money() -> None:
    long = queued("long", 8, 1000.0)
    assert isinstance(_decided(world(long, teams=_team(500.0)))["long"], Start)
    for left_usd, starts in ((2.0, True), (0.5, False)):  # 150 s of eight GPUs are 0.67
        found = _decided(world(long, teams=_team(500.0, 500.0 - left_usd)))["long"]
        assert isinstance(found, Start) is starts
        if isinstance(found, Hold):
            assert (found.cause, found.until_at) == (HoldCause.BUDGET, next_month_at(NOW))


def test_before_the_month_is_spent_those_who_run_save_and_leave_the_least_worthy_first() -> None:
    price = StopPrice(stop_s=5.0, write_s=20.0)
    jobs = [
        replace(running(key, (node, 8), hours=50.0, usd_per_hour=worth), price=price)
        for node, (key, worth) in enumerate((("a", 9.0), ("b", 1.0)))
    ]
    one_usd = 8 * (15 + 5 + 60) * 2.0 / 3600  # of one: a look, the stop, and two saves half as long again
    for left_usd, stopped in (
        (2.01, set()),
        (1.99, {"b"}),
        (1.01, {"b"}),
        (0.99, {"a", "b"}),
        (0.0, {"a", "b"}),
    ):
        of = world(*jobs, teams=_team(500.0, 500.0 - left_usd * one_usd))
        found = [one for one in decide(of, POLICY) if isinstance(one, Stop)]
        assert {one.job for one in found} == stopped
        assert all((one.cause, one.for_jobs) == (StopCause.BUDGET, ()) for one in found)
    pinned = replace(jobs[0], saved=False, spec=replace(jobs[0].spec, preemptible=False))
    assert isinstance(_decided(world(pinned, teams=_team(500.0, 500.0)))["a"], Stop)


def test_who_ends_for_less_than_its_stop_is_let_end() -> None:
    last = replace(running("a", (0, 8)), steps=1000, step=999, saved_step=990, step_s=2.0)
    assert "a" not in _decided(world(last, teams=_team(500.0, 499.99)))


@pytest.mark.parametrize(
    ("at", "next_at"),
    [(1_796_000_000.0, 1_796_083_200.0), (1_798_675_200.0, 1_798_761_600.0)],  # November, 31 December 2026
)
def test_a_month_is_one_of_utc(at: float, next_at: float) -> None:
    assert next_month_at(at) == next_at
    assert next_month_at(next_at - 1.0) == next_at < next_month_at(next_at)


def test_nobody_foresees_when_those_start_who_have_no_money() -> None:
    jobs = queued("a", 8, 5.0, usd_per_hour=9.0), queued("b", 8, 5.0)
    of = world(*jobs, teams=_team(120.0))
    found = forecast(foreseen(of, decide(of, POLICY)), POLICY)
    assert found["a"].end is not None
    assert found["b"].start is None


def test_dollars_are_told_only_of_those_of_whom_somebody_knows_for_how_long() -> None:
    counted = replace(running("steps", (0, 8)), steps=100, step=10, saved_step=10, step_s=36.0)
    counted = replace(counted, spec=replace(counted.spec, plans=queued("x", 8, None).spec.plans))
    found = forecast(world(queued("planned", 8, 2.0), queued("nobody", 8, None), counted), POLICY)
    assert found["nobody"].usd is None
    assert found["nobody"].end is not None
    assert found["planned"].usd == pytest.approx(8 * 2 * 2.0 * np.exp(0.125), rel=0.2)
    assert found["steps"].usd == pytest.approx(8 * 0.9 * 2.0, rel=0.1)


@st.composite
def _with_budgets(draw: st.DrawFn) -> World:
    of = draw(worlds())
    limits = draw(st.lists(st.sampled_from([None, 0.0, 5.0, 50.0, 1000.0]), min_size=3, max_size=3))
    spent = draw(st.floats(0.0, 1.2))
    teams = [
        replace(team, usd_per_month=limit, spent_usd=spent * (limit or 10.0))
        for team, limit in zip(of.teams, limits, strict=False)
    ]
    return replace(of, teams=tuple(teams))


@given(_with_budgets())
@settings(max_examples=150, deadline=None)
def test_what_is_decided_of_money_stands(of: World) -> None:
    decisions = decide(of, POLICY)
    written = after(of, decisions)
    assert not [one for one in decide(written, POLICY) if not isinstance(one, Hold)]
    poor = {one.job for one in decisions if isinstance(one, Stop) and one.cause is StopCause.BUDGET}
    limited = {team.name: team for team in of.teams if team.usd_per_month is not None}
    for one in decisions:
        team = limited.get(next(job.spec.team for job in of.jobs if job.key == one.job))
        if isinstance(one, Start):
            assert team is None or team.spent_usd < (team.usd_per_month or 0.0)
        if isinstance(one, Stop) and one.cause is StopCause.BUDGET:
            assert team is not None
    left = settled(replace(written, jobs=tuple(_as_it_left(job, poor) for job in written.jobs)))
    again = {one.job for one in decide(left, POLICY) if isinstance(one, Start)}
    runs = {job.spec.team for job in left.jobs if job.state is JobState.RUNNING}
    for job in left.jobs:
        if job.key in poor & again:  # with what is left of the others' it may end, or nobody else needs it
            assert job.spec.team not in runs
    for team in of.teams:
        if team.is_spent:
            there = [job for job in written.jobs if job.spec.team == team.name]
            assert not [job for job in there if job.state in (JobState.RUNNING, JobState.STARTING)]


def _as_it_left(job, poor):  # type: ignore[no-untyped-def]
    return replace(job, saved=True) if job.key in poor else job
