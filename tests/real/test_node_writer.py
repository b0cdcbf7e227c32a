"""The writer of a node: asked by the agent, started again where it dies, and never waited for in vain."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.agent.assignment import base_environment
from orchestrator.agent.checkpoint_files import CheckpointFiles
from orchestrator.agent.messages import FromWriter
from orchestrator.agent.snapshots import NodeSnapshots
from orchestrator.checkpoint.arena import Slot
from orchestrator.checkpoint.commits import PartDurable, PartGivenUp
from orchestrator.checkpoint.manifest import sha256_of
from orchestrator.checkpoint.staging import is_awaited
from orchestrator.rank.launch.launcher import Launcher, ZygoteLauncher
from tests.support.rank_harness import is_gone, wait_until
from tests.support.snapshot_world import (
    OPTIMIZER,
    WEIGHTS,
    NoLauncher,
    memory_of,
    nodes_in,
    restore_of,
    small_assignment,
    stage,
)

pytestmark = pytest.mark.real
Make = Callable[..., NodeSnapshots]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    with nodes_in(tmp_path) as new:
        yield new


@pytest.fixture(scope="module")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ZygoteLauncher]:
    environment = base_environment(small_assignment(tmp_path_factory.mktemp("zygote")))
    launcher = ZygoteLauncher(environment, preload=["torch"])
    yield launcher
    launcher.close()


def poll_until(node: NodeSnapshots, launcher: Launcher, count: int) -> list[FromWriter]:
    """The parts of the writer, of which there are to be so many."""
    parts: list[FromWriter] = []

    def enough() -> bool:
        parts.extend(node.poll(launcher))
        return len(parts) >= count

    assert wait_until(enough, 60.0), parts
    return parts


def awaited(node: NodeSnapshots) -> list[bool]:
    """Of each slot: whether a rank that needs it waits for the writer."""
    slots = [Slot.open(path) for local in range(2) for path in node.payload_for(1, local)["slots"]]
    found = [is_awaited(slot) for slot in slots]
    for slot in slots:
        slot.close()
    return found


def assert_durable(parts: list[FromWriter], folder: Path, step: int) -> None:
    durable = [one for one in parts if isinstance(one, PartDurable)]
    assert len(durable) == len(parts), parts
    assert sorted((one.part.rank, one.part.step) for one in durable) == [(0, step), (1, step)]
    files = {name: file for one in durable for name, file in one.files.items()}
    assert {name: file.rank for name, file in files.items()} == {
        WEIGHTS: 0, OPTIMIZER.format(0): 0, OPTIMIZER.format(1): 1
    }  # fmt: skip
    for name, file in files.items():
        path = folder / ".attempts" / f"attempt-0001-step-{step:06d}" / f"step-{step}" / name
        assert (file.sha256, file.bytes) == (sha256_of(path), path.stat().st_size)


def test_a_writer_that_is_killed_is_started_again_and_does_what_it_was_asked(
    make: Make, zygote: ZygoteLauncher, tmp_path: Path
) -> None:
    node = make()
    for rank, staged in stage(node, tmp_path, 2):
        node.saved(rank, staged, zygote)
    first = node._writer.process
    assert first is not None
    os.kill(first.pid, signal.SIGSTOP)
    assert awaited(node) == [True, False] * 2
    assert node.poll(zygote) == []
    os.kill(first.pid, signal.SIGKILL)
    assert_durable(poll_until(node, zygote, 2), tmp_path, 2)
    assert node._writer.process is not None
    assert node._writer.process.pid != first.pid
    assert awaited(node) == [False] * 4
    assert all(one.written for one in node.holdings())


def test_without_a_zygote_nothing_is_lost_and_nothing_leaks(
    make: Make, zygote: ZygoteLauncher, tmp_path: Path
) -> None:
    """It dies while ranks say their last words; the next attempt brings another."""
    node = make()
    before = len(os.listdir("/proc/self/fd"))
    for rank, staged in stage(node, tmp_path, 2):
        node.saved(rank, staged, NoLauncher())
    for _ in range(5):
        assert node.poll(NoLauncher()) == []
    assert len(os.listdir("/proc/self/fd")) == before
    assert_durable(poll_until(node, zygote, 2), tmp_path, 2)


def test_what_ranks_could_not_say_any_more_is_written_and_what_nobody_goes_on_from_is_not_waited_for(
    make: Make, zygote: ZygoteLauncher, tmp_path: Path
) -> None:
    node = make(world_size=2)
    stage(node, tmp_path, 2)
    restore = restore_of([node], 2)
    stage(node, tmp_path, 4, ranks=1)  # rank 1 did not get that far
    assert awaited(node) == [True, True, True, False]
    assert node.lay_out(restore, zygote) == []
    assert_durable(poll_until(node, zygote, 2), tmp_path, 2)
    assert awaited(node) == [False] * 4, "a rank would wait for ever"
    stage(node, tmp_path, 6, ranks=1)
    assert node.lay_out(None, zygote) == []
    assert awaited(node) == [False] * 4


def test_what_cannot_be_written_is_told_and_kept_in_memory_and_ranks_do_not_wait_for_it(
    make: Make, zygote: ZygoteLauncher, tmp_path: Path
) -> None:
    node = make(world_size=2)
    (tmp_path / ".attempts").write_text("in the way")
    for rank, staged in stage(node, tmp_path, 2):
        node.saved(rank, staged, zygote)
    parts = poll_until(node, zygote, 2)
    for part in parts:
        assert isinstance(part, PartGivenUp)
        assert part.part.tag == "step-2"
        assert f"{tmp_path}/.attempts/" in part.reason
    assert awaited(node) == [False] * 4, "a rank would wait for ever"
    assert [(one.part.step, one.written) for one in node.holdings()] == [(2, False)] * 2
    (tmp_path / ".attempts").unlink()
    node.lay_out(restore_of([node], 2), zygote)  # gone on from: it is tried again
    assert_durable(poll_until(node, zygote, 2), tmp_path, 2)


def test_close_leaves_no_process_no_descriptor_and_no_folder(zygote: ZygoteLauncher, tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    node = NodeSnapshots(small_assignment(tmp_path), 0)
    for rank, staged in stage(node, tmp_path, 2):
        node.saved(rank, staged, zygote)
    restore = restore_of([node], 2)
    node.lay_out(restore, zygote)
    memory = memory_of(restore, WEIGHTS)
    node.take(WEIGHTS, CheckpointFiles().give(memory.path, memory.offset, memory.bytes), memory, True)
    writer = node._writer.process
    assert writer is not None
    node.close()
    assert wait_until(lambda: is_gone(writer.pid))
    assert len(os.listdir("/proc/self/fd")) == before
    assert not Path(memory.path).exists()
    assert list((tmp_path / "run" / "restore").iterdir()) == []
    node.close()
