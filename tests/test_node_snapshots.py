"""A node's part in snapshots: its memory, its writer, and what it lays out for the ranks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.cluster import node_snapshots
from orchestrator.cluster.agent_files import CheckpointFiles
from orchestrator.cluster.assignment import base_environment
from orchestrator.cluster.node_snapshots import DURABLE, NodeSnapshots, choose_place, is_for_every_rank
from orchestrator.rank.arena import Slot, load_extent
from orchestrator.rank.launcher import Launcher, RankProcess, RankStartError, ZygoteLauncher
from orchestrator.rank.manifest import sha256_of
from orchestrator.rank.snapshot import _is_awaited
from orchestrator.rank.spec import RankSpec
from tests.rank_harness import wait_until
from tests.snapshot_world import small_assignment

WEIGHTS, OPTIMIZER = "mp_rank_00_model_states.pt", "zero_pp_rank_{}_mp_rank_00_optim_states.pt"
Make = Callable[..., NodeSnapshots]


class NoLauncher:
    """A zygote that has ended."""

    def start(self, spec: RankSpec) -> RankProcess:
        raise RankStartError(f"no zygote to fork {spec.title} from")

    def close(self) -> None:
        pass


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[NodeSnapshots] = []

    def new(index: int = 0, **changes: Any) -> NodeSnapshots:
        made.append(NodeSnapshots(small_assignment(tmp_path, **{"world_size": 4, **changes}), index))
        return made[-1]

    yield new
    for node in made:
        node.close()


@pytest.fixture(scope="module")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ZygoteLauncher]:
    environment = base_environment(small_assignment(tmp_path_factory.mktemp("zygote")))
    launcher = ZygoteLauncher(environment, preload=["torch"])
    yield launcher
    launcher.close()


def state_of(name: str, step: int) -> dict[str, Any]:
    return {"name": name, "step": step, "w": torch.full((1000,), float(step))}


def files_of(rank: int) -> list[str]:
    return [OPTIMIZER.format(rank), *([WEIGHTS] if rank == 0 else [])]


def stage(node: NodeSnapshots, folder: Path, step: int, attempt: int = 1, ranks: int = 2) -> list[dict[str, Any]]:
    """What the node's ranks do in a save, each with one slot after the other; their messages."""
    messages = []
    for local in range(ranks):
        slots = [Slot.open(path) for path in node.told(attempt, local)["slots"]]
        steps = [(slot.header() or {"step": -1})["step"] for slot in slots]
        index, rank = steps.index(min(steps)), local + 2 * (node._first_rank // 2)
        slots[index].begin(attempt, f"step-{step}", step, str(folder), True)
        for name in files_of(rank):
            slots[index].add(name, state_of(name, step), True)
        slots[index].finish()
        for slot in slots:
            slot.close()
        to = str(folder / ".attempts" / f"attempt-{attempt:04d}-step-{step:06d}" / f"step-{step}")
        staged = {"slot": index, "files": [], "to": to, "given_up": "", "attempt": attempt, "save_latest": True}
        messages.append({"dir": str(folder), "tag": f"step-{step}", "step": step, "rank": rank, "snapshot": staged})
    return messages


def restore_of(nodes: list[NodeSnapshots], step: int) -> dict[str, Any]:
    """As the driver puts it together from all nodes' holdings."""
    held = [one for node in nodes for one in node.holdings() if one["step"] == step]
    files = {
        name: {"rank": one["rank"], "bytes": extent["bytes"], "memory": {"path": one["path"], **extent}}
        for one in held
        for name, extent in one["entries"].items()
    }
    return {"save_dir": held[0]["dir"], "tag": held[0]["tag"], "step": step, "attempt": 1, "files": files}


def disk_restore(folder: Path, step: int, ranks: int) -> dict[str, Any]:
    files = {name: {"rank": rank, "bytes": 1} for rank in range(ranks) for name in files_of(rank)}
    return {"save_dir": str(folder), "tag": f"step-{step}", "step": step, "attempt": 1, "files": files}


# --- where to stage


def test_the_first_folder_with_room_is_taken_and_what_was_passed_over_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, large = tmp_path / "small", tmp_path / "large"
    small.mkdir()
    large.mkdir()
    monkeypatch.setattr(node_snapshots, "room_bytes", {small: 10**9, large: 10**12}.__getitem__)
    dirs = [str(tmp_path / "missing"), str(small), str(large), DURABLE]
    assert choose_place([str(small), str(large)], 10**9) == node_snapshots.Place(small, None)
    chosen = choose_place(dirs, 2 * 10**9)
    assert chosen.folder == large
    assert chosen.remark == (
        f"snapshot.dirs: {tmp_path}/missing is no folder that can be written; {small} has room for 1.0 GB, two "
        f"generations need 2.0 GB; taking {large}"
    )
    assert choose_place(dirs, None).folder == small
    none = choose_place(dirs, 10**13)
    assert none.folder is None
    assert none.remark is not None
    assert none.remark.endswith("taking the disk only: training waits for every save")


def test_durable_alone_is_a_choice_and_no_remark(tmp_path: Path) -> None:
    assert choose_place([DURABLE, str(tmp_path)], None) == node_snapshots.Place(None, None)


def test_a_node_that_stages_nowhere_says_so_and_gives_its_ranks_no_slots(make: Make, tmp_path: Path) -> None:
    node = make(snapshot_dirs=[str(tmp_path / "missing")])
    assert node.remark is not None
    assert node.told(3, 1) == {"attempt": 3, "slots": [], "restore": None, "trusted": []}
    assert node.holdings() == []


# --- what is in memory


def test_holdings_are_whole_generations_and_forgotten_ones_are_not(make: Make, tmp_path: Path) -> None:
    node = make(1)
    assert node.holdings() == []
    stage(node, tmp_path, 2)
    stage(node, tmp_path, 4)
    held = node.holdings()
    assert [(one["rank"], one["step"], one["written"]) for one in held] == [
        (2, 2, False), (2, 4, False), (3, 2, False), (3, 4, False)
    ]  # fmt: skip
    extent = held[1]["entries"][OPTIMIZER.format(2)]
    assert load_extent(held[1]["path"], extent["offset"], extent["entry"])["step"] == 4
    slot = Slot.open(held[0]["path"])
    slot.begin(2, "step-6", 6, str(tmp_path), True)
    slot.close()
    assert [(one["rank"], one["step"]) for one in node.holdings()] == [(2, 4), (3, 2), (3, 4)]
    node.forget(from_step=4)
    assert [(one["rank"], one["step"]) for one in node.holdings()] == [(3, 2)]


# --- what ranks are led to


def test_what_lies_in_memory_here_has_a_place_there_and_a_name_in_the_view(make: Make, tmp_path: Path) -> None:
    here, there = make(0), make(1)
    for node in (here, there):
        stage(node, tmp_path, 2)
    restore = restore_of([here, there], 2)
    assert here.lay_out(restore, NoLauncher()) == []
    told = here.told(2, 0)["restore"]
    assert (told["tag"], told["step"], told["save_dir"]) == ("step-2", 2, str(tmp_path))
    names = [OPTIMIZER.format(rank) for rank in range(4)]
    assert sorted(path.name for path in Path(told["view"], "step-2").iterdir()) == sorted([WEIGHTS, *names])
    assert {name for name, place in told["files"].items() if place} == {WEIGHTS, *names[:2]}
    assert there.lay_out(restore, NoLauncher()) == [WEIGHTS]
    assert here.lay_out(None, NoLauncher()) == []
    assert here.told(3, 0)["restore"] is None
    assert not Path(told["view"]).exists()


def test_what_lies_on_the_disk_is_linked_and_what_lies_on_another_node_s_is_asked_for(
    make: Make, tmp_path: Path
) -> None:
    node, folder = make(1), tmp_path / "own" / "step-2"
    folder.mkdir(parents=True)
    for rank in (2, 3):
        (folder / OPTIMIZER.format(rank)).write_bytes(b"x")
    assert node.lay_out(disk_restore(folder.parent, 2, 4), NoLauncher()) == [WEIGHTS]
    told = node.told(2, 0)["restore"]
    assert set(told["files"].values()) == {None}
    view = Path(told["view"], "step-2")
    assert (view / OPTIMIZER.format(2)).readlink() == folder / OPTIMIZER.format(2)
    assert [(view / name).stat().st_size for name in (OPTIMIZER.format(0), WEIGHTS)] == [0, 0]
    assert [is_for_every_rank(name) for name in (WEIGHTS, "layer_00-model_states.pt", "bf16_zero_pp_rank_0_x.pt")] == [
        True, True, False
    ]  # fmt: skip


def test_files_travel_between_nodes_from_memory_and_from_the_disk(make: Make, tmp_path: Path) -> None:
    here, there, files = make(0), make(1), CheckpointFiles()
    for node in (here, there):
        stage(node, tmp_path, 2)
    before = len(os.listdir("/proc/self/fd"))
    restore = restore_of([here, there], 2)
    assert there.lay_out(restore, NoLauncher()) == [WEIGHTS]
    memory = restore["files"][WEIGHTS]["memory"]
    for start in range(0, memory["bytes"], 1000):
        data = files.give(memory["path"], memory["offset"] + start, min(1000, memory["bytes"] - start))
        there.take(WEIGHTS, data, memory["entry"], first=start == 0)
    place = there.told(2, 0)["restore"]["files"][WEIGHTS]
    loaded = load_extent(place["path"], place["offset"], place["entry"])
    assert (loaded["name"], loaded["step"], bool((loaded["w"] == 2.0).all())) == (WEIGHTS, 2, True)

    source = tmp_path / "own" / "step-2" / WEIGHTS
    source.parent.mkdir(parents=True)
    source.write_bytes(os.urandom(2500))
    assert there.lay_out(disk_restore(tmp_path / "elsewhere", 2, 4), NoLauncher()) == [WEIGHTS]
    for start in range(0, 2500, 1000):
        there.take(WEIGHTS, files.give(str(source), start, 1000), None, first=start == 0)
    view = Path(there.told(2, 0)["restore"]["view"], "step-2", WEIGHTS)
    assert view.read_bytes() == source.read_bytes()
    assert len(os.listdir("/proc/self/fd")) == before, "what was fetched before is let go of"


# --- the writer


def poll_until(node: NodeSnapshots, launcher: Launcher, count: int) -> list[dict[str, Any]]:
    """The parts of the writer, of which there are to be so many."""
    parts: list[dict[str, Any]] = []

    def enough() -> bool:
        parts.extend(node.poll(launcher))
        return len(parts) >= count

    assert wait_until(enough, 60.0), parts
    return parts


def awaited(node: NodeSnapshots) -> list[bool]:
    """Of each slot: whether a rank that needs it waits for the writer."""
    slots = [Slot.open(path) for local in range(2) for path in node.told(1, local)["slots"]]
    found = [_is_awaited(slot) for slot in slots]
    for slot in slots:
        slot.close()
    return found


def assert_durable(parts: list[dict[str, Any]], folder: Path, step: int) -> None:
    assert sorted((part["kind"], part["rank"], part["step"]) for part in parts) == [
        ("durable", 0, step), ("durable", 1, step)
    ]  # fmt: skip
    files = {name: about for part in parts for name, about in part["files"].items()}
    assert {name: about["rank"] for name, about in files.items()} == {
        WEIGHTS: 0, OPTIMIZER.format(0): 0, OPTIMIZER.format(1): 1
    }  # fmt: skip
    for name, about in files.items():
        path = folder / ".attempts" / f"attempt-0001-step-{step:06d}" / f"step-{step}" / name
        assert (about["sha256"], about["bytes"]) == (sha256_of(path), path.stat().st_size)


@pytest.mark.real
def test_a_writer_that_is_killed_is_started_again_and_does_what_it_was_asked(
    make: Make, zygote: ZygoteLauncher, tmp_path: Path
) -> None:
    node = make()
    for message in stage(node, tmp_path, 2):
        node.saved(message["rank"], message, zygote)
    first = node._writer
    assert first is not None
    os.kill(first.pid, signal.SIGSTOP)
    assert awaited(node) == [True, False] * 2
    assert node.poll(zygote) == []
    os.kill(first.pid, signal.SIGKILL)
    assert_durable(poll_until(node, zygote, 2), tmp_path, 2)
    assert node._writer is not None
    assert node._writer.pid != first.pid
    assert awaited(node) == [False] * 4
    assert all(one["written"] for one in node.holdings())


@pytest.mark.real
def test_without_a_zygote_nothing_is_lost_and_nothing_leaks(make: Make, zygote: ZygoteLauncher, tmp_path: Path) -> None:
    """It dies while ranks say their last words; the next attempt brings another."""
    node = make()
    before = len(os.listdir("/proc/self/fd"))
    for message in stage(node, tmp_path, 2):
        node.saved(message["rank"], message, NoLauncher())
    for _ in range(5):
        assert node.poll(NoLauncher()) == []
    assert len(os.listdir("/proc/self/fd")) == before
    assert_durable(poll_until(node, zygote, 2), tmp_path, 2)


@pytest.mark.real
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


@pytest.mark.real
def test_what_can_not_be_written_is_told_and_kept_in_memory_and_ranks_do_not_wait_for_it(
    make: Make, zygote: ZygoteLauncher, tmp_path: Path
) -> None:
    node = make(world_size=2)
    (tmp_path / ".attempts").write_text("in the way")
    for message in stage(node, tmp_path, 2):
        node.saved(message["rank"], message, zygote)
    parts = poll_until(node, zygote, 2)
    assert [(part["kind"], part["tag"]) for part in parts] == [("unwritten", "step-2")] * 2
    assert (
        "in the way" in parts[0]["reason"]
        or "Not a directory" in parts[0]["reason"]
        or "File exists" in parts[0]["reason"]
    )
    assert awaited(node) == [False] * 4, "a rank would wait for ever"
    assert [(one["step"], one["written"]) for one in node.holdings()] == [(2, False)] * 2
    (tmp_path / ".attempts").unlink()
    node.lay_out(restore_of([node], 2), zygote)  # gone on from: it is tried again
    assert_durable(poll_until(node, zygote, 2), tmp_path, 2)


@pytest.mark.real
def test_close_leaves_no_process_no_descriptor_and_no_folder(zygote: ZygoteLauncher, tmp_path: Path) -> None:
    before = sorted(os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if int(fd) > 2)
    node = NodeSnapshots(small_assignment(tmp_path), 0)
    for message in stage(node, tmp_path, 2):
        node.saved(message["rank"], message, zygote)
    restore = restore_of([node], 2)
    node.lay_out(restore, zygote)
    extent = restore["files"][WEIGHTS]["memory"]
    node.take(WEIGHTS, CheckpointFiles().give(extent["path"], extent["offset"], extent["bytes"]), extent["entry"], True)
    writer = node._writer
    assert writer is not None
    node.close()
    assert wait_until(lambda: is_gone(writer.pid))
    after = sorted(os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if int(fd) > 2)
    assert len(after) == len(before)
    assert not Path(restore["files"][WEIGHTS]["memory"]["path"]).exists()
    assert list((tmp_path / "run" / "restore").iterdir()) == []
    node.close()
