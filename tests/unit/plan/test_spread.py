"""What a split over oversubscribed parts of the network costs."""

from __future__ import annotations

import copy
import dataclasses
import functools

import pytest

from orchestrator.config.schema import Config
from orchestrator.errors import ConfigError
from orchestrator.plan.layout.layout import derive_layout
from orchestrator.plan.layout.units import nodes_of_unit
from orchestrator.plan.perf.spread import LevelSpread, Spread
from orchestrator.plan.plan import Plan, make_plan
from orchestrator.topology.levels import levels_of
from orchestrator.topology.tree import Labelled, Tree, tree_of
from tests.unit.config.test_conf import composed


def spread(*domains: int, ratio: float = 7.0) -> Spread:
    return Spread((LevelSpread("block", ratio, domains),))


def test_a_ring_in_order_leaves_a_block_once() -> None:
    halves = spread(*[0] * 8, *[1] * 8)
    assert halves.ring(16) == 1.0, "one node's traffic over the uplink's share of eight"
    assert spread(*[0] * 14, 1, 1).ring(16) == pytest.approx(7 / 2), (
        "two nodes have two sevenths of their own rate"
    )


def test_a_ring_without_order_is_as_slow_as_the_uplinks() -> None:
    assert spread(*[0, 1] * 8).ring(16) == pytest.approx(7.0)


def test_rings_within_blocks_wait_for_nobody() -> None:
    assert spread(*[0] * 4, *[1] * 4).ring(4) == 1.0
    assert spread(0, 0, 1, 1, 0, 0, 1, 1).ring(4) == pytest.approx(7 / 2), (
        "two rings, each once, over four nodes"
    )


def test_rings_of_nodes_that_are_apart() -> None:
    """As replicas of experts are: nodes 0 and 2, 1 and 3."""
    assert spread(0, 0, 1, 1).ring(2, stride=2) == pytest.approx(7.0)
    assert spread(0, 1, 0, 1).ring(2, stride=2) == 1.0


def test_what_each_sends_to_each_leaves_by_the_share_elsewhere() -> None:
    assert spread(0, 0, 1, 1).exchange(4) == pytest.approx(7 * 2 / 3)
    assert spread(0, 0, 1, 1).exchange(2) == 1.0


def test_what_a_stage_hands_on() -> None:
    assert spread(0, 0, 1, 1).send(2) == pytest.approx(7.0)
    assert spread(0, 1, 0, 1).send(2) == 1.0
    assert Spread().send(2) == 1.0


@functools.cache
def _composed() -> Config:
    return composed("job=llama3_8b", "cluster=azure_nd_h100_v5", "fabric=roce", "cluster.nodes=16")


def config(nodes: int = 16, **oversubscription: float) -> Config:
    made = copy.deepcopy(_composed())
    made.cluster.nodes = nodes
    made.fabric.oversubscription = dict(oversubscription)
    return made


def planned(made: Config, tree: Tree | None = None) -> Plan:
    return make_plan(made, "train.py", "/", {}, tree=tree)


def tree(**blocks: int) -> Tree:
    nodes = [f"{block}-{number}" for block, size in blocks.items() for number in range(size)]
    return tree_of(levels_of([]), [Labelled(node, node, {"block": node[0]}) for node in nodes])


def rows(plan: Plan) -> str:
    return " ".join(str(plan).split())


def test_nothing_is_said_where_nobody_says_anything() -> None:
    plan = planned(config())
    assert (plan.domains, plan.split) == ({}, None)
    assert "placement" not in rows(plan)


def test_the_figure_of_a_fabric_has_its_source() -> None:
    fabric = _composed().fabric
    assert fabric.oversubscription == {"block": 7}
    assert "section 3.3.1" in fabric.oversubscription_source


def test_without_a_file_a_split_in_two_is_priced_and_not_counted() -> None:
    plan, plain = planned(config(8, block=7)), planned(config(8))
    assert plan.split is not None
    assert plan.prediction.step_time_s == plain.prediction.step_time_s == plan.split.together_step_time_s
    assert plan.split.step_time_s > plan.split.together_step_time_s
    assert not plan.split.planned
    assert "placement counted in one block; split over 2, between which the network carries 1/7 of" in rows(
        plan
    )


def test_a_cluster_that_has_no_room_in_one_block_is_counted_as_it_is() -> None:
    made = config(block=7)
    apart, together = planned(made, tree(a=14, b=2)), planned(made, tree(a=16, b=2))
    assert (apart.domains, together.domains) == ({"block": 2}, {"block": 1})
    assert together.split is None
    assert apart.split is not None
    assert apart.split.planned
    assert apart.split.step_time_s == apart.prediction.step_time_s
    assert apart.split.together_step_time_s == together.prediction.step_time_s
    assert apart.split.slowdown > 1.01
    more = (apart.prediction.cost_usd or 0.0) - (together.prediction.cost_usd or 0.0)
    assert apart.split.more_usd == pytest.approx(more, rel=0.02)
    said = "placement 16 nodes in 2 blocks between blocks the network carries 1/7 of what nodes send: a step takes"
    assert said in rows(apart)
    assert "placement 16 nodes in 1 block" in rows(together)


def test_a_split_that_no_ring_waits_for_is_said_to_be_one() -> None:
    plan = planned(config(block=7), tree(a=8, b=8))
    assert plan.split is not None
    assert plan.split.slowdown == 1.0
    assert "which no step waits for: rings leave a block once" in rows(plan)


def test_an_oversubscription_of_no_level_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"fabric.oversubscription.blok: is no level .*; did you mean 'block'"
    ):
        planned(config(blok=3))


@pytest.mark.parametrize(
    ("changes", "nodes"),
    [
        ({}, 16),
        ({"pp": 4, "dp": 32}, 4),
        ({"tp": 8, "dp": 16}, 16),
        ({"pp": 16, "dp": 8}, 16),
        ({"ep": 32}, 4),
    ],
)
def test_the_nodes_that_talk_most_belong_together(changes: dict[str, int], nodes: int) -> None:
    layout = dataclasses.replace(derive_layout(_composed()), **changes)
    assert nodes_of_unit(layout) == nodes
