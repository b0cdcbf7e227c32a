"""The daemon with scripted drivers and a fake clock: whatever is killed, no job is lost, and none runs
twice."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.dispatch.daemon import Daemon
from orchestrator.dispatch.facts import CancelAsked, HeldBack, LetGo, StartMeant
from orchestrator.dispatch.reconcile import MOST_LOSSES
from orchestrator.dispatch.replay import replay_of
from orchestrator.dispatch.store import Deposed
from orchestrator.errors import ConfigError
from orchestrator.fleet.jobs import ENDED, JobState
from orchestrator.fleet.pools import CapacityChange
from tests.support.dispatch_world import Crash, FakeCluster

_MOST_TICKS = 3000


def played(cluster: FakeCluster, daemon: Daemon, ticks: int) -> Daemon:
    """So many looks, with a new daemon wherever one is killed."""
    for _ in range(ticks):
        try:
            daemon.step()
        except Crash:
            daemon.store.close()
            daemon = reborn(cluster)
        cluster.tick()
    return daemon


def reborn(cluster: FakeCluster) -> Daemon:
    while True:
        try:
            return cluster.daemon()
        except Crash:
            continue


def until_over(cluster: FakeCluster, daemon: Daemon) -> None:
    for _ in range(_MOST_TICKS):
        if all(cluster.state(key) in ENDED for key in cluster.runs):
            return
        daemon = played(cluster, daemon, 1)
    raise AssertionError({key: cluster.state(key) for key in cluster.runs})


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32 - 1))
def test_whatever_is_killed_no_job_is_lost_and_none_runs_twice(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    dice = random.Random(seed)
    cluster = FakeCluster(tmp_path_factory.mktemp("fleet"), nodes=2, seed=seed, odds=0.03)
    daemon = reborn(cluster)
    saved: dict[str, int] = {}
    for number in range(6):
        gpus = dice.choice((1, 4, 8, 16))
        usd = dice.choice((1.0, 10.0, 1000.0))
        cluster.submit(f"job-{number}", gpus, dice.randrange(3, 30), usd_per_hour=usd)
        for _ in range(dice.randrange(10)):
            daemon = played(cluster, daemon, 1)
            if dice.random() < 0.1:
                cluster.kill(f"job-{dice.randrange(number + 1)}")
            for key, run in cluster.runs.items():
                assert run.step >= saved.get(key, 0), "worse than its last saved step"
                saved[key] = run.saved
    until_over(cluster, daemon)
    assert {cluster.state(key) for key in cluster.runs} == {JobState.FINISHED}
    assert all(run.step == run.steps for run in cluster.runs.values())
    rows = cluster.looks.rows()
    cluster.looks.rebuild()
    assert cluster.looks.rows() == rows
    again = replay_of(cluster.looks.facts())
    assert again.decisions >= len(cluster.runs) / 2
    assert again.differing == []


@pytest.fixture
def cluster(tmp_path: Path) -> FakeCluster:
    return FakeCluster(tmp_path, nodes=2)


def test_who_is_worth_more_gets_the_gpus_of_who_is_worth_less_and_both_finish(cluster: FakeCluster) -> None:
    daemon = cluster.daemon()
    cluster.submit("long", 16, 200, usd_per_hour=1.0)
    daemon = played(cluster, daemon, 20)
    cluster.submit("short", 8, 5, usd_per_hour=1000.0)
    daemon = played(cluster, daemon, 6)
    assert cluster.runs["short"].alive == 1
    books = cluster.looks.read()
    assert books.jobs["long"].for_jobs == ("short",)
    assert books.jobs["short"].paid_usd > 0
    step = cluster.runs["long"].saved
    assert step > 10
    until_over(cluster, daemon)
    assert cluster.runs["long"].starts == 2
    entry = cluster.looks.entry("long")
    assert entry is not None
    assert (entry.job.preemptions, entry.job.state) == (1, JobState.FINISHED)


def test_whose_nodes_are_free_lets_the_next_one_start_before_its_driver_has_ended(
    cluster: FakeCluster,
) -> None:
    daemon = cluster.daemon()
    cluster.submit("long", 16, 200, usd_per_hour=1.0)
    daemon = played(cluster, daemon, 20)
    cluster.submit("short", 8, 5, usd_per_hour=1000.0)
    daemon.step()
    assert daemon.somebody_leaves
    long = cluster.runs["long"]
    long.leaves_in, long.lingers = 0, 1000
    assert not daemon.mind_leaving(), "it has been asked, and nothing follows yet"
    while long.left is None:
        cluster.tick()
    assert daemon.mind_leaving()
    assert not daemon.somebody_leaves
    daemon = played(cluster, daemon, 4)
    assert (cluster.runs["short"].alive, long.alive) == (1, 1)
    assert cluster.state("long") is JobState.STOPPING
    long.lingers = 0
    until_over(cluster, daemon)
    assert (long.starts, long.step) == (2, 200)


def test_the_world_is_weighed_again_as_soon_as_somebody_may_be_stopped(cluster: FakeCluster) -> None:
    daemon = cluster.daemon()
    cluster.submit("long", 16, 200, every=1, usd_per_hour=1.0)
    daemon = played(cluster, daemon, 3)
    cluster.submit("short", 8, 5, usd_per_hour=1000.0)
    while cluster.state("long") is not JobState.RUNNING:
        daemon = played(cluster, daemon, 1)
    entry = cluster.looks.entry("long")
    assert entry is not None
    assert entry.job.started_at is not None
    may_stop_at = entry.job.started_at + 150.0
    while cluster.now < may_stop_at - 11.0:
        daemon = played(cluster, daemon, 1)
    daemon.step()
    for cluster.now in (may_stop_at - 0.5, may_stop_at):
        assert cluster.state("long") is JobState.RUNNING
        daemon.step()
    assert cluster.state("long") is JobState.STOPPING


def test_a_job_is_submitted_while_no_daemon_runs(cluster: FakeCluster) -> None:
    cluster.submit("a", 8, 3)
    until_over(cluster, cluster.daemon())


def test_a_second_daemon_deposes_the_first(cluster: FakeCluster) -> None:
    cluster.submit("a", 8, 3)
    first, second = cluster.daemon(), cluster.daemon()
    with pytest.raises(Deposed):
        played(cluster, first, 5)
    until_over(cluster, second)


def test_who_is_held_leaves_and_goes_on_when_it_is_let_go(cluster: FakeCluster) -> None:
    daemon = played(cluster, _submitted(cluster, "a"), 8)
    cluster.say(HeldBack("a", "later"))
    daemon = played(cluster, daemon, 8)
    assert (cluster.state("a"), cluster.runs["a"].alive) == (JobState.HELD, None)
    cluster.say(LetGo("a"))
    until_over(cluster, daemon)
    assert cluster.state("a") is JobState.FINISHED


def test_who_is_cancelled_saves_and_ends(cluster: FakeCluster) -> None:
    daemon = played(cluster, _submitted(cluster, "a"), 8)
    cluster.say(CancelAsked("a"))
    until_over(cluster, daemon)
    assert cluster.state("a") is JobState.CANCELLED
    assert cluster.runs["a"].saved == cluster.runs["a"].step > 0


def test_who_is_cancelled_on_the_way_never_runs(cluster: FakeCluster) -> None:
    daemon = _submitted(cluster, "a")
    daemon.step()
    cluster.runs["a"].on_the_way = [(1, 2)]
    cluster.say(CancelAsked("a"))
    until_over(cluster, daemon)
    played(cluster, daemon, 5)
    assert cluster.runs["a"].starts == 0


@pytest.mark.parametrize(
    ("code", "state"),
    [(6, JobState.FAILED), (8, JobState.OVER_BUDGET), (3, JobState.FINISHED)],
)
def test_a_driver_that_ends_by_itself_is_believed(cluster: FakeCluster, code: int, state: JobState) -> None:
    cluster.submit("a", 8, 10)
    cluster.runs["a"].code = code
    until_over(cluster, cluster.daemon())
    assert cluster.state("a") is state


def test_a_driver_that_is_lost_again_and_again_is_held_for_somebody_to_look(cluster: FakeCluster) -> None:
    daemon = _submitted(cluster, "a")
    for _ in range(40 * MOST_LOSSES):
        daemon = played(cluster, daemon, 1)
        if cluster.runs["a"].alive is not None:
            daemon.step()
            cluster.runs["a"].saved = 0
            cluster.kill("a")
    entry = cluster.looks.entry("a")
    assert entry is not None
    assert entry.job.state is JobState.HELD
    assert entry.because == f"its driver was lost {MOST_LOSSES + 1} times in a row without a new step"


def test_drivers_that_die_before_they_have_begun_are_started_again_and_their_nodes_are_free_at_last(
    cluster: FakeCluster,
) -> None:
    daemon = _submitted(cluster, "a", gpus=16)
    cluster.runs["a"].dies = MOST_LOSSES
    until_over(cluster, daemon)
    assert (cluster.state("a"), cluster.runs["a"].starts) == (JobState.FINISHED, 1)
    cluster.submit("b", 16, 10, usd_per_hour=9.0)
    cluster.submit("c", 16, 10)
    cluster.runs["b"].dies = 1000
    daemon = played(cluster, daemon, 20 * MOST_LOSSES)
    entry = cluster.looks.entry("b")
    assert entry is not None
    assert (entry.job.state, entry.job.placement) == (JobState.HELD, None)
    assert (
        entry.job.held_because == f"its driver was lost {MOST_LOSSES + 1} times in a row before it had begun"
    )
    assert cluster.state("c") is JobState.FINISHED, "the nodes were free"
    cluster.say(LetGo("b"))
    cluster.runs["b"].dies = 0
    until_over(cluster, daemon)


def test_what_cannot_be_started_until_somebody_mends_it_is_held_and_says_why(cluster: FakeCluster) -> None:
    cluster.submit("a", 16, 10, usd_per_hour=9.0)
    cluster.runs["a"].refused = "/gone, where it was submitted, cannot be entered"
    cluster.submit("b", 16, 10)
    daemon = played(cluster, cluster.daemon(), 3)
    entry = cluster.looks.entry("a")
    assert entry is not None
    assert (entry.job.state, entry.job.placement) == (JobState.HELD, None)
    assert entry.job.held_because == cluster.runs["a"].refused
    cluster.runs["a"].refused = None
    cluster.say(LetGo("a"))
    until_over(cluster, daemon)


def test_nodes_that_are_gone_free_what_ran_there_and_come_back_by_their_host(cluster: FakeCluster) -> None:
    daemon = played(cluster, _submitted(cluster, "a", gpus=16), 8)
    before, cluster.nodes = cluster.nodes, ()
    daemon = played(cluster, daemon, 10)
    assert cluster.state("a") is JobState.QUEUED
    assert before is not None
    cluster.nodes = tuple(replace(node, node_id=f"{node.node_id}-again") for node in reversed(before))
    until_over(cluster, daemon)
    slots = cluster.looks.read().nodes
    assert {at[1]: (slot.host, slot.node_id) for at, slot in slots.items()} == {
        0: ("node0", "id-0-again"),
        1: ("node1", "id-1-again"),
    }


def with_changes(cluster: FakeCluster, *changes: tuple[float, int], nodes: int) -> None:
    """As if the fleet file had been written anew: so many nodes at first, and others so many seconds on."""
    (entry,) = cluster.fleet.pools
    entry = replace(
        entry,
        pool=replace(entry.pool, nodes=nodes),
        changes=tuple(CapacityChange("gpus", count, cluster.now + in_s) for in_s, count in changes),
    )
    cluster.fleet = replace(cluster.fleet, pools=(entry,))


def test_nodes_are_used_from_when_they_come_and_left_when_they_leave(cluster: FakeCluster) -> None:
    with_changes(cluster, (200.0, 1), (500.0, -1), nodes=1)
    daemon = _submitted(cluster, "wide", gpus=16)
    began = cluster.now
    daemon = played(cluster, daemon, 18)
    assert (cluster.state("wide"), cluster.runs["wide"].starts) == (JobState.QUEUED, 0)
    assert set(cluster.looks.read().nodes) == {("gpus", 0)}, "a node that has come too soon waits"
    daemon = played(cluster, daemon, 27)
    assert cluster.state("wide") is JobState.RUNNING
    assert cluster.now < began + 500.0
    daemon = played(cluster, daemon, 12)
    run = cluster.runs["wide"]
    assert (cluster.state("wide"), run.starts, run.alive) == (JobState.QUEUED, 1, None)
    assert run.step == run.saved, "it was asked to save, though the node is still there"
    replay = replay_of(cluster.looks.facts())
    assert replay.decisions >= 2
    assert replay.differing == []


def test_who_cannot_be_stopped_waits_for_nodes_that_stay(cluster: FakeCluster) -> None:
    cluster.submit("there", 8, 20)
    daemon = played(cluster, cluster.daemon(), 4)
    with_changes(cluster, (300.0, -1), nodes=2)
    cluster.submit("long", 8, 60, preemptible=False)
    daemon = played(cluster, daemon, 10)
    assert (cluster.state("there"), cluster.state("long")) == (JobState.RUNNING, JobState.QUEUED)
    until_over(cluster, daemon)
    assert cluster.runs["long"].starts == 1
    (placed,) = [
        fact.placement
        for _, _, fact in cluster.looks.facts()
        if isinstance(fact, StartMeant) and fact.job == "long"
    ]
    assert placed.nodes == (0,)


def test_what_is_past_in_the_fleet_file_is_remarked_when_it_is_read(cluster: FakeCluster) -> None:
    with_changes(cluster, (-60.0, 1), nodes=1)
    played(cluster, _submitted(cluster, "a", gpus=16), 3)
    (said,) = cluster.said
    assert "+1 nodes" in said
    assert "write pools.gpus.nodes=2" in said
    assert cluster.state("a") in (JobState.STARTING, JobState.RUNNING)


def test_a_daemon_that_has_not_heard_of_the_nodes_yet_asks_nobody_to_leave(cluster: FakeCluster) -> None:
    played(cluster, _submitted(cluster, "a", gpus=16), 8)
    before, cluster.nodes = cluster.nodes, None
    daemon = played(cluster, cluster.daemon(), 4)
    assert (cluster.state("a"), cluster.runs["a"].starts) == (JobState.RUNNING, 1)
    cluster.kill("a")
    daemon = played(cluster, daemon, 3)
    assert cluster.state("a") is JobState.QUEUED, "nobody has answered for too long"
    cluster.nodes = before
    until_over(cluster, daemon)
    assert cluster.runs["a"].starts == 2


def test_a_fleet_file_that_is_wrong_is_told_once_and_the_one_before_stays(cluster: FakeCluster) -> None:
    daemon = played(cluster, _submitted(cluster, "a"), 3)

    def refuse() -> None:
        raise ConfigError("fleet.yaml: pools: no")

    good, daemon.read_fleet = daemon.read_fleet, refuse  # type: ignore[assignment]
    played(cluster, daemon, 5)
    daemon.read_fleet = good
    until_over(cluster, daemon)
    assert cluster.said == [
        "fleet.yaml: pools: no; going on with what it said before",
        f"{cluster.fleet.path}: can be read again",
    ]


def _submitted(cluster: FakeCluster, key: str, gpus: int = 8) -> Daemon:
    cluster.submit(key, gpus, 40)
    return cluster.daemon()
