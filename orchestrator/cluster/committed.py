"""What the nodes have committed to their disks, looked at together."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from orchestrator.checkpoint.commits import Restore, Snapshots
from orchestrator.checkpoint.manifest import Manifest
from orchestrator.checkpoint.own_folder import step_of
from orchestrator.checkpoint.world_size import refusal
from orchestrator.cluster.nodes import Node, Nodes
from orchestrator.errors import ConfigError, ManifestError
from orchestrator.events import Event, SnapshotDoubted, SnapshotPassedOver, SnapshotQuarantined


class Committed:
    """One per run; ``snapshots`` knows the folders."""

    def __init__(self, nodes: Nodes, snapshots: Snapshots) -> None:
        self._held, self._snapshots = nodes, snapshots
        self._ask = nodes.ask
        self._announced: set[tuple[str, str, str]] = set()
        self._looked = False
        # Which node has a file on a disk of its own: not its writer's, once another driver has other nodes
        # first.
        self.disks: dict[tuple[str, int, str], dict[str, int]] = {}

    @property
    def _nodes(self) -> list[Node]:
        return self._held.all

    def owners(self) -> Sequence[Node]:
        """The nodes that touch names: one where all see the same folder."""
        return self._nodes[:1] if self._held.shared_checkpoints else self._nodes

    def find_places(self) -> None:
        """Take in folders that an earlier driver, or another run, has committed checkpoints to."""
        main = self._snapshots.save_dirs[0]
        for node in self.owners():
            for place in self._ask(node, "places", main):
                if place not in self._snapshots.save_dirs:
                    self._snapshots.save_dirs.append(place)

    def committed(self) -> list[tuple[str, Manifest]]:
        """Committed on every node that has a folder, whole."""
        found: dict[tuple[str, int, str], list[Manifest]] = {}
        self.disks.clear()
        for node in self.owners():
            for folder in self._snapshots.save_dirs:
                for one in map(Manifest.from_json, self._ask(node, "committed", folder)):
                    found.setdefault((folder, one.attempt, one.tag), []).append(one)
                    self.disks.setdefault((folder, one.attempt, one.tag), {}).update(
                        dict.fromkeys(one.files, node.index)
                    )
        whole = []
        for (folder, _, _), parts in found.items():
            # A node may have died before it could give the same tag to a later step.
            with contextlib.suppress(ManifestError):
                if len(parts) == len(self.owners()):
                    whole.append((folder, Manifest.joined(parts)))
        return whole

    def is_of_this_run(self, restore: Restore) -> bool:
        """What another run has committed is not looked through; what is in memory is this one's."""
        runs = {(folder, one.tag): one.run for folder, one in self.committed()}
        return runs.get((restore.save_dir, restore.tag), self._snapshots.run) == self._snapshots.run

    def doubted(self) -> list[Event]:
        """Whether others could change what is committed: at the first fault it would be too late to allow a
        type."""
        if self._looked:
            return []
        self._looked, main = True, self._snapshots.save_dirs[0]
        why = next((why for node in self.owners() if (why := self._ask(node, "why_not_ours", main))), None)
        return [] if why is None else [SnapshotDoubted(main, why)]

    def passed_over(self) -> list[Event]:
        """Which folders of checkpoints are left out because of their manifests, each said once."""
        found: list[Event] = []
        for node in self.owners():
            for folder in self._snapshots.save_dirs:
                for tag, why in self._ask(node, "passed_over", folder).items():
                    if (said := (node.name, folder, tag)) not in self._announced:
                        self._announced.add(said)
                        found.append(SnapshotPassedOver(tag, f"{folder}/{tag}", why))
        return found

    def misfits(self, committed: list[tuple[str, Manifest]]) -> list[Event]:
        """Which checkpoints are left out because another number of ranks wrote them, each said once."""
        found: list[Event] = []
        for folder, one in committed:
            why, said = self._snapshots.misfit(one), ("", folder, one.tag)
            if why is not None and said not in self._announced:
                self._announced.add(said)
                found.append(SnapshotPassedOver(one.tag, f"{folder}/{one.tag}", why))
        return found

    def refuse_misfits(self, committed: list[tuple[str, Manifest]], before: int | None) -> None:
        """Raises ConfigError where there are checkpoints and none is for so many ranks: the script would find
        them all the same, and fail in each rank. One that was converted it may load."""
        misfits = [
            (one.step, folder, one, why)
            for folder, one in committed
            if (before is None or one.step < before) and (why := self._snapshots.misfit(one)) is not None
        ]
        if not misfits:
            return
        _, folder, one, why = max(misfits, key=lambda each: each[:2])
        if not any(self._ask(node, "is_converted", folder) for node in self.owners()):
            raise ConfigError(refusal(Path(folder), one, why, self._snapshots.world_size))

    def why_not_vouched(self, restore: Restore) -> str | None:
        """Why a checkpoint on the disk may be somebody else's, as the first node says that has a doubt."""
        answers = (
            self._ask(node, "why_not_vouched", restore.save_dir, restore.tag) for node in self.owners()
        )
        return next((why for why in answers if why is not None), None)

    def clear_way(self, restore: Restore | None) -> list[Event]:
        """Put aside folders of saves that never got their name, where each checkpoint has a folder."""
        chosen = restore.save_dir if restore else None
        beside = str(Path(chosen).parent) if chosen else self._snapshots.save_dirs[0]
        why = "its save was never finished: not all ranks had written what they had"
        return [
            SnapshotQuarantined(step_of(name), name, path, why)
            for node in self.owners()
            for name, path in self._ask(node, "clear_way", beside, chosen, why).items()
        ]

    def quarantine(self, restore: Restore, why: str) -> Event:
        paths = [self._ask(node, "quarantine", restore.save_dir, restore.tag, why) for node in self.owners()]
        return SnapshotQuarantined(restore.step, restore.tag, paths[0], why)
