"""A node that a check or a run has found bad gets no job of the queue, until it is well or forgiven."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.cli.show.queue_table import pool_line
from orchestrator.dispatch.daemon import Daemon
from orchestrator.dispatch.facts import NodeDrained
from orchestrator.dispatch.noted_nodes import NotedNodes
from orchestrator.dispatch.queue_gauges import queue_values
from orchestrator.dispatch.queue_view import QueueView
from orchestrator.dispatch.replay import replay_of
from orchestrator.fleet.jobs import JobState
from orchestrator.ledger.monitoring.gauges import Series
from orchestrator.ledger.node_notes import FILE, NodeNote, NoteKind, add, forgiven
from tests.support.dispatch_world import FakeCluster


class Noted:
    """A cluster of two nodes, and what is found of them."""

    def __init__(self, folder: Path, nodes: int = 2) -> None:
        self.cluster, self.run_root = FakeCluster(folder, nodes), folder
        self.seen = NotedNodes(folder, lambda: self.cluster.nodes, self.cluster.said.append)
        self.daemon: Daemon = replace(self.cluster.daemon(), nodes=self.seen.nodes)

    def note(self, host: str, kind: NoteKind = NoteKind.BAD, by: str = "check") -> None:
        add(self.run_root, [NodeNote(host, self.cluster.now, kind, by, "HBM", "42 GB/s")])

    def step(self, looks: int = 4) -> None:
        for _ in range(looks):
            self.daemon.step()
            self.cluster.tick()

    def hosts_of(self, key: str) -> list[int]:
        entry = self.cluster.looks.entry(key)
        assert entry is not None
        return [] if entry.job.placement is None else list(entry.job.placement.nodes)


def test_nothing_starts_on_a_bad_node_and_what_runs_there_may_end(tmp_path: Path) -> None:
    here = Noted(tmp_path)
    here.cluster.submit("before", 8, steps=1000)
    here.step()
    assert here.hosts_of("before") == [0]
    here.note("node0")
    here.cluster.submit("after", 8, steps=1000)
    here.cluster.submit("waits", 8, steps=1000)
    here.step()
    assert here.hosts_of("before") == [0]
    assert here.hosts_of("after") == [1]
    here.cluster.runs["before"].steps = here.cluster.runs["before"].step + 1
    here.step(8)
    assert here.cluster.state("before") is JobState.FINISHED
    assert here.hosts_of("waits") == []
    add(tmp_path, [forgiven("node0", "ada")])
    here.step()
    assert here.hosts_of("waits") == [0]
    assert here.cluster.said == [
        "node0: nothing more starts there, for what was found of it (HBM: 42 GB/s); mend it, and type"
        f" 'orchestrator nodes --forgive node0 run_root={tmp_path}'",
        "node0: is used again",
    ]
    replay = replay_of(here.cluster.looks.facts())
    assert (replay.decisions, replay.differing) == (3, [])


def test_a_job_that_leaves_as_its_node_is_bad_goes_to_another(tmp_path: Path) -> None:
    here = Noted(tmp_path)
    here.cluster.submit("a", 8, steps=1000)
    here.cluster.runs["a"].code = 3
    here.step(1)
    assert here.hosts_of("a") == [0]
    here.note("node0")  # by its preflight
    here.step(12)
    assert (here.cluster.state("a"), here.hosts_of("a")) == (JobState.RUNNING, [1])
    assert here.cluster.runs["a"].starts == 2


def test_a_person_sees_which_nodes_are_bad(tmp_path: Path) -> None:
    here = Noted(tmp_path, 3)
    here.step(1)
    here.note("node2")
    here.cluster.say(NodeDrained("node0"))
    here.step(1)
    books, fleet, now = here.cluster.looks.read(), here.cluster.fleet, here.cluster.now
    view = QueueView(books, fleet, tmp_path, now, here.seen.nodes())
    (pool,) = view.pools()
    assert (pool.drained, pool.bad) == ([0, 2], [2])
    said = "3 nodes; drained: node 0; found bad: node 2 ('orchestrator nodes' says why)"
    assert pool_line(pool, now).endswith(said)
    gauges = queue_values(books, fleet, here.seen.nodes(), now, named=True)
    assert gauges[Series("orchestrator_queue_nodes", ("gpus", "draining"))] == 2.0
    assert gauges[Series("orchestrator_queue_pool_gpus", ("gpus",))] == 8.0


def test_without_a_cluster_or_notes_nothing_is_added(tmp_path: Path) -> None:
    here = Noted(tmp_path)
    assert here.seen.nodes() == here.cluster.nodes
    here.note("elsewhere")
    assert here.seen.nodes() == here.cluster.nodes
    here.cluster.nodes = None
    assert here.seen.nodes() is None
    assert here.cluster.said == []


@pytest.mark.parametrize("what", ["fifo", "folder"])
def test_notes_that_cannot_be_read_are_told_once_and_those_before_stay(tmp_path: Path, what: str) -> None:
    here = Noted(tmp_path)
    here.note("node0")
    before = here.seen.nodes()
    assert before is not None
    assert [node.avoided for node in before] == [True, False]
    (tmp_path / FILE).unlink()
    (os.mkfifo if what == "fifo" else os.mkdir)(tmp_path / FILE)
    here.cluster.said.clear()
    assert here.seen.nodes() == here.seen.nodes() == before
    assert len(here.cluster.said) == 1
    assert here.cluster.said[0].startswith(f"{tmp_path / FILE}: ")
