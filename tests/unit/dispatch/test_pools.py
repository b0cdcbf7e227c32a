"""Several pools, each a Ray of its own: which plan is chosen, which node belongs where, and what is not known
yet."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.dispatch.books import Books
from orchestrator.dispatch.clusters_reader import ClustersReader
from orchestrator.dispatch.facts import Ended, NodeBound, StartMeant, Submitted, Tally
from orchestrator.dispatch.fleet_file import FleetFile, read_fleet_file
from orchestrator.dispatch.nodes_reader import NodesReader
from orchestrator.dispatch.queue_view import QueueView
from orchestrator.dispatch.reconcile import next_action
from orchestrator.dispatch.seen import Presence, SeenNode
from orchestrator.dispatch.store import Store
from orchestrator.dispatch.world import bindings
from orchestrator.errors import ConfigError
from orchestrator.fleet.decisions import StartCause
from orchestrator.fleet.jobs import JobSpec, JobState, Placement, PoolPlan
from tests.support.dispatch_world import FakeCluster

FLEET = """
ray_address: "10.0.0.1:6379"
pools:
  h100: {nodes: 2, gpus_per_node: 8, usd_per_gpu_hour: 2.5}
  a100: {nodes: 2, gpus_per_node: 8, usd_per_gpu_hour: 1.1, ray_address: "10.0.0.2:6379", token_file: a.token}
"""
DEAR, CHEAP = PoolPlan("h100", 8, 4.0, usd=80.0), PoolPlan("a100", 8, 9.0, usd=79.2)


@pytest.fixture
def fleet(tmp_path: Path) -> FleetFile:
    (tmp_path / "fleet.yaml").write_text(FLEET)
    return read_fleet_file(tmp_path)


def test_each_pool_has_its_ray_and_its_token(fleet: FleetFile, tmp_path: Path) -> None:
    assert fleet.clusters == {"10.0.0.1:6379": "", "10.0.0.2:6379": str(tmp_path / "a.token")}


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ('"10.0.0.2:6379"', "10.0.0.2", "pools.a100.ray_address: '10.0.0.2' is no HOST:PORT; leave it out"),
        ('"10.0.0.2:6379"', '"x:99999"', "pools.a100.ray_address: 'x:99999' is no HOST:PORT"),
        ('"10.0.0.2:6379"', '"10.0.0.1:6379"', "pools.a100.token_file: "),
        ("a.token", "[1]", "pools.a100.token_file: a list of 1 is no path of a file that has a token"),
    ],
)
def test_what_is_no_address_or_token_is_refused(tmp_path: Path, before: str, after: str, said: str) -> None:
    (tmp_path / "fleet.yaml").write_text(FLEET.replace(before, after))
    with pytest.raises(ConfigError) as refused:
        read_fleet_file(tmp_path)
    assert said in str(refused.value)


def test_the_cheapest_pool_is_chosen_that_meets_the_deadline(fleet: FleetFile, tmp_path: Path) -> None:
    now = time.time()
    view = QueueView(Books(), fleet, tmp_path, now, None)
    job = JobSpec("a", "", (DEAR, CHEAP))
    cheap = view.outlook(job)
    assert [plan.pool for plan in cheap.plans] == ["a100", "h100"]
    soon = view.outlook(replace(job, deadline_at=now + 6 * 3600.0))
    assert [(plan.pool, plan.meets_deadline) for plan in soon.plans] == [("h100", True), ("a100", False)]
    assert soon.ends is not None
    assert soon.ends.at_unix_s is not None
    assert soon.ends.at_unix_s < now + 6 * 3600.0


def test_a_node_is_of_the_pool_of_its_own_ray(fleet: FleetFile) -> None:
    nodes = [
        SeenNode(f"id-{cluster}", f"host-{cluster}", 96.0, 8.0, cluster=cluster) for cluster in fleet.clusters
    ]
    assert [(one.pool, one.node_id) for one in bindings(Books(), fleet, nodes, 0.0)] == [
        ("h100", "id-10.0.0.1:6379"),
        ("a100", "id-10.0.0.2:6379"),
    ]


TWO_SHAPES = """
pools:
  small: {nodes: 2, gpus_per_node: 4}
  big: {nodes: 2, gpus_per_node: 8}
  racked: {nodes: 1, gpus_per_node: 4, labels: {rack: r1}}
