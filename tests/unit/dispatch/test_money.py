"""Dollars and hours of the queue: what a job took where it ran, what a team has spent, what is told of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator.cli.cli import main
from orchestrator.cli.show.fleet_page import _figures
from orchestrator.dispatch.books import Books
from orchestrator.dispatch.codec import made
from orchestrator.dispatch.facts import (
    Began,
    Ended,
    Fact,
    Left,
    MoveMeant,
    StartMeant,
    StopMeant,
    Submitted,
    Tallied,
    Tally,
)
from orchestrator.dispatch.fleet_file import FleetFile, PoolEntry, read_fleet_file
from orchestrator.dispatch.queue_view import QueueView
from orchestrator.dispatch.store import Store
from orchestrator.dispatch.world import Sight, world_of
from orchestrator.errors import ConfigError, OrchestratorError
from orchestrator.fleet.decisions import StartCause, StopCause
from orchestrator.fleet.figures import steps_left_h
from orchestrator.fleet.forecast import futures_for
from orchestrator.fleet.jobs import JobSpec, JobState, Placement, PoolPlan
from orchestrator.fleet.pools import Pool
from orchestrator.fleet.record import Ended as HasEnded
from orchestrator.fleet.teams import Team
from orchestrator.papers import PaperError
from tests.support.dispatch_world import FakeCluster

NOW = 1_000_000.0
HOUR_S = 3600.0
PLANS = (PoolPlan("h100", 8, 10.0, step_s=1.0), PoolPlan("a100", 16, 30.0, step_s=3.0))
FLEET = FleetFile(
    Path(), Path(), (PoolEntry(Pool("h100", 4, 8)), PoolEntry(Pool("a100", 4, 8))),
    (Team("nlp", usd_per_month=100.0),),
)  # fmt: skip
ON_H100, ON_A100 = Placement("h100", (0,), (8,)), Placement("a100", (0, 1), (8, 8))


def played(*facts: tuple[float, Fact], plans: tuple[PoolPlan, ...] = PLANS) -> Books:
    """What has happened, each at so many hours."""
    books = Books()
    books.fold(NOW, "x", Submitted(JobSpec("a", "nlp", plans, script="train.py"), "a", "/"))
    for hours, fact in facts:
        books.fold(NOW + hours * HOUR_S, "x", fact)
        books.tidy()
    return books


def the_end(books: Books) -> HasEnded:
    (found,) = world_of(books, FLEET, Sight(), NOW).record.ended
    return found


def start(epoch: int, where: Placement) -> Fact:
    return StartMeant("a", epoch, where, StartCause.WORTH, 1.0)


def finished(epoch: int) -> Fact:
    return Ended("a", epoch, JobState.FINISHED, Tally(100, 100, True))


def test_what_has_ended_is_held_against_the_plan_of_the_pool_where_it_ran() -> None:
    for where, plan in ((ON_H100, PLANS[0]), (ON_A100, PLANS[1])):
        hours = plan.hours or 0.0
        found = the_end(played((0.0, start(1, where)), (0.0, Began("a", 1)), (hours, finished(1))))
        assert (found.gpus, found.hours, found.predicted_hours) == (plan.gpus, hours, plan.hours)


def test_in_two_pools_a_job_as_fast_as_planned_in_both_took_what_was_predicted() -> None:
    stopped = StopMeant("a", 1, StopCause.WORTH, 1.0, 2.0, ())
    queued = [
        (0.0, start(1, ON_H100)), (0.0, Began("a", 1)), (4.0, stopped), (4.0, Left("a", 1, Tally(40, 40, True))),
        (9.0, start(2, ON_A100)), (9.0, Began("a", 2)), (9.0 + 18.0, finished(2)),
    ]  # fmt: skip
    moved = [
        (0.0, start(1, ON_H100)), (0.0, Began("a", 1)),
        (4.0, MoveMeant("a", 2, ON_A100, 1.0, 2.0, "b")), (4.0, Left("a", 1, Tally(40, 40, True))),
        (4.0, Began("a", 2)), (4.0 + 18.0, finished(2)),
    ]  # fmt: skip
    for facts in (queued, moved):
        found = the_end(played(*facts))
        assert found.hours == pytest.approx(22.0)
        assert found.predicted_hours == pytest.approx(22.0)
        assert found.gpus == 16, "of the pool where it ran longest"


def test_an_end_in_a_pool_of_which_nobody_has_a_plan_any_more_goes_by_the_first() -> None:
    facts = (0.0, start(1, Placement("old", (0,), (8,)))), (0.0, Began("a", 1)), (7.0, finished(1))
    assert the_end(played(*facts)).predicted_hours == 10.0


@pytest.mark.parametrize(
    ("there", "here", "slower"),
    [
        (PoolPlan("h100", 8, 10.0, step_s=1.0), PoolPlan("a100", 8, 31.0, step_s=3.0), 3.0),
        (PoolPlan("h100", 8, 10.0), PoolPlan("a100", 8, 25.0, step_s=3.0), 2.5),
        (PoolPlan("h100", 8, 10.0), PoolPlan("a100", 8, 25.0), 2.5),
        (PoolPlan("h100", 8, None), PoolPlan("a100", 8, None), 1.0),
    ],
)
def test_what_steps_take_in_another_pool_is_that_pools_own(
    there: PoolPlan, here: PoolPlan, slower: float
) -> None:
    tally = Tally(40, 40, True, 100, step_s=1.2)  # a fifth slower than planned
    stopped = StopMeant("a", 1, StopCause.WORTH, 1.0, 2.0, ())
    ran = (0.0, start(1, ON_H100)), (0.0, Began("a", 1)), (4.0, stopped), (4.0, Left("a", 1, tally))
    job = played(*ran, plans=(there, here)).jobs["a"].job
    assert steps_left_h(job, there) == pytest.approx(60 * 1.2 / HOUR_S)
    assert steps_left_h(job, here) == pytest.approx(60 * 1.2 * slower / HOUR_S)


def test_what_its_steps_take_in_the_pool_where_it_runs_now_is_measured_there() -> None:
    stopped = StopMeant("a", 1, StopCause.WORTH, 1.0, 2.0, ())
    books = played(
        (0.0, start(1, ON_H100)), (0.0, Began("a", 1)), (4.0, stopped),
        (4.0, Left("a", 1, Tally(40, 40, True, 100, step_s=1.2))), (5.0, start(2, ON_A100)), (5.0, Began("a", 2)),
    )  # fmt: skip
    for seen, step_s in ((Tally(41, 40, True, 100), 1.2 * 3.0), (Tally(60, 40, True, 100, 3.3), 3.3)):
        (job,) = world_of(books, FLEET, Sight(None, {"a": seen}), NOW + 6 * HOUR_S).jobs
        assert steps_left_h(job, PLANS[1]) == pytest.approx((100 - seen.step) * step_s / HOUR_S)


def test_a_team_has_spent_what_was_counted_and_what_its_runs_have_spent_since() -> None:
    books = played(
        (0.0, start(1, ON_H100)), (0.0, Began("a", 1)), (0.0, Tallied("a", Tally(gpu_s=60.0, usd=30.0)))
    )
    world = world_of(books, FLEET, Sight(None, {"a": Tally(usd=42.0), "b": Tally(usd=9.0)}), NOW)
    assert world.teams[0].spent_usd == pytest.approx(42.0)


def test_a_team_runs_until_its_month_is_nearly_spent_and_goes_on_in_the_next(tmp_path: Path) -> None:
    cluster, tick_usd = FakeCluster(tmp_path, nodes=2, seed=1), 8 * 10 / 1800
    daemon = cluster.daemon()

    def budget(limit_usd: float) -> None:
        cluster.fleet = replace(cluster.fleet, teams=(Team("nlp", usd_per_month=limit_usd), Team("cv")))

    def played_until(over: Callable[[], bool]) -> None:
        for _ in range(1000):
            if over():
                return
            daemon.step()
            cluster.tick()
        raise AssertionError({key: cluster.state(key) for key in cluster.runs})

    def spent_usd() -> float:
        return sum(run.gpu_s / 1800 for run in cluster.runs.values())

    budget(20.0)
    cluster.submit("worthy", 8, 200, usd_per_hour=50.0)
    cluster.submit("other", 8, 200)
    played_until(lambda: all(run.alive is not None for run in cluster.runs.values()))
    budget(5.0)
    played_until(lambda: cluster.state("other") is JobState.STOPPING)
    assert cluster.state("worthy") is JobState.RUNNING, "the worthier goes on for a while"
    played_until(lambda: cluster.state("worthy") is JobState.QUEUED)
    for _ in range(20):
        daemon.step()
        cluster.tick()
    assert 5.0 - 10 * tick_usd < spent_usd() < 5.0 + 3 * tick_usd, "a stop of the script takes three ticks"
    assert {cluster.state(key) for key in cluster.runs} == {JobState.QUEUED}
    assert [run.starts for run in cluster.runs.values()] == [1, 1]
    cluster.now += 32 * 86_400.0
    budget(30.0)
    played_until(lambda: all(run.finished for run in cluster.runs.values()))
    assert [run.starts for run in cluster.runs.values()] == [2, 2]


def test_a_stop_for_money_is_none_for_others() -> None:
    for cause, counted in ((StopCause.BUDGET, 0), (StopCause.WORTH, 1)):
        stopped = StopMeant("a", 1, cause, 1.0, 0.0, ())
        books = played(
            (0.0, start(1, ON_H100)), (0.0, Began("a", 1)), (4.0, stopped), (4.0, Left("a", 1, Tally()))
        )
        job = books.jobs["a"].job
        assert (job.state, job.preemptions) == (JobState.QUEUED, counted)


def test_the_page_adds_up_what_is_known_and_says_of_how_many_it_is_not() -> None:
    class Job(SimpleNamespace):
        why = starts = deadline_unix_s = None
        gpus, ends = 1, object()

    queue = SimpleNamespace(
        jobs=[Job(to_come_usd=5.0), Job(to_come_usd=None), Job(to_come_usd=7.0)], pools=[]
    )
    figures = _figures(SimpleNamespace(queue=queue, quotas=[], now=NOW))  # type: ignore[arg-type]
    assert ("to come, and of 1 job nobody knows", "$12.00") in figures


def test_futures_are_fewer_for_many_jobs_and_never_too_few_for_a_range_of_eight_in_ten() -> None:
    assert [futures_for(jobs) for jobs in (0, 1, 300, 600, 960, 3_000, 10**6)] == [16, 16, 16, 8, 5, 5, 5]


def test_a_weight_that_counts_for_nothing_is_told(tmp_path: Path) -> None:
    text = "pools: {h100: {nodes: 1, gpus_per_node: 8}}\nteams: {nlp: {weight: 2}, cv: {weight: 1}}\n"
    (tmp_path / "fleet.yaml").write_text(text)
    (remark,) = read_fleet_file(tmp_path).remarks(NOW)
    assert "teams.nlp.weight: counts only with policy.fair, which is 0; write 'policy: {fair: 1}'" in remark
    (tmp_path / "fleet.yaml").write_text(text + "policy: {fair: 1}\n")
    assert read_fleet_file(tmp_path).remarks(NOW) == []


@pytest.mark.parametrize("key", ["site: s1", "parent: x"])
def test_what_said_nothing_is_no_key_any_more(tmp_path: Path, key: str) -> None:
    pool, team = (key, "") if key.startswith("site") else ("labels: {}", key)
    (tmp_path / "fleet.yaml").write_text(
        f"pools: {{h100: {{nodes: 1, gpus_per_node: 8, {pool}}}}}\nteams: {{nlp: {{{team}}}}}\n"
    )
    with pytest.raises(ConfigError, match="there is no such key"):
        read_fleet_file(tmp_path)


def test_what_an_earlier_version_wrote_of_teams_and_pools_can_be_read() -> None:
    assert made(Team, {"name": "nlp", "parent": ""}) == Team("nlp")
    assert made(Pool, {"name": "p", "nodes": 1, "gpus_per_node": 8, "site": ""}) == Pool("p", 1, 8)
    with pytest.raises(PaperError, match="Team has no site"):
        made(Team, {"name": "nlp", "site": ""})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(folder: Path, limit_usd: float, *facts: Fact) -> None:
    (folder / "runs" / "fleet.yaml").write_text(
        "pools: {big: {nodes: 4, gpus_per_node: 8, words: [cluster=dgx_h100]}}\n"
        f"teams: {{cv: {{usd_per_month: {limit_usd}}}}}\n"
    )
    with Store(folder / "runs" / "fleet") as store:
        store.write("ada", time.time(), lambda _books: facts)


RUNS = (
    Submitted(JobSpec("a", "cv", (PoolPlan("big", 8, 100.0),)), "a", "/"),
    StartMeant("a", 1, Placement("big", (0,), (8,)), StartCause.WORTH, 1.0),
    Began("a", 1),
)


@pytest.mark.parametrize(
    ("spent_usd", "limit_usd", "said"),
    [
        (79.0, 100.0, ""),
        (
            81.0,
            100.0,
            "cv has spent $81.00 of its $100.00 of this month (81%): before that is passed its jobs",
        ),
        (101.0, 100.0, "cv has spent its budget of this month: nothing of it starts before "),
        (0.0, 0.0, "cv has no budget: nothing of it starts"),
    ],
)
def test_a_month_that_is_nearly_spent_is_warned_of(
    folder: Path, capsys: pytest.CaptureFixture[str], spent_usd: float, limit_usd: float, said: str
) -> None:
    written(folder, limit_usd, *RUNS, Tallied("a", Tally(gpu_s=3600.0, usd=spent_usd)))
    for verb in ("queue", "quota"):
        assert main([verb]) == 0
        out = " ".join(capsys.readouterr().out.split())
        if verb == "queue":
            assert said in out
        if not said:
            assert "budget" not in out
            assert "of this month" not in out
        elif verb == "quota":
            assert "cv has" in out


def test_one_that_stops_for_its_teams_month_says_so(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(folder, 100.0, *RUNS, StopMeant("a", 1, StopCause.BUDGET, 0.1, 0.0, ()))
    assert main(["queue", "--why", "a"]) == 0
    assert "It saves and leaves for the budget of its team's month." in capsys.readouterr().out


def test_a_job_of_a_team_without_a_budget_is_refused_with_what_to_write(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written(folder, 0.0)
    assert main(["submit", "team=cv", "job=llama3_8b", "job.steps=2000"]) == 2
    said = capsys.readouterr().err
    assert "team=cv: has no budget: teams.cv.usd_per_month in " in said
    assert "is 0; raise it, or leave it out" in said


def test_a_penalty_without_a_deadline_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(folder, 1e6)
    assert main(["submit", "team=cv", "penalty_usd=50", "job=llama3_8b", "job.steps=2000"]) == 2
    assert (
        "penalty_usd=50: is lost when a deadline is missed, and there is none; give"
        in capsys.readouterr().err
    )


def test_submit_without_a_forecast_asks_for_none(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    written(folder, 1e6)

    def asked(*_: object) -> None:
        raise OrchestratorError("a forecast was asked for")

    monkeypatch.setattr(QueueView, "outlooks", asked)
    words = ["submit", "team=cv", "key=n", "deadline=1h", "job=llama3_8b", "job.steps=2000"]
    assert main([*words, "--no-forecast"]) == 0
    said = capsys.readouterr().out
    assert "n is in the queue" in said
    assert "ends" not in said
    assert main([*words, "--no-forecast", "--dry-run"]) == 2
    assert "--no-forecast: --dry-run does nothing but to forecast" in capsys.readouterr().err
    assert main([word.replace("key=n", "key=m") for word in words]) != 0


def test_a_job_of_which_nobody_knows_for_how_long_has_no_dollars_to_come(folder: Path) -> None:
    unknown = replace(RUNS[0].spec, plans=(PoolPlan("big", 8, None),))  # type: ignore[attr-defined]
    written(folder, 1e6, Submitted(unknown, "a", "/"))
    with Store(folder / "runs" / "fleet") as store:
        (job,) = QueueView(
            store.read(), read_fleet_file(folder / "runs"), folder / "runs", time.time(), None
        ).jobs()
    assert job.ends is not None
    assert job.to_come_usd is None
