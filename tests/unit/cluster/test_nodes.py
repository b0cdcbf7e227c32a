"""The nodes of a run: what Ray writes down of an agent, which whoever may use the cluster can read, and which
of them has which ranks."""

from __future__ import annotations

import pickle

import pytest

from orchestrator.agent.assignment import Shell, Signing
from orchestrator.cluster.nodes import Node, Nodes
from tests.support.assignments import assignment


def test_secrets_are_not_in_rays_record_of_an_actor() -> None:
    told = assignment(
        run="a-run", shell=Shell({"HF_TOKEN": "hush1"}, {"OLD": "hush2"}), signing=Signing("hush3", True)
    )
    nodes = Nodes(told, 1, 1.0, 1.0, 1.0, print, None)
    recorded = pickle.dumps(nodes._assignment)
    assert b"a-run" in recorded
    assert b"hush" not in recorded
    assert nodes._secrets == told.secrets


class Agent:
    """One that is told which node of the run it is."""

    def __init__(self) -> None:
        self.told: list[int] = []
        self.be = self

    def remote(self, index: int) -> int:
        self.told.append(index)
        return index


def test_nodes_that_come_in_another_order_run_the_ranks_that_they_have_in_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nodes = Nodes(assignment(ranks_per_node=2, world_size=6), 3, 1.0, 1.0, 1.0, print, None)
    monkeypatch.setattr(nodes, "ask", lambda _node, answer: answer)
    agents = [Agent() for _ in range(3)]
    parked: list[list[int]] = [[4, 5], [2, 3], []]
    nodes.all = [
        Node(index, agents[index], f"n{index}", bundle=index, parked=parked[index]) for index in range(3)
    ]
    nodes._give_back_ranks()
    assert [(node.index, node.name, node.bundle) for node in nodes.all] == [
        (0, "n2", 2),
        (1, "n1", 1),
        (2, "n0", 0),
    ]
    assert [agent.told for agent in agents] == [[2], [], [0]], "who stays is told nothing"
    nodes._give_back_ranks()
    assert [agent.told for agent in agents] == [[2], [], [0]]
