"""From what a script that does without DeepSpeed goes on, as the driver decides it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from orchestrator.agent.checkpoint_files import CheckpointFiles
from orchestrator.cluster.nodes import Node
from orchestrator.cluster.script_saves import NewestSave, ScriptSaves
from orchestrator.events import SnapshotQuarantined
from tests.support.assignments import assignment
from tests.unit.checkpoint.test_script_saves import as_torch, cut


class FakeNodes:
    """One node, asked without Ray."""

    def __init__(self, shared: bool = True) -> None:
        self.all = [Node(0, CheckpointFiles(), "node-a")]
        self.shared_checkpoints = shared

    def ask(self, node: Node, question: str, *args: Any) -> Any:
        return getattr(node.agent, question)(*args)


def saves(folder: Path, shared: bool = True) -> ScriptSaves:
    """Of a run that began a while ago."""
    (folder / "kept").mkdir()
    (folder / "plan.json").touch()
    os.utime(folder / "plan.json", (1e9, 1e9))
    there = assignment(run_dir=str(folder), checkpoint_dir=str(folder / "kept"))
    return ScriptSaves(there, FakeNodes(shared))  # type: ignore[arg-type]


def test_the_newest_whole_one_is_told_and_a_torn_one_put_aside(tmp_path: Path) -> None:
    looked = saves(tmp_path)
    assert looked.newest(None) == NewestSave()
    for step in (5, 10, 15):
        as_torch(tmp_path / "kept" / f"step_{step}.pt")
    cut(tmp_path / "kept" / "step_15.pt")
    newest = looked.newest(None)
    (aside,) = newest.put_aside
    assert (newest.path, newest.has_earlier) == (f"{tmp_path}/kept/step_10.pt", True)
    assert isinstance(aside, SnapshotQuarantined)
    assert (aside.step, aside.path) == (15, f"{tmp_path}/kept/.quarantine/step_15.pt.1")
    assert looked.newest(None) == NewestSave(newest.path, has_earlier=True)
    assert looked.newest(10) == NewestSave(f"{tmp_path}/kept/step_5.pt")


def test_what_nothing_could_be_begun_from_goes_with_all_that_was_saved_with_it(tmp_path: Path) -> None:
    looked = saves(tmp_path)
    for step in (5, 10):
        for name in ("model", "optimizer"):
            as_torch(tmp_path / "kept" / f"{name}_step_{step}.pt")
    as_torch(tmp_path / "kept" / "best_step_10.pt")
    newest = looked.newest(None)
    assert newest == NewestSave(f"{tmp_path}/kept/model_step_10.pt", has_earlier=True)
    aside = looked.put_aside(newest.path)
    assert [(one.step, one.tag) for one in aside if isinstance(one, SnapshotQuarantined)] == [
        (10, "model_step_10.pt"), (10, "optimizer_step_10.pt"),
    ]  # fmt: skip
    assert looked.newest(None) == NewestSave(f"{tmp_path}/kept/model_step_5.pt", has_earlier=True)
    assert (tmp_path / "kept" / "best_step_10.pt").is_file()
    assert looked.put_aside(newest.path) == [], "it is gone already"


def test_what_leads_the_script_to_its_newest_leads_to_what_is_chosen(tmp_path: Path) -> None:
    looked, kept = saves(tmp_path), tmp_path / "kept"
    for step in (5, 10):
        as_torch(kept / f"iter_{step:07}.pt")
    texts = {"latest": "iter_0000010.pt", "latest_checkpointed_iteration.txt": "10\n", "notes.txt": "10"}
    for name, text in texts.items():
        (kept / name).write_text(text)
    (kept / "last.pt").symlink_to("iter_0000010.pt")
    (kept / "elsewhere.pt").symlink_to("/nowhere/iter_0000010.pt")
    before = looked.newest(None)
    assert {name: (kept / name).read_text() for name in texts} == texts, "they are right"
    looked.put_aside(before.path)
    assert looked.newest(None).path == f"{kept}/iter_0000005.pt"
    assert {name: (kept / name).read_text() for name in texts} == {
        "latest": "iter_0000005.pt", "latest_checkpointed_iteration.txt": "5", "notes.txt": "10",
    }  # fmt: skip
    assert os.readlink(kept / "last.pt") == "iter_0000005.pt"
    assert os.readlink(kept / "elsewhere.pt") == "/nowhere/iter_0000010.pt"
    for name in texts:
        (kept / name).write_text("")  # as a rank leaves it that dies while it writes
    looked.newest(None)
    assert {name: (kept / name).read_text() for name in texts} == {
        "latest": "iter_0000005.pt", "latest_checkpointed_iteration.txt": "5", "notes.txt": "",
    }  # fmt: skip


def test_what_does_not_say_its_step_is_not_gone_back_to(tmp_path: Path) -> None:
    looked = saves(tmp_path)
    as_torch(tmp_path / "kept" / "ckpt.pt")
    assert looked.newest(None) == NewestSave(f"{tmp_path}/kept/ckpt.pt")
    assert looked.newest(10) == NewestSave()


def test_a_folder_that_not_all_nodes_see_is_left_alone(tmp_path: Path) -> None:
    looked = saves(tmp_path, shared=False)
    as_torch(tmp_path / "kept" / "ckpt.pt")
    assert looked.newest(None) == NewestSave()
