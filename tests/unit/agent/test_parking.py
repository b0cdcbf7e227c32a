"""Slots over the socket of a node's keeper: an agent's memory, had back by the next one, from its header to its
last byte."""

from __future__ import annotations

import os
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.agent import agent as agent_module
from orchestrator.agent import parking, parking_server, staging_dir
from orchestrator.agent.agent import NodeAgent
from orchestrator.agent.parking_lot import ParkedReport
from orchestrator.agent.parking_server import Parking
from orchestrator.agent.snapshots import NodeSnapshots
from orchestrator.agent.staging_dir import why_too_much
from orchestrator.agent.zygote_pool import NodeZygotes
from orchestrator.checkpoint.arena import Slot, load_extent
from orchestrator.rank.messages import Staged
from tests.support.rank_harness import wait_until
from tests.support.snapshot_world import OPTIMIZER, NoLauncher, restore_of, small_assignment, stage

UNTIL_S = 60.0


class Keeper:
    """A keeper of parked slots whose clock the test turns, and agents that come and go."""

    def __init__(self, folder: Path) -> None:
        self.now_s = 0.0
        self.folder = folder
        self.parking = Parking(folder, clock=lambda: self.now_s, tick_s=0.02)
        self._agents: list[NodeSnapshots] = []

    def agent(self, index: int = 0, **changes: Any) -> NodeSnapshots:
        usual = {"world_size": 4, "snapshot_park_s": 60.0, "number": "5"}
        one = NodeSnapshots(
            small_assignment(self.folder / "work", **{**usual, **changes}), index, self.parking.address
        )
        self._agents.append(one)
        return one

    def end(self, agent: NodeSnapshots) -> None:
        """As a process ends, however: all its descriptors are closed."""
        agent.close()
        self._agents.remove(agent)
        assert wait_until(lambda: not any(one["in_use"] for one in self.report()), UNTIL_S)

    def report(self) -> list[ParkedReport]:
        return self.parking.report()

    def close(self) -> None:
        for agent in self._agents:
            agent.close()
        self.parking.close()


@pytest.fixture
def keeper(tmp_path: Path) -> Iterator[Keeper]:
    one = Keeper(tmp_path)
    yield one
    one.close()


def held(agent: NodeSnapshots) -> list[tuple[int, int, bool]]:
    return [(one.part.rank, one.part.step, one.parked) for one in agent.holdings()]


def test_an_agent_has_the_generations_of_the_one_before_it(keeper: Keeper, tmp_path: Path) -> None:
    first = keeper.agent()
    for step in (2, 4):
        stage(first, tmp_path, step)
    assert held(first) == [(0, 2, False), (0, 4, False), (1, 2, False), (1, 4, False)]
    keeper.end(first)
    second = keeper.agent()
    assert held(second) == [(0, 2, True), (0, 4, True), (1, 2, True), (1, 4, True)]
    memory = second.holdings()[1].files[OPTIMIZER.format(0)]
    assert load_extent(memory.path, memory.offset, memory.entry)["step"] == 4
    restore = restore_of([second], 4)
    assert second.lay_out(restore, NoLauncher()) == []
    assert held(second) == [(0, 4, False), (1, 4, False)], "from here on it is this agent's own"
    stage(second, tmp_path, 6, attempt=2)
    assert [one[:2] for one in held(second)] == [(0, 6), (0, 4), (1, 6), (1, 4)]


def test_a_generation_that_was_torn_by_the_end_does_not_come_back(keeper: Keeper, tmp_path: Path) -> None:
    first = keeper.agent()
    stage(first, tmp_path, 2)
    slot = Slot.open(first.payload_for(1, 0)["slots"][1])
    slot.begin(1, "step-4", 4, str(tmp_path), True)
    slot.close()
    keeper.end(first)
    assert held(keeper.agent()) == [(0, 2, True), (1, 2, True)]


