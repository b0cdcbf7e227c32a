"""A node's part in snapshots: its memory, its writer, and what it lays out for the ranks."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.agent import staging_dir
from orchestrator.agent.checkpoint_files import CheckpointFiles
from orchestrator.agent.snapshots import NodeSnapshots, is_for_every_rank
from orchestrator.agent.staging_dir import DURABLE, choose_place
from orchestrator.checkpoint.arena import Slot, load_extent
from orchestrator.checkpoint.commits import PartDurable
from orchestrator.checkpoint.laid_out import LaidOut
from orchestrator.checkpoint.manifest import FilePart
from tests.support.snapshot_world import (
    KEY,
    OPTIMIZER,
    WEIGHTS,
    NoLauncher,
    disk_restore,
    files_of,
    memory_of,
    nodes_in,
    restore_of,
    stage,
)

Make = Callable[..., NodeSnapshots]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    with nodes_in(tmp_path) as new:
        yield new


# --- where to stage


def test_the_first_folder_with_room_is_taken_and_what_was_passed_over_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, large = tmp_path / "small", tmp_path / "large"
    small.mkdir()
    large.mkdir()
    monkeypatch.setattr(staging_dir, "room_bytes", {small: 10**9, large: 10**12}.__getitem__)
    dirs = [str(tmp_path / "missing"), str(small), str(large), DURABLE]
    assert choose_place([str(small), str(large)], 10**9) == staging_dir.Place(small, None)
    chosen = choose_place(dirs, 2 * 10**9)
    assert chosen.folder == large
    assert (
        chosen.remark
        == f"snapshot.dirs: {tmp_path}/missing is no folder that can be written; {small} has room for 1.0 GB,"
        f" two generations need 2.0 GB; taking {large}"
    )
    assert choose_place(dirs, None).folder == small
    none = choose_place(dirs, 10**13)
    assert none.folder is None
    assert none.remark is not None
    assert none.remark.endswith("taking the disk only: training waits for every save")


def test_durable_alone_is_a_choice_and_no_remark(tmp_path: Path) -> None:
    assert choose_place([DURABLE, str(tmp_path)], None) == staging_dir.Place(None, None)


def test_a_node_that_stages_nowhere_says_so_and_gives_its_ranks_no_slots(make: Make, tmp_path: Path) -> None:
    node = make(snapshot_dirs=[str(tmp_path / "missing")])
    assert node.remark is not None
    about = {"trusted": [], "key": KEY.hex(), "key_required": False, "allow_types": []}
    assert node.payload_for(3, 1) == {"attempt": 3, "slots": [], "restore": None, **about}
    assert node.holdings() == []


# --- what is in memory


def test_holdings_are_whole_generations_and_forgotten_ones_are_not(make: Make, tmp_path: Path) -> None:
    node = make(1)
    assert node.holdings() == []
    stage(node, tmp_path, 2)
    stage(node, tmp_path, 4)
    held = node.holdings()
    assert [(one.part.rank, one.part.step, one.written) for one in held] == [
        (2, 2, False), (2, 4, False), (3, 2, False), (3, 4, False)
    ]  # fmt: skip
    memory = held[1].files[OPTIMIZER.format(2)]
    assert load_extent(memory.path, memory.offset, memory.entry)["step"] == 4
    assert memory.path == held[1].slot
    slot = Slot.open(held[0].slot)
    slot.begin(2, "step-6", 6, str(tmp_path), True)
    slot.close()
    assert [(one.part.rank, one.part.step) for one in node.holdings()] == [(2, 4), (3, 2), (3, 4)]
    node.forget(from_step=4)
    assert [(one.part.rank, one.part.step) for one in node.holdings()] == [(3, 2)]


# --- what ranks are led to


def test_what_lies_in_memory_here_has_a_place_there_and_a_name_in_the_view(
    make: Make, tmp_path: Path
) -> None:
    here, there = make(0), make(1)
    for node in (here, there):
        stage(node, tmp_path, 2)
    restore = restore_of([here, there], 2)
    assert here.lay_out(restore, NoLauncher()) == []
    payload = here.payload_for(2, 0)["restore"]
    told = LaidOut.from_payload(json.loads(json.dumps(payload)))  # it travels as JSON
    assert told.to_payload() == payload
    assert (told.tag, told.step, told.save_dir) == ("step-2", 2, str(tmp_path))
    names = [OPTIMIZER.format(rank) for rank in range(4)]
    assert sorted(path.name for path in Path(told.view, "step-2").iterdir()) == sorted([WEIGHTS, *names])
    assert told.files == {
        name: memory_of(restore, name) if name in {WEIGHTS, *names[:2]} else None
        for name in [WEIGHTS, *names]
    }
    assert there.lay_out(restore, NoLauncher()) == [WEIGHTS]
    assert here.lay_out(None, NoLauncher()) == []
    assert here.payload_for(3, 0)["restore"] is None
    assert not Path(told.view).exists()


def test_what_lies_on_the_disk_is_linked_and_what_lies_on_another_node_s_is_asked_for(
    make: Make, tmp_path: Path
) -> None:
    node, folder = make(1), tmp_path / "own" / "step-2"
    folder.mkdir(parents=True)
    for name in [*files_of(2), *files_of(3)]:
        (folder / name).write_bytes(b"x")
    assert node.lay_out(disk_restore(folder.parent, 2, 4), NoLauncher()) == [WEIGHTS]
    told = node.payload_for(2, 0)["restore"]
    assert set(told["files"].values()) == {None}
    view = Path(told["view"], "step-2")
    assert (view / OPTIMIZER.format(2)).readlink() == folder / OPTIMIZER.format(2)
    assert [(view / name).stat().st_size for name in (OPTIMIZER.format(0), WEIGHTS)] == [0, 0]
    assert [is_for_every_rank(name) for name in (WEIGHTS, "layer_00-model_states.pt", "bf16_zero_pp_rank_0_x.pt")] == [
        True, True, False
    ]  # fmt: skip


def test_what_was_written_is_said_again_and_what_nobody_can_say_is_written_again(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver that heard of it may be another, or have taken all for lost with a node."""
    node = make(0)
    stage(node, tmp_path, 2)
    restore = restore_of([node], 2)
    parts = [held.part for held in node.holdings()]
    to = tmp_path / ".attempts" / "attempt-0001-step-000002" / "step-2"
    to.mkdir(parents=True)
    files = {OPTIMIZER.format(0): FilePart("0" * 64, 1, 0)}
    (to / OPTIMIZER.format(0)).touch()
    said = [PartDurable(parts[0], files, 0.1)]
    with monkeypatch.context() as patched:
        patched.setattr(node._writer, "poll", lambda _launcher: list(said))
        assert node.poll(NoLauncher()) == said
    for slot in (Slot.open(path) for path in node.payload_for(1, 0)["slots"][:1]):
        slot.mark_written(1, "step-2", str(tmp_path))
        slot.close()
    node.write_out(replace(restore, committed=True), NoLauncher())
    assert node.poll(NoLauncher()) == []
    assert not any(node._writer.writes(part.rank, part.key) for part in parts)
    node.write_out(restore, NoLauncher())
    assert node.poll(NoLauncher()) == said
    assert [node._writer.writes(part.rank, part.key) for part in parts] == [False, True]
    (to / OPTIMIZER.format(0)).unlink()
    node.write_out(restore, NoLauncher())
    assert node.poll(NoLauncher()) == []
    assert [node._writer.writes(part.rank, part.key) for part in parts] == [True, True]


