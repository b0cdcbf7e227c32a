"""The driver's hand on checkpoints: they get their names, in order, once all of them is on the disk."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.exceptions import RayActorError

from orchestrator.agent.messages import RankUnstaged, WriterFreed, WriterHeld
from orchestrator.checkpoint.commits import PartGivenUp, RankPart
from orchestrator.events import (
    CheckpointWriteBlocked,
    CheckpointWriteResumed,
    SnapshotCommitted,
    StagingUnavailable,
)
from tests.support.checkpoint_driver import SHARED, FakeRay, Make, commit, drivers
from tests.support.crashes import good, named
from tests.support.fakes import names


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    return FakeRay.in_place(monkeypatch)


@pytest.fixture
def make(ray: FakeRay, tmp_path: Path) -> Iterator[Make]:
    with drivers(tmp_path) as new:
        yield new


def test_a_checkpoint_gets_its_name_when_the_last_part_is_durable_and_old_ones_go(
    make: Make, ray: FakeRay
) -> None:
    driver = make()
    driver.saved(2)
    assert driver.checkpoints.busy()
    assert driver.write(2, ranks=(1,)) == []
    assert driver.checkpoints.poll(5.0) == []
    driver.write(2, ranks=(0,))
    ray.slow = True
    assert driver.checkpoints.poll(5.0) == []
    assert driver.checkpoints.busy()
    ray.slow = False
    (told,) = driver.checkpoints.poll(6.0)
    assert isinstance(told, SnapshotCommitted)
    assert (told.attempt, told.step, told.tag, told.write_s) == (1, 2, "step-2", 2.0)
    assert told.path == str(driver.folders[0] / "step-2")
    assert driver.agents[0].calls.count("publish") == 1
    assert "publish" not in driver.agents[1].calls
    assert not driver.checkpoints.busy()
    commit(driver, 4, 6)
    assert (good(driver.folders[0]), named(driver.folders[0])) == ({"step-4", "step-6"}, "step-6")


def test_a_disk_that_is_full_is_told_once_tried_again_and_told_when_it_is_over(make: Make) -> None:
    driver = make()
    driver.agents[0].failing = OSError(errno.ENOSPC, "No space left on device")
    driver.write(2)
    driver.write(4)
    (held,) = driver.checkpoints.poll(10.0)
    assert held == CheckpointWriteBlocked("node-a", "[Errno 28] No space left on device")
    assert driver.checkpoints.poll(10.5) == []
    assert driver.agents[0].calls.count("publish") == 1
    assert driver.checkpoints.poll(11.0) == []
    assert driver.agents[0].calls.count("publish") == 2
    driver.agents[0].failing = None
    freed, told = driver.checkpoints.poll(12.0)
    assert freed == CheckpointWriteResumed("node-a", 2.0)
    assert isinstance(told, SnapshotCommitted)
    assert names(driver.checkpoints.poll(12.0)) == ["SnapshotCommitted"], "in their order"
    assert good(driver.folders[0]) == {"step-2", "step-4"}


def test_one_whose_files_are_gone_does_not_keep_the_next_from_its_name(make: Make) -> None:
    driver = make()
    driver.write(2)
    (driver.folders[0] / ".attempts" / "attempt-0001-step-000002" / "step-2" / SHARED).unlink()
    driver.write(4)
    assert names(driver.checkpoints.poll(10.0)) == ["CheckpointWriteBlocked"]
    events = [event for second in range(11, 200) for event in driver.checkpoints.poll(float(second))]
    assert names(events) == ["CheckpointWriteBlocked", "SnapshotCommitted"]
    assert isinstance(events[0], CheckpointWriteBlocked)
    assert "checkpoint step-2 is given up: " in events[0].reason
    assert SHARED in events[0].reason
    assert not driver.checkpoints.busy()


def test_a_lost_node_takes_along_what_was_on_its_way(make: Make) -> None:
    driver = make()
    driver.write(2)
    driver.agents[0].failing = RayActorError()
    assert driver.checkpoints.poll(5.0) == []
    assert not driver.checkpoints.busy()
    driver.saved(4)
    driver.write(6)
    driver.checkpoints.forget()
    assert not driver.checkpoints.busy()


def test_nothing_of_a_run_that_has_finished_stays_parked(make: Make) -> None:
    driver = make()
    for finished, calls in ((False, 0), (True, 1)):
        driver.checkpoints.tidy_up(finished)
        assert [agent.calls.count("finish") for agent in driver.agents] == [calls, calls]


def test_what_a_writer_says_is_passed_on(make: Make) -> None:
    driver = make()
    node, say = driver.all[1], driver.checkpoints.receive
    assert say(node, WriterHeld("full"), 1.0) == [CheckpointWriteBlocked("node-b", "full")]
    assert say(node, WriterFreed(3.0), 1.0) == [CheckpointWriteResumed("node-b", 3.0)]
    unstaged = RankUnstaged(3, "No space left on device")
    assert say(node, unstaged, 1.0) == [StagingUnavailable("node-b", 3, "No space left on device")]
    part = RankPart(attempt=1, step=2, dir="/checkpoints", tag="step-2", rank=1, save_latest=True)
    (told,) = say(node, PartGivenUp(part, "EIO"), 1.0)
    assert told == CheckpointWriteBlocked("node-b", "checkpoint step-2 is given up: EIO")
    driver.saved(2)  # the writer was faster than the last rank
    assert not driver.checkpoints.busy()


def test_what_is_on_its_way_to_a_name_is_not_tidied_away(make: Make) -> None:
    driver = make()
    driver.agents[0].failing = OSError(errno.ENOSPC, "full")
    driver.write(2)  # all durable, and held
    driver.checkpoints.poll(10.0)
    driver.write(4, ranks=(0,))  # rank 1 was killed before it could say that it had staged it
    driver.write(1, attempt=1, ranks=())  # of this nobody has said anything
    driver.checkpoints.tidy(2)
    attempts = driver.folders[0] / ".attempts"
    assert sorted(folder.name[-1] for folder in attempts.iterdir()) == ["2", "4"]
    driver.agents[0].failing = None
    assert names(driver.checkpoints.poll(12.0)) == ["CheckpointWriteResumed", "SnapshotCommitted"]
    driver.checkpoints.snapshots.started(2, None)  # neither is gone on from
    driver.checkpoints.tidy(2)
    assert list(attempts.iterdir()) == []