"""


def bound(books: Books, fleet: FleetFile, *nodes: SeenNode) -> dict[str, tuple[str, int]]:
    """Where each node is after a look at them."""
    for fact in bindings(books, fleet, nodes, 0.0):
        books.fold(1.0, "daemon", fact)
    return {slot.node_id: at for at, slot in books.nodes.items()}


def test_a_node_is_in_one_pool_also_when_another_lacks_one(tmp_path: Path) -> None:
    (tmp_path / "fleet.yaml").write_text(TWO_SHAPES)
    fleet, books = read_fleet_file(tmp_path), Books()
    little = [SeenNode(f"little-{number}", f"host{number}", 96.0, 4.0) for number in (0, 1)]
    large = [SeenNode(f"large-{number}", f"host{number}", 96.0, 8.0) for number in (2, 3)]
    racked = SeenNode("racked", "host4", 96.0, 8.0, (("rack", "r1"),))
    first = bound(books, fleet, *large, racked, *little)
    assert first == {
        "large-2": ("big", 0), "large-3": ("big", 1), "little-0": ("small", 0), "little-1": ("small", 1),
        "racked": ("racked", 0),
    }  # fmt: skip
    assert bindings(books, fleet, [*large, racked, little[1]], 0.0) == [], "one of the small ones has died"
    again = SeenNode("little-0-again", "host0", 96.0, 4.0)
    assert bound(books, fleet, *large, racked, little[1], again)["little-0-again"] == ("small", 0)


def test_a_node_that_is_bound_elsewhere_leaves_where_it_was() -> None:
    books = Books()
    for pool in ("small", "big"):
        books.fold(1.0, "daemon", NodeBound(pool, 0, "id-0", "host0"))
    assert list(books.nodes) == [("big", 0)]


def test_a_node_on_which_a_job_is_stays_where_it_is_when_its_pool_is_renamed(tmp_path: Path) -> None:
    path = tmp_path / "fleet.yaml"
    path.write_text("pools: {old: {nodes: 1, gpus_per_node: 8}}")
    books, node = Books(), SeenNode("id-0", "host0", 96.0, 8.0)
    assert bound(books, read_fleet_file(tmp_path), node) == {"id-0": ("old", 0)}
    job, there = JobSpec("a", "", (PoolPlan("old", 8, 4.0),)), Placement("old", (0,), (8,))
    for fact in (Submitted(job, "a", "/"), StartMeant("a", 1, there, StartCause.WORTH, 1.0)):
        books.fold(1.0, "ada", fact)
    path.write_text("pools: {new: {nodes: 1, gpus_per_node: 8}}")
    os.utime(path, ns=(1, 1))
    renamed = read_fleet_file(tmp_path)
    assert bindings(books, renamed, [node], 0.0) == []
    books.fold(2.0, "daemon", Ended("a", 1, JobState.FINISHED, Tally()))
    assert bound(books, renamed, node) == {"id-0": ("new", 0)}


@pytest.mark.parametrize(
    ("more", "is_refused"),
    [
        ("", True),
        (", usd_per_gpu_hour: 9", True),
        (", labels: {gpu: a100}", False),
        (", resource: CPU", False),
        (', ray_address: "10.0.0.9:6379"', False),
    ],
)
def test_pools_whose_nodes_cannot_be_told_apart_are_refused(
    tmp_path: Path, more: str, is_refused: bool
) -> None:
    (tmp_path / "fleet.yaml").write_text(
        f"pools:\n  a: {{nodes: 1, gpus_per_node: 8}}\n  b: {{nodes: 2, gpus_per_node: 8{more}}}\n"
    )
    if not is_refused:
        assert len(read_fleet_file(tmp_path).pools) == 2
        return
    with pytest.raises(
        ConfigError, match=r"pools\.b: .* from those of pools\.a, .* 'labels: \{KEY: VALUE\}'"
    ):
        read_fleet_file(tmp_path)


class FakeReader(NodesReader):
    """Says what the test says."""

    def __init__(self, address: str, token_file: str) -> None:
        super().__init__(address or None, token_file)
        self.said: tuple[SeenNode, ...] | None = None
        self.listens = self.closed = False

    def nodes(self) -> tuple[SeenNode, ...] | None:
        return self.said

    @property
    def is_unknown(self) -> bool:
        return self.listens and self.said is None

    def close(self) -> None:
        self.closed = True


def test_readers_come_and_go_with_the_rays_of_the_fleet_file() -> None:
    made: dict[str, FakeReader] = {}

    shown: list[Path | None] = []

    def make(address: str, token_file: str, state_dir: Path | None) -> FakeReader:
        shown.append(state_dir)
        return made.setdefault(address, FakeReader(address, token_file))

    clusters = {"": "", "b:1": "t"}
    reader = ClustersReader(lambda: clusters, Path("queue"), make)
    assert reader.nodes() is None
    assert shown == [Path("queue"), None], "gauges are shown once"
    made["b:1"].listens = True
    assert reader.unknown() == {"b:1"}
    made["b:1"].said = (SeenNode("id", "host", 1.0, 0.0),)
    assert reader.nodes() == (SeenNode("id", "host", 1.0, 0.0, cluster="b:1"),)
    assert reader.unknown() == set()
    del clusters["b:1"]
    assert reader.nodes() is None
    assert made["b:1"].closed
    assert not made[""].closed


def test_a_daemon_that_has_not_seen_the_nodes_yet_lets_runs_go_on(tmp_path: Path) -> None:
    cluster = FakeCluster(tmp_path, nodes=1)
    cluster.submit("a", 8, 50)
    daemon = cluster.daemon()
    for _ in range(6):
        daemon.step()
        cluster.tick()
    assert cluster.state("a") is JobState.RUNNING
    nodes, cluster.nodes = cluster.nodes, None  # its successor has just begun, and nobody has answered yet
    later = cluster.daemon()
    later.unknown = lambda: frozenset({""})
    for _ in range(3):
        later.step()
        cluster.tick()
    assert cluster.state("a") is JobState.RUNNING
    assert not cluster.runs["a"].asked
    cluster.nodes, later.unknown = nodes, frozenset
    later.step()
    assert cluster.state("a") is JobState.RUNNING
    cluster.nodes = ()
    later.step()
    assert cluster.state("a") is JobState.STOPPING
    with Store(tmp_path) as store:
        entry = store.entry("a")
        assert entry is not None
        assert (
            next_action(
                replace(entry, job=replace(entry.job, state=JobState.STARTING)), Presence(), None, 0.0
            )
            is None
        )
