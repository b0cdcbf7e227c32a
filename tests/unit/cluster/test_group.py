"""The end of an attempt, when what its ranks did last is not on a disk yet."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from orchestrator.agent.messages import RankExited
from orchestrator.cluster.attempt import Attempt
from orchestrator.cluster.group import RayWorkerGroup, UnderWay
from orchestrator.cluster.hangs import HangWatch
from orchestrator.cluster.nodes import Node
from orchestrator.events import AttemptEnded, Event, Fault, Outcome, RankLost
from tests.support.assignments import assignment


@dataclass
class Checkpoints:
    """One is on its way until it is committed, or its node is gone."""

    on_their_way: int = 1
    tidied: list[str] = field(default_factory=list)

    def busy(self) -> bool:
        return self.on_their_way > 0

    def forget(self) -> None:
        self.on_their_way = 0

    def tidy_up(self, finished: bool) -> None:
        self.tidied.append("finished" if finished else "stopped")


def group_of(checkpoints: Checkpoints) -> tuple[RayWorkerGroup, UnderWay]:
    """A group whose two ranks have just ended."""
    group = RayWorkerGroup.__new__(RayWorkerGroup)
    group.assignment = assignment(ranks_per_node=2)
    group._checkpoints = checkpoints  # type: ignore[assignment]
    now = UnderWay(Attempt(3, ["node-a"], 2), HangWatch(3, ["node-a"], 120.0, None, lambda: None), [], 0.0)
    now.attempt.step = 24
    group._now = now
    return group, now


def end(now: UnderWay, status: int = 0, stopping: bool = False) -> None:
    now.attempt.stopping = stopping
    for rank in range(2):
        now.attempt.receive(0, RankExited(rank, "GPU 0", status, 24, 1.0), 1.0)


def lose(group: RayWorkerGroup, now: UnderWay) -> None:
    group._lose(Node(0, None, "node-a"), "its agent died: killed", now)


def test_the_end_waits_for_the_disk_and_comes_once() -> None:
    checkpoints = Checkpoints()
    group, now = group_of(checkpoints)
    end(now)
    assert group._settled(now) == []
    checkpoints.on_their_way = 0
    assert group._settled(now) == [AttemptEnded(3, Outcome.FINISHED, 24)]
    assert checkpoints.tidied == ["finished"]
    assert group._settled(now) == []


def test_a_run_that_was_stopped_leaves_its_memory_to_be_gone_on_from() -> None:
    checkpoints = Checkpoints()
    checkpoints.on_their_way = 0
    group, now = group_of(checkpoints)
    end(now, stopping=True)
    assert [type(event) for event in group._settled(now)] == [AttemptEnded]
    assert checkpoints.tidied == ["stopped"]


def test_a_node_that_is_lost_with_the_last_checkpoint_fails_what_had_finished() -> None:
    checkpoints = Checkpoints()
    group, now = group_of(checkpoints)
    end(now)
    assert group._settled(now) == []
    lose(group, now)
    lost, ended = group._settled(now)
    assert isinstance(lost, RankLost)
    assert (lost.attempt, lost.node, lost.step, lost.fault) == (3, "node-a", 24, Fault.NODE)
    assert lost.reason == "lost before the last checkpoint was on the disk"
    assert lost.error == "its agent died: killed"
    assert ended == AttemptEnded(3, Outcome.FAILED, 24)
    assert checkpoints.tidied == []
    assert group._settled(now) == []


@pytest.mark.parametrize(
    ("on_their_way", "stopping", "outcome"), [(0, False, Outcome.FINISHED), (1, True, Outcome.STOPPED)]
)
def test_nothing_is_lost_with_a_node_when_all_is_on_the_disk_or_somebody_had_stopped_it(
    on_their_way: int, stopping: bool, outcome: Outcome
) -> None:
    checkpoints = Checkpoints(on_their_way=1)
    group, now = group_of(checkpoints)
    end(now, stopping=stopping)
    told: list[Event] = group._settled(now)
    checkpoints.on_their_way = on_their_way
    lose(group, now)
    assert [*told, *group._settled(now)] == [AttemptEnded(3, outcome, 24)]
