"""What a script that does without DeepSpeed has saved by itself: the driver looks before an attempt."""

from __future__ import annotations

from pathlib import Path

from orchestrator.agent.assignment import Assignment
from orchestrator.checkpoint.script_saves import ScriptSave, choose
from orchestrator.cluster.nodes import Nodes
from orchestrator.events import Event, SnapshotQuarantined


class ScriptSaves:
    """One per run. Only a folder that all nodes share is looked into: what lies on one node's disk the ranks
    of the others could not load."""

    def __init__(self, assignment: Assignment, nodes: Nodes) -> None:
        self._folder = assignment.places.checkpoint_dir
        self._papers = Path(assignment.places.run_dir) / "plan.json"
        self._held = nodes

    def newest(self, before: int | None) -> tuple[str, list[Event]]:
        """The path of what the next attempt goes on from, "" where there is nothing, and what was put aside.
        ``before`` rules out its own step and later, and what does not say its step."""
        if not self._held.shared_checkpoints or not self._papers.is_file():
            return "", []
        node = self._held.all[0]
        found: list[ScriptSave] = self._held.ask(node, "script_saves", self._folder)
        if before is not None:
            found = [one for one in found if one.step is not None and one.step < before]
        whole, torn = choose(found, self._papers.stat().st_mtime)
        events: list[Event] = []
        for one in torn:
            path = self._held.ask(node, "put_aside", self._folder, one.name, one.torn)
            events.append(SnapshotQuarantined(one.step or 0, one.name, path, one.torn or ""))
        return (f"{self._folder}/{whole.name}" if whole else ""), events
