"""What a script that does without DeepSpeed has saved by itself: the driver looks before an attempt."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.agent.assignment import Assignment
from orchestrator.checkpoint.script_saves import ScriptSave, choose, set_of
from orchestrator.cluster.nodes import Nodes
from orchestrator.events import Event, SnapshotQuarantined

_NOTHING_BEGUN = "an attempt that was to begin from it failed before its first step"


@dataclass(frozen=True)
class NewestSave:
    """The path of what the next attempt goes on from, "" where there is nothing; whether there is another
    whole one before it; and what was put aside."""

    path: str = ""
    has_earlier: bool = False
    put_aside: list[Event] = field(default_factory=list)


class ScriptSaves:
    """One per run. Only a folder that all nodes share is looked into: what lies on one node's disk the ranks
    of the others could not load."""

    def __init__(self, assignment: Assignment, nodes: Nodes) -> None:
        self._folder = assignment.places.checkpoint_dir
        self._papers = Path(assignment.places.run_dir) / "plan.json"
        self._held = nodes

    def newest(self, before: int | None) -> NewestSave:
        """What there is to go on from. ``before`` rules out its own step and later, and what does not say its
        step."""
        if not self._held.shared_checkpoints or not self._papers.is_file():
            return NewestSave()
        found = self._found()
        if before is not None:
            found = [one for one in found if one.step is not None and one.step < before]
        since_unix_s = self._papers.stat().st_mtime
        whole, torn = choose(found, since_unix_s)
        events = self._aside((one, one.torn or "") for one in torn)
        if whole is None:
            return NewestSave(put_aside=events)
        self._held.ask(self._held.all[0], "lead_to", self._folder, whole)
        of_this_step = set_of(whole, found)
        earlier, _ = choose([one for one in found if one not in of_this_step], since_unix_s)
        return NewestSave(f"{self._folder}/{whole.name}", earlier is not None, events)

    def put_aside(self, path: str) -> list[Event]:
        """Take what was to be begun from, and what was saved with it, out of the script's way."""
        found = self._found()
        named = next((one for one in found if f"{self._folder}/{one.name}" == path), None)
        return [] if named is None else self._aside((one, _NOTHING_BEGUN) for one in set_of(named, found))

    def _found(self) -> list[ScriptSave]:
        found: list[ScriptSave] = self._held.ask(self._held.all[0], "script_saves", self._folder)
        return found

    def _aside(self, saves: Iterable[tuple[ScriptSave, str]]) -> list[Event]:
        events: list[Event] = []
        for one, why in saves:
            path = self._held.ask(self._held.all[0], "put_aside", self._folder, one.name, why)
            events.append(SnapshotQuarantined(one.step or 0, one.name, path, why))
        return events
