"""The queue in the hand of a program, and a sweep that is submitted: the same code as the verbs."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

import orchestrator as orc
from orchestrator.cli.cli import main
from orchestrator.dispatch.facts import Began, Changed, Ended, NodeBound, StartMeant, Tally
from orchestrator.dispatch.store import Store
from orchestrator.fleet.decisions import StartCause
from orchestrator.fleet.jobs import JobState, Placement

FLEET = """
pools:
  cpus: {nodes: 2, gpus_per_node: 2, resource: CPU, words: [gpu=cpu]}
teams: {nlp: {quota: {cpus: 2}}, cv: {}}
classes: {batch: {default: true}, product: {usd_per_hour: 100}}
"""
ONE = ["job=tiny_gpt", "cluster.gpus_per_node=1"]


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "fleet.yaml").write_text(FLEET)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


def test_a_job_in_the_hand_of_a_program(runs: Path) -> None:
    queue = orc.queue(runs)
    assert not queue.is_led
    assert queue.outlook(*ONE, team="nlp", key="a").plans[0].gpus == 1
    assert queue.jobs() == []
    due = datetime.now() + timedelta(days=2)
    done = orc.submit(*ONE, run_root=runs, team="nlp", key="a", deadline=due, pools="cpus")
    assert (done.key, done.is_new, done.state) == ("a", True, "queued")
    again = queue.submit(*ONE, team="nlp", key="a", deadline=due)
    with pytest.raises(orc.ConfigError, match="and this says deadline=none; say the same, or choose another"):
        queue.submit(*ONE, team="nlp", key="a")
    assert (again.is_new, again.outlook, again.submitted_unix_s) == (False, None, done.submitted_unix_s)
    (job,) = queue.jobs()
    assert (job.team, job.job_class, job.deadline_unix_s) == ("nlp", "batch", due.timestamp())
    (moved,) = queue.move("a", job_class="product")
    assert (moved.key, queue.job("a").usd_per_hour) == ("a", 100.0)
    assert [(one.key, one.leaves_first) for one in queue.hold("a")] == [("a", False)]
    assert queue.job("a").state == "held"
    queue.release("a")
    with pytest.raises(TimeoutError, match=r"a: has not ended after 0 s \(queued\)"):
        queue.wait("a", timeout_s=0)
    with Store(runs / "fleet") as store:
        here = Placement("cpus", (0,), (1,))
        facts = [
            NodeBound("cpus", 0, "id-0", "node0"), StartMeant("a", 1, here, StartCause.WORTH, 1.0), Began("a", 1),
        ]  # fmt: skip
        store.write("daemon", 1.0, lambda _books: facts)
        assert queue.job("a").hosts == ["node0"]
        queue.drain("node0")
        assert [pool.drained for pool in queue.now().pools] == [[0]]
        queue.drain("node0", off=True)
        store.write("daemon", 2.0, lambda _books: [Ended("a", 1, JobState.FINISHED, Tally(step=7, usd=1.5))])
    over = queue.wait("a")
    assert (over.state, over.step, over.spent_usd, over.ended_unix_s) == ("finished", 7, 1.5, 2.0)
    assert [row.team for row in queue.quotas()] == ["nlp"]


def test_nodes_are_reserved_by_a_program(runs: Path) -> None:
    queue = orc.queue(runs)
    start = datetime.now() + timedelta(hours=1)
    made = queue.reserve(1, "2h", team="cv", start=start, why="demo")
    assert queue.reservations() == [made]
    assert (made.name, made.pool, made.nodes, made.team) == ("r1", "cpus", 1, "cv")
    assert made.until_unix_s - made.from_unix_s == pytest.approx(7200.0, abs=1.0)
    queue.end_reservation("r1")
    assert queue.reservations() == []


def test_a_pool_that_is_to_change_is_told_forecast_and_reserved_as_it_will_be(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    coming, leaving = (datetime.now() + timedelta(days=days) for days in (8, 9))
    changes = (
        f"changes: [{{at: {coming:%Y-%m-%d %H:%M}, nodes: +1}},"
        f" {{at: {leaving:%Y-%m-%d %H:%M}, nodes: -2, why: a new floor}}]"
    )
    (runs / "fleet.yaml").write_text(FLEET.replace("nodes: 2,", f"nodes: 2, {changes},"))
    queue = orc.queue(runs)
    (pool,) = queue.now().pools
    assert (pool.nodes, pool.most_nodes) == (2, 3)
    assert [(one.nodes, one.numbers, one.why) for one in pool.changes] == [
        (1, [], ""), (-2, [1, 2], "a new floor"),
    ]  # fmt: skip
    three = ["job=tiny_gpt", "cluster.nodes=3", "cluster.gpus_per_node=2", "cluster.hypothetical=true"]
    starts = queue.outlook(*three, team="nlp").starts
    assert starts is not None
    assert starts.low_unix_s == pytest.approx(coming.timestamp(), abs=61.0)
    with pytest.raises(orc.ConfigError, match=r"the largest that fits is cluster\.nodes=3"):
        queue.outlook(*[word.replace("=3", "=4") for word in three], team="nlp")
    between = coming + timedelta(hours=2)
    assert queue.reserve(3, "2h", team="cv", start=between).nodes == 3
    queue.end_reservation("r1")
    with pytest.raises(orc.ConfigError, match="has to be a number from 1 to 2, those of cpus then"):
        queue.reserve(3, "2h", team="cv")
    with pytest.raises(orc.ConfigError, match="has to be a number from 1 to 1, those of cpus then"):
        queue.reserve(2, "3d", team="cv", start=between)
    assert main(["queue", f"run_root={runs}"]) == 0
    said = capsys.readouterr().out
    assert "it gets 1 node;" in said
    assert "it loses 2 nodes (1–2), a new floor" in said


@pytest.mark.parametrize(("days", "leaves"), [(1, True), (60, False)])
def test_who_runs_on_a_node_that_leaves_before_its_end_is_told(
    runs: Path, capsys: pytest.CaptureFixture[str], days: int, leaves: bool
) -> None:
    queue = orc.queue(runs)
    queue.submit(*ONE, team="nlp", key="a")
    at = datetime.now() + timedelta(days=days)
    changes = f"changes: [{{at: {at:%Y-%m-%d %H:%M}, nodes: -1}}]"
    (runs / "fleet.yaml").write_text(FLEET.replace("nodes: 2,", f"nodes: 2, {changes},"))
    with Store(runs / "fleet") as store:
        spec = store.read().jobs["a"].job.spec
        ten_days = replace(spec, plans=(replace(spec.plans[0], hours=240.0),), preemptible=False)
        there = Placement("cpus", (1,), (1,))
        store.write("daemon", time.time(), lambda _books: [
            Changed(ten_days), NodeBound("cpus", 1, "id", "node1"),
            StartMeant("a", 1, there, StartCause.WORTH, 1.0), Began("a", 1),
        ])  # fmt: skip
    assert (queue.job("a").nodes_leave_unix_s is not None) is leaves
    assert main(["queue", f"run_root={runs}", "--why", "a"]) == 0
    assert ("Nodes of it leave" in capsys.readouterr().out) is leaves


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda queue: queue.submit(*ONE, team="nlpp"), "team='nlpp': there is no such team; did you mean"),
        (lambda queue: queue.submit(*ONE, team="nlp", usd_per_hour=-1.0), "usd_per_hour='-1.0': has to be"),
        (lambda queue: queue.submit_sweep(ONE, {"job.seed": []}, team="nlp"), "a key has no value"),
        (lambda queue: queue.cancel("x"), "x: no such job in the queue; 'queue' lists them"),
        (lambda queue: queue.drain("x"), "drain x: no such node; the daemon has seen none yet"),
        (lambda queue: queue.reserve(1, "1h"), "reserve: for whom? say team= or job="),
        (lambda queue: queue.end_reservation("x"), "name='x': no such reservation; there is none"),
        (lambda _queue: orc.queue("nowhere"), "fleet.yaml: is not there"),
    ],
)
def test_what_cannot_be_is_refused_as_the_verbs_refuse_it(runs: Path, call: object, said: str) -> None:
    with pytest.raises(orc.ConfigError) as refused:
        call(orc.queue(runs))  # type: ignore[operator]
    assert said in str(refused.value)
    assert orc.queue(runs).jobs() == []


def test_a_sweep_is_a_group_of_jobs_that_is_held_moved_and_cancelled_as_one(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["submit", "team=nlp", "-m", "key=rates", *ONE, "job.args.lr=1e-3,2e-3", "+job.args.note='a,b'"]
    assert main([*words, "--json"]) == 0
    assert [one["key"] for one in json.loads(capsys.readouterr().out)] == ["rates-1", "rates-2"]
    assert main(words) == 0
    assert "rates-2 is in the queue already" in capsys.readouterr().out
    with Store(runs / "fleet") as store:
        found = [store.entry(key) for key in ("rates-1", "rates-2")]
    args = [orc.compose(*one.job.spec.overrides).job.args for one in found if one is not None]
    assert [(one["lr"], one["note"]) for one in args] == [(0.001, "a,b"), (0.002, "a,b")]
    queue = orc.queue(runs)
    assert {job.group for job in queue.jobs()} == {"rates"}
    assert [one.key for one in queue.hold("rates")] == ["rates-1", "rates-2"]
    assert main(["hold", "rates", "--off"]) == 0
    assert {one.key for one in queue.move("rates", job_class="product")} == {"rates-1", "rates-2"}
    queue.cancel("rates-1")
    assert [one.key for one in queue.cancel("rates")] == ["rates-2"]
    assert queue.jobs() == []
    assert not list(runs.parent.glob("multirun*"))


def test_one_point_that_cannot_be_keeps_all_others_out(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    queue = orc.queue(runs)
    with pytest.raises(orc.ConfigError, match=r"cluster\.gpus_per_node is 5, and pool cpus has 4"):
        queue.submit_sweep(["job=tiny_gpt"], {"cluster.gpus_per_node": [1, 5]}, team="nlp")
    assert queue.jobs() == []
    points = queue.submit_sweep(["job=tiny_gpt"], {"cluster.gpus_per_node": [1, 2]}, team="nlp", after=())
    group = queue.jobs()[0].group
    assert [one.key for one in points] == [f"{group}-1", f"{group}-2"]
    assert [one.plans[0].gpus for one in (point.outlook for point in points) if one] == [1, 2]
