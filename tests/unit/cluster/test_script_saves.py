"""From what a script that does without DeepSpeed goes on, as the driver decides it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from orchestrator.agent.checkpoint_files import CheckpointFiles
from orchestrator.cluster.nodes import Node
from orchestrator.cluster.script_saves import ScriptSaves
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
    assert looked.newest(None) == ("", [])
    for step in (5, 10, 15):
        as_torch(tmp_path / "kept" / f"step_{step}.pt")
    cut(tmp_path / "kept" / "step_15.pt")
    path, (aside,) = looked.newest(None)
    assert path == f"{tmp_path}/kept/step_10.pt"
    assert isinstance(aside, SnapshotQuarantined)
    assert (aside.step, aside.path) == (15, f"{tmp_path}/kept/.quarantine/step_15.pt.1")
    assert looked.newest(None) == (path, [])
    assert looked.newest(10) == (f"{tmp_path}/kept/step_5.pt", [])


def test_what_does_not_say_its_step_is_not_gone_back_to(tmp_path: Path) -> None:
    looked = saves(tmp_path)
    as_torch(tmp_path / "kept" / "ckpt.pt")
    assert looked.newest(None) == (f"{tmp_path}/kept/ckpt.pt", [])
    assert looked.newest(10) == ("", [])


def test_a_folder_that_not_all_nodes_see_is_left_alone(tmp_path: Path) -> None:
    looked = saves(tmp_path, shared=False)
    as_torch(tmp_path / "kept" / "ckpt.pt")
    assert looked.newest(None) == ("", [])
