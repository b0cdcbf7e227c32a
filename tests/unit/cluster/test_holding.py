"""What a run holds of a cluster: on the nodes that were chosen, or, where that cannot be, on those that Ray chooses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from orchestrator.cluster import held, holding, placement
from orchestrator.cluster.domains import Domains, PlacementRules
from orchestrator.cluster.held import Gone, Held
from orchestrator.cluster.placement import ClusterState, PlacementRequest
from orchestrator.config.placement_schema import TopologyUse
from orchestrator.errors import Cancelled, NotEnoughResources

ASKED = PlacementRequest(2, {"CPU": 1.0}, 0.0)
NAME = "orchestrator run"


@dataclass(frozen=True)
class Group:
    """A placement group: its ``id``, and the node of each bundle."""

    id: int
    nodes: tuple[str, ...]
    name: str


@dataclass
class Ray:
    """A cluster of nodes with so many ``cpus``, each of which gives one bundle; ``hidden`` are taken by what is in no table."""

    racks: dict[str, str]
    cpus: float = 1.0
    held: list[str] = field(default_factory=list)
    hidden: set[str] = field(default_factory=set)
    groups: list[Group] = field(default_factory=list)
    removed: list[int] = field(default_factory=list)
    asked: list[Sequence[str]] = field(default_factory=list)

    def nodes(self) -> list[dict[str, Any]]:
        return [
            {"NodeID": node, "NodeManagerHostname": f"host-{node}", "Alive": True, "Resources": {"CPU": self.cpus},
             "Labels": {"rack": rack} if rack else {}}
            for node, rack in self.racks.items()
        ]  # fmt: skip

    def inspect(self) -> ClusterState:
        taken = {node: [("other", {"CPU": 1.0})] for node in self.held}
        for group in self.groups:
            if group.id not in self.removed:
                for node in group.nodes:
                    taken.setdefault(node, []).append((group.name, {"CPU": 1.0}))
        return ClusterState(self.nodes(), taken)

    def reserve(
        self,
        name: str,
        asked: PlacementRequest,
        cancelled: Any,
        notice: Any,
        avoid: Any = (),
        on: Sequence[str] = (),
    ) -> Group:
        self.asked.append(on)
        free = [node for node in self.racks if not self.inspect().held.get(node) and node not in self.hidden]
        if not set(on) <= set(free) or len(free) < asked.nodes:
            raise NotEnoughResources("not given")
        self.groups.append(Group(len(self.groups), tuple(on or free[: asked.nodes]), name))
        return self.groups[-1]

    def table(self, group: Group) -> dict[str, Any]:
        here = {index: node for index, node in enumerate(group.nodes) if node in self.racks}
        return {"bundles_to_node_id": here, "state": "CREATED"}


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Ray:
    made = Ray({"n3": "r2", "n1": "r1", "n4": "r2", "n2": "r1"})
    monkeypatch.setattr(placement, "inspect_cluster", made.inspect)
    monkeypatch.setattr(placement, "reserve", made.reserve)
    monkeypatch.setattr(holding, "placement_group_table", made.table)
    monkeypatch.setattr(holding, "remove_placement_group", lambda group: made.removed.append(group.id))
    monkeypatch.setattr(held.ray, "nodes", made.nodes)
    monkeypatch.setattr(holding, "_LOOK_S", 0.0)
    return made


def told(use: TopologyUse = TopologyUse.preferred) -> Domains:
    return Domains(PlacementRules(use))


def hold(
    domains: Domains, asked: PlacementRequest = ASKED, cancelled: Any = lambda: False
) -> holding.Holding:
    return holding.hold(NAME, asked, cancelled, lambda _text: None, domains)


def test_bundles_are_on_the_chosen_nodes_in_their_order(ray: Ray) -> None:
    got = hold(told())
    assert (got.node_ids(), got.named) == ({0: "n1", 1: "n2"}, True)


def test_where_ray_does_not_give_what_looked_free_it_chooses_and_the_order_is_ours(ray: Ray) -> None:
    ray.racks = {"n3": "r2", "n1": "r1", "n4": "r2"}
    ray.held, ray.hidden = [], {"n4"}
    got = hold(told(), PlacementRequest(2, {"CPU": 1.0}, 5.0))
    assert ray.asked[:3] == [["n3", "n4"]] * 3
    assert not got.named
    assert got.node_ids() == {0: "n1", 1: "n3"}, "Ray had n3 first"


def test_too_few_that_are_free_are_waited_for_by_ray(ray: Ray) -> None:
    ray.held = ["n1", "n2", "n3"]
    with pytest.raises(NotEnoughResources, match="not given"):
        hold(told())
    assert ray.asked == [()]


def test_what_is_required_is_never_left_to_ray(ray: Ray) -> None:
    ray.held = ["n1", "n3"]
    with pytest.raises(NotEnoughResources, match="in one rack, and no rack had so many free within 0 s"):
        hold(told(TopologyUse.required))
    assert ray.asked == []
    with pytest.raises(Cancelled):
        hold(told(TopologyUse.required), PlacementRequest(2, {"CPU": 1.0}, 60.0), lambda: True)


def test_without_labels_ray_chooses(ray: Ray) -> None:
    ray.racks = dict.fromkeys(ray.racks, "")
    got = hold(told())
    assert ray.asked == [()]
    assert (got.node_ids(), got.named) == ({0: "n3", 1: "n1"}, False)


def run_of(ray: Ray, use: TopologyUse = TopologyUse.preferred) -> Held:
    made = Held(NAME, PlacementRules(use), lambda _text: None, list)
    made.hold(ASKED)
    return made


def test_a_lost_node_has_its_successor_in_its_rack_and_the_others_stay(ray: Ray) -> None:
    ray.racks |= {"n5": "r1"}
    ours = run_of(ray)
    assert ours.node_ids() == {0: "n3", 1: "n4"}, "the rack that it fills"
    ray.racks = {"n1": "r1", "n3": "r2", "n6": "r2"}
    ours.regain([Gone(1, "n4", "host-n4")], ASKED, " attempt 2")
    assert ours.node_ids() == {0: "n3", 1: "n6"}
    assert ray.removed == []
    assert ray.groups[-1].name == f"{NAME} node 2 attempt 2"
    ours.release()
    assert sorted(ray.removed) == [0, 1]


def test_a_node_of_the_run_with_room_for_two_does_not_take_a_second_place(ray: Ray) -> None:
    ray.cpus = 2.0
    ours = run_of(ray)
    assert ours.node_ids() == {0: "n1", 1: "n2"}
    del ray.racks["n2"]
    ours.regain([Gone(1, "n2", "host-n2")], ASKED, " attempt 2")
    assert ours.node_ids() == {0: "n1", 1: "n3"}


def test_a_node_whose_agent_alone_died_keeps_its_bundle(ray: Ray) -> None:
    ours = run_of(ray)
    ours.regain([Gone(1, "n2", "host-n2")], ASKED, " attempt 2")
    assert ours.node_ids() == {0: "n1", 1: "n2"}
    assert len(ray.groups) == 1


def test_a_successor_of_a_successor_gives_the_group_before_back(ray: Ray) -> None:
    ours = run_of(ray)
    for lost, left in (("n2", "n3"), ("n3", "n4")):
        del ray.racks[lost]
        ours.regain([Gone(1, lost, lost)], ASKED, " again")
        assert ours.node_ids() == {0: "n1", 1: left}
    assert ray.removed == [1]


def test_a_run_that_moves_may_have_what_it_holds_again(ray: Ray) -> None:
    ours = run_of(ray)
    del ray.racks["n2"]
    ours.regain([Gone(1, "n2", "host-n2")], ASKED, " attempt 2")
    ray.racks["n2"] = "r1"
    ours.hold(ASKED)
    assert ours.node_ids() == {0: "n1", 1: "n2"}
    assert sorted(ray.removed) == [0, 1]


def test_a_successor_elsewhere_is_told_of(ray: Ray) -> None:
    ours = run_of(ray)
    del ray.racks["n2"]
    ours.regain([Gone(1, "n2", "host-n2")], ASKED, " attempt 2")
    said = ours.move_in_words(Gone(1, "n2", "host-n2"), Gone(1, "n3", "host-n3"))
    assert said == "host-n3 takes the place of host-n2, in another rack: r2 instead of r1"
    assert ours.move_in_words(Gone(0, "n3", "host-n3"), Gone(0, "n4", "host-n4")) is None
    assert ours.crossed(["n1", "n3"]) == {"rack": 2}
    assert ours.crossed(["n1"]) == {}


def test_no_successor_is_a_lack_of_resources(ray: Ray) -> None:
    ours = run_of(ray, TopologyUse.required)
    del ray.racks["n2"]
    with pytest.raises(NotEnoughResources, match="host-n2 left the cluster and nothing took its place"):
        ours.regain([Gone(1, "n2", "host-n2")], ASKED, " attempt 2")