def test_files_travel_between_nodes_from_memory_and_from_the_disk(make: Make, tmp_path: Path) -> None:
    here, there, files = make(0), make(1), CheckpointFiles()
    for node in (here, there):
        stage(node, tmp_path, 2)
    before = len(os.listdir("/proc/self/fd"))
    restore = restore_of([here, there], 2)
    assert there.lay_out(restore, NoLauncher()) == [WEIGHTS]
    memory = memory_of(restore, WEIGHTS)
    for start in range(0, memory.bytes, 1000):
        data = files.give(memory.path, memory.offset + start, min(1000, memory.bytes - start))
        there.take(WEIGHTS, data, memory, first=start == 0)
    place = LaidOut.from_payload(there.payload_for(2, 0)["restore"]).files[WEIGHTS]
    assert place is not None
    assert place.path != memory.path
    loaded = load_extent(place.path, place.offset, place.entry)
    assert (loaded["name"], loaded["step"], bool((loaded["w"] == 2.0).all())) == (WEIGHTS, 2, True)

    source = tmp_path / "own" / "step-2" / WEIGHTS
    source.parent.mkdir(parents=True)
    source.write_bytes(os.urandom(2500))
    lacking = there.lay_out(disk_restore(tmp_path / "elsewhere", 2, 4), NoLauncher())
    assert sorted(lacking) == sorted([WEIGHTS, OPTIMIZER.format(2), OPTIMIZER.format(3)]), (
        "its own ranks' files too"
    )
    for start in range(0, 2500, 1000):
        there.take(WEIGHTS, files.give(str(source), start, 1000), None, first=start == 0)
    view = Path(there.payload_for(2, 0)["restore"]["view"], "step-2", WEIGHTS)
    assert view.read_bytes() == source.read_bytes()
    assert len(os.listdir("/proc/self/fd")) == before, "what was fetched before is let go of"