@pytest.mark.parametrize(
    "other",
    [{"number": "6"}, {"world_size": 2}, {"run_dir": "/elsewhere"}, {"snapshot_dirs": ["durable"]}],
)
def test_another_run_has_nothing_of_it(keeper: Keeper, tmp_path: Path, other: dict[str, Any]) -> None:
    first = keeper.agent()
    stage(first, tmp_path, 2)
    keeper.end(first)
    (tmp_path / "logs").mkdir()
    assert held(keeper.agent(**other)) == []
    assert not keeper.report()[0]["in_use"], "and the run has it still"


def test_other_ranks_of_the_run_are_told_of_and_go_once_it_has_begun(keeper: Keeper, tmp_path: Path) -> None:
    first = keeper.agent(0)
    stage(first, tmp_path, 2)
    keeper.end(first)
    other = keeper.agent(1)
    assert held(other) == []
    assert other._parked is not None
    assert other._parked.others == [0, 1]
    other.lay_out(None, NoLauncher())
    assert wait_until(lambda: [one["ranks"] for one in keeper.report()] == [[2, 3]], UNTIL_S)


def test_an_agent_that_is_given_the_ranks_which_its_node_has_parked_has_their_slots(
    keeper: Keeper, tmp_path: Path
) -> None:
    first = keeper.agent(1)
    stage(first, tmp_path, 2)
    keeper.end(first)
    about = {"world_size": 4, "number": "5", "snapshot_park_s": 60.0}
    agent = NodeAgent(small_assignment(tmp_path / "work", **about), 0)
    agent._parking = keeper.parking.address
    try:
        agent._hold_slots()
        assert agent._snapshots is not None
        assert (agent._snapshots.parked_ranks, agent.holdings()) == ([2, 3], [])
        agent.be(1)
        assert [(one.part.rank, one.part.step, one.parked) for one in agent.holdings()] == [
            (2, 2, True), (3, 2, True)
        ]  # fmt: skip
    finally:
        agent.close()


def test_what_runs_that_ended_have_left_goes_with_time_and_when_a_rank_finds_no_room(
    keeper: Keeper, tmp_path: Path
) -> None:
    for name in ("one", "two", "three"):
        agent = keeper.agent(run=name, run_dir=str(tmp_path / name), snapshot_park_s=len(name) * 100.0)
        stage(agent, tmp_path, 2)
        keeper.end(agent)
    assert [one["run"] for one in keeper.report()] == ["one", "two", "three"]
    assert keeper.parking.holds_for_later()
    keeper.now_s = 300.0
    assert wait_until(lambda: [one["run"] for one in keeper.report()] == ["three"], UNTIL_S)
    agent = keeper.agent()
    agent.saved(
        0, Staged(str(tmp_path), "t", 2, 0.1, 1, str(tmp_path), None, ["f"], "no room", True), NoLauncher()
    )
    assert wait_until(lambda: [one["run"] for one in keeper.report()] == ["a-run"], UNTIL_S)
    assert not keeper.parking.holds_for_later()


def test_a_finished_run_leaves_nothing(keeper: Keeper, tmp_path: Path) -> None:
    agent = keeper.agent()
    stage(agent, tmp_path, 2)
    agent.finish()
    agent.close()
    assert wait_until(lambda: keeper.report() == [], UNTIL_S)


def test_more_than_may_be_parked_is_not(keeper: Keeper, tmp_path: Path) -> None:
    agent = keeper.agent(snapshot_park_bytes=4096)
    stage(agent, tmp_path, 2)
    agent.close()
    assert wait_until(lambda: keeper.report() == [], UNTIL_S)


def test_a_keeper_stays_for_as_long_as_something_is_parked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    zygotes = NodeZygotes(idle_timeout_s=3600.0)
    try:
        later_s = time.monotonic() + 4000.0
        assert not zygotes.tick(later_s), "nobody asked for a zygote"
        agent = NodeSnapshots(small_assignment(tmp_path / "work"), 0, zygotes._parking.address)
        stage(agent, tmp_path, 2)
        agent.close()
        assert wait_until(lambda: zygotes.tick(later_s), UNTIL_S)
        assert [one["run"] for one in zygotes.parked()] == ["a-run"]
    finally:
        zygotes.close()
    assert zygotes.parked() == []
    assert list(tmp_path.glob("orchestrator-zygotes-*")) == []


