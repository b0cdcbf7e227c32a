"""How the ranks of a node end: by signals, for want of memory, by an error of their own."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from orchestrator.agent import memory_kills
from orchestrator.agent.messages import (
    RankExited,
    RankRaised,
    RanksOverdue,
)
from orchestrator.errors import NodeMismatch
from orchestrator.events import Fault
from orchestrator.rank.messages import (
    ScriptFailed,
)
from tests.support.node_world import UNKILLABLE_S, Node, of


def test_after_sigterm_comes_sigkill_and_who_outlives_that_makes_its_node_a_bad_one(node: Node) -> None:
    node.train(1)
    node.node.stop(grace_s=10.0)
    assert node.signals == [(rank.pid, signal.SIGTERM) for rank in node.ranks]
    node.later(9.0)
    assert [rank.kills for rank in node.ranks] == [0, 0]
    node.later(1.0)
    assert [rank.kills for rank in node.ranks] == [1, 1]
    node.ranks[0].status = -signal.SIGKILL
    (gone,) = node.later(UNKILLABLE_S - 1)
    assert isinstance(gone, RankExited)
    assert (gone.rank, gone.status, gone.fault, gone.node_unusable) == (0, -signal.SIGKILL, Fault.EXIT, False)
    with pytest.raises(NodeMismatch, match="ranks of an older one are still alive"):
        node.node.check_gone(2)
    (stuck,) = node.later(1.0)
    assert isinstance(stuck, RankExited)
    assert (stuck.rank, stuck.status, stuck.step) == (1, -signal.SIGKILL, 1)
    assert (stuck.error, stuck.fault, stuck.node_unusable) == ("outlived SIGKILL by 15 s", Fault.NODE, True)
    assert node.later(100.0) == [], "it is said once"
    node.ranks[1].status = -signal.SIGKILL
    assert node.later(1.0) == []


def test_a_kill_that_nobody_here_sent_is_for_want_of_memory_if_the_kernel_counts_one(node: Node) -> None:
    def ended(status: int, *ranks: int) -> list[Fault]:
        for rank in ranks:
            node.ranks[rank].status = status
        return [part.fault for part in of(RankExited, node.later(1.0))]

    assert ended(-signal.SIGKILL, 0) == [Fault.EXIT]
    node.killed_by_kernel += 1
    assert ended(-signal.SIGKILL, 1) == [Fault.MEMORY]
    node.start_attempt(2)
    node.killed_by_kernel += 1  # a data loader, say, by which its rank fails
    assert ended(1, 0) == [Fault.EXIT]
    assert ended(-signal.SIGTERM, 1) == [Fault.EXIT]
    node.start_attempt(3)
    assert ended(-signal.SIGKILL, 0) == [Fault.EXIT], "that was another attempt"
    node.killed_by_kernel += 1
    node.node.kill()
    assert ended(-signal.SIGKILL, 1) == [Fault.EXIT], "we did"


def test_counters_that_are_not_there_count_as_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counter = tmp_path / "memory.events"
    monkeypatch.setattr(
        memory_kills, "_COUNTERS", ((tmp_path / "missing", "oom_kill"), (counter, "oom_kill"))
    )
    counter.write_text("low 0\noom 3\noom_kill 2\n")
    kills = memory_kills.MemoryKills()
    assert not kills.new()
    counter.write_text("low 0\noom 4\noom_kill 3\noom_group_kill 1\n")
    assert [kills.new(), kills.new()] == [True, False]


def test_an_exit_has_the_error_in_one_line_and_the_end_of_the_log(node: Node) -> None:
    rank = node.ranks[0]
    Path(rank.spec.log_path).write_text("".join(f"line {number}\n" for number in range(30)))
    rank.say(ScriptFailed("RestoreError", "the first line\nthe second", "", fault="restore"))
    rank.status = 1
    told = node.later(1.0)
    (exited,) = of(RankExited, told)
    assert (exited.error, exited.gpu, exited.fault) == (
        "RestoreError: the first line",
        "CPU core 0",
        Fault.RESTORE,
    )
    assert exited.log_tail == [f"line {number}" for number in range(10, 30)]
    assert {type(part) for part in told} <= {RankRaised, RankExited, RanksOverdue}


@pytest.mark.parametrize("word", ["weather", "", None])
def test_a_fault_that_a_script_has_made_up_is_an_exit(node: Node, word: str | None) -> None:
    node.ranks[0].say(ScriptFailed("ValueError", "x", "", fault=word))
    node.ranks[0].status = 1
    assert [part.fault for part in of(RankExited, node.later(1.0))] == [Fault.EXIT]
