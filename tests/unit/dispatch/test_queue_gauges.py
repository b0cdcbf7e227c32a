"""What the queue's gauges say, from the daemon's books to the process that shows them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.dispatch.daemon import Daemon
from orchestrator.dispatch.facts import HeldBack, NodeDrained
from orchestrator.dispatch.queue_gauges import queue_values, read_gauges, write_gauges
from orchestrator.fleet.teams import Team
from orchestrator.ledger.monitoring.gauges import GAUGES, QUEUE_GAUGES, Series
from tests.support.dispatch_world import FakeCluster

NLP, CV = Team("nlp", (("gpus", 8),), usd_per_month=1000.0), Team("cv")


@pytest.fixture
def cluster(tmp_path: Path) -> FakeCluster:
    one = FakeCluster(tmp_path, nodes=2)
    one.fleet = replace(one.fleet, teams=(NLP, CV))
    return one


def told(cluster: FakeCluster, named: bool = True) -> dict[Series, float]:
    return queue_values(cluster.looks.read(), cluster.fleet, cluster.nodes, cluster.now, named)


def of(values: dict[Series, float], name: str) -> dict[tuple[str, ...], float]:
    """The lines that are not 0."""
    return {
        series.more: value
        for series, value in values.items()
        if series.name == f"orchestrator_queue_{name}" and value
    }


def played(cluster: FakeCluster, daemon: Daemon, ticks: int = 6) -> None:
    for _ in range(ticks):
        daemon.step()
        cluster.tick()


def test_every_gauge_of_the_queue_has_its_lines_from_the_start(cluster: FakeCluster) -> None:
    values = told(cluster)
    assert {series.name for series in values} == {gauge.name for gauge in QUEUE_GAUGES}
    assert all(len(series.more) == len(GAUGES[series.name].more) for series in values)
    assert len([series for series in values if series.name == "orchestrator_queue_jobs"]) == 2 * 5


def test_who_runs_who_waits_and_what_each_team_has(cluster: FakeCluster) -> None:
    cluster.submit("a", 16, 40, usd_per_hour=1000.0)
    daemon = cluster.daemon()
    played(cluster, daemon, 3)
    cluster.submit("b", 8, 40, team="cv")
    cluster.submit("c", 8, 40, team="cv")
    cluster.say(HeldBack("c", "later"))
    played(cluster, daemon)
    values = told(cluster)
    assert of(values, "jobs") == {("nlp", "running"): 1, ("cv", "queued"): 1, ("cv", "held"): 1}
    assert of(values, "gpus") == {("nlp", "gpus"): 16}
    assert of(values, "gpus_waiting") == {("cv", "gpus"): 8}, "who is held waits for nothing"
    assert of(values, "quota_gpus") == {("nlp", "gpus"): 8}
    assert of(values, "cost_usd_per_hour") == {
        ("nlp", "gpus"): 16 * cluster.fleet.pools[0].pool.usd_per_gpu_hour
    }
    assert of(values, "month_limit_usd") == {("nlp",): 1000}
    assert of(values, "longest_wait_s") == {(): 60.0}
    assert of(values, "nodes") == {("gpus", "up"): 2}
    assert of(values, "pool_gpus") == {("gpus",): 16}


def test_nodes_that_are_gone_or_drained_have_no_gpus(cluster: FakeCluster) -> None:
    played(cluster, cluster.daemon(), 1)
    cluster.say(NodeDrained("node0"))
    values = told(cluster)
    assert of(values, "nodes") == {("gpus", "up"): 1, ("gpus", "draining"): 1}
    assert of(values, "pool_gpus") == {("gpus",): 8}
    cluster.nodes = None
    assert of(told(cluster), "nodes") == {("gpus", "down"): 2}


def test_where_everybody_reads_them_teams_and_pools_have_numbers(cluster: FakeCluster) -> None:
    cluster.submit("a", 8, 40, team="cv")
    values = told(cluster, named=False)
    assert of(values, "jobs") == {("2", "queued"): 1}
    assert of(values, "gpus_waiting") == {("2", "1"): 8}
    words = {word for series in values for word in series.more}
    assert not words & {"nlp", "cv", "gpus"}


def test_without_teams_everybody_is_one(cluster: FakeCluster) -> None:
    cluster.fleet = replace(cluster.fleet, teams=())
    cluster.submit("a", 8, 40, team="")
    assert of(told(cluster), "jobs") == {("everybody", "queued"): 1}


def test_a_team_that_left_the_file_is_told_while_it_has_jobs(cluster: FakeCluster) -> None:
    cluster.submit("a", 8, 40, team="cv")
    cluster.fleet = replace(cluster.fleet, teams=(NLP,))
    assert of(told(cluster), "jobs") == {("cv", "queued"): 1}


def test_what_is_written_is_what_is_read_until_it_is_old(cluster: FakeCluster, tmp_path: Path) -> None:
    values = told(cluster)
    write_gauges(tmp_path, values, cluster.now)
    assert read_gauges(tmp_path, cluster.now + 10) == values
    assert read_gauges(tmp_path, cluster.now + 60) == {}, "a daemon that is gone says nothing"


@pytest.mark.parametrize(
    "text", ["", "[]", '{"at_unix_s": 1, "values": 3}', '{"at_unix_s": 1, "values": [[1]]}']
)
def test_what_is_no_paper_of_the_daemon_is_told_as_nothing(text: str, tmp_path: Path) -> None:
    (tmp_path / "gauges.json").write_text(text)
    assert read_gauges(tmp_path, 1.0) == {}