def test_slots_that_another_agent_has_are_not_shared(
    keeper: Keeper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parking_server, "_TAKEN_S", 0.1)
    first = keeper.agent()
    stage(first, tmp_path, 2)
    second = keeper.agent()
    assert held(second) == []
    assert second.payload_for(1, 0)["slots"] != first.payload_for(1, 0)["slots"]
    stage(second, tmp_path, 4, attempt=2)
    assert [one[1] for one in held(first)] == [2, 2]


def test_a_keeper_and_an_agent_of_other_users_have_nothing_to_do_with_each_other(
    keeper: Keeper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = keeper.agent()
    stage(first, tmp_path, 2)
    keeper.end(first)
    with monkeypatch.context() as patched:
        patched.setattr(parking_server, "peer_uid", lambda _channel: os.geteuid() + 1)
        assert held(keeper.agent()) == [], "the keeper asks"
    with monkeypatch.context() as patched:
        patched.setattr(parking, "peer_uid", lambda _channel: os.geteuid() + 1)
        assert held(keeper.agent()) == [], "and the agent"
    assert held(keeper.agent()) == [(0, 2, True), (1, 2, True)]
    assert [one["ranks"] for one in keeper.report()] == [[0, 1]]


def test_nonsense_ends_a_connection_and_nothing_else(keeper: Keeper, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as rude:
        rude.connect(keeper.parking.address)
        rude.settimeout(UNTIL_S)
        rude.sendall(b'{"kind": "claim", "ranks": "all"}\n')
        assert rude.recv(10) == b""
    agent = keeper.agent()
    stage(agent, tmp_path, 2)
    keeper.end(agent)
    assert held(keeper.agent()) == [(0, 2, True), (1, 2, True)]


def test_without_a_keeper_that_answers_a_node_has_slots_of_its_own(keeper: Keeper, tmp_path: Path) -> None:
    first = keeper.agent()
    stage(first, tmp_path, 2)
    keeper.parking.close()
    first.finish()  # it says so to nobody
    assert [one[1] for one in held(first)] == [2, 2]
    second = keeper.agent()
    stage(second, tmp_path, 4)
    assert [one[1] for one in held(second)] == [4, 4]


def test_a_keeper_s_folder_may_have_a_long_name(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    keeper = Keeper(folder)
    try:
        agent = keeper.agent()
        stage(agent, tmp_path, 2)
        keeper.end(agent)
        assert held(keeper.agent()) == [(0, 2, True), (1, 2, True)]
    finally:
        keeper.close()


def test_room_is_what_is_left_and_what_the_node_has_parked_for_the_run(
    keeper: Keeper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = keeper.agent()
    stage(first, tmp_path, 2)
    taken = first._parked and sum(one["bytes"] for one in keeper.report())
    keeper.end(first)
    monkeypatch.setattr(staging_dir, "room_bytes", lambda _folder: 1000)
    again = keeper.agent(snapshot_bytes=(taken or 0) + 1000)
    assert again.remark is None
    assert len(held(again)) == 2


def test_more_than_a_node_has_is_refused_with_what_to_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging_dir, "capacity_bytes", lambda _folder: 1000)
    assert why_too_much(1000, [str(tmp_path)]) is None
    assert why_too_much(None, [str(tmp_path)]) is None
    assert why_too_much(10**9, ["durable", str(tmp_path)]) is None, "it stages nowhere"
    said = (
        f"snapshot.park_bytes=1001: {tmp_path} has 1000 bytes here, for all that is in it; write"
        " snapshot.park_bytes=500 or less, or null for half of what each node has"
    )
    assert why_too_much(1001, [str(tmp_path)]) == said
    about = {"snapshot_enabled": True, "snapshot_park_bytes": 1001, "snapshot_dirs": [str(tmp_path)]}
    monkeypatch.setattr(agent_module, "differences", lambda _assignment: ["it has another driver"])
    agent = NodeAgent(small_assignment(tmp_path, **about), 0)
    assert agent.compare({}) == ["it has another driver", said]
