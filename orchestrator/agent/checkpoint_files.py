"""What an agent does on its node's disks, on the driver's word."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from orchestrator.agent.assignment import Assignment
from orchestrator.checkpoint import script_saves, store, world_size
from orchestrator.checkpoint.manifest import Manifest
from orchestrator.checkpoint.markers import lead_to
from orchestrator.checkpoint.own_folder import is_own_folder, left_over
from orchestrator.checkpoint.script_saves import ScriptSave
from orchestrator.checkpoint.vouching import why_not_vouched
from orchestrator.files import NO_SPACE
from orchestrator.trust import why_not_ours

_UNSIGNED = "its manifest is not signed with the key of snapshot.key_file"
# Ranks print and save: less than this is as good as none.
_PROBE_BYTES = 1 << 20


class CheckpointFiles:
    """The part of an agent that touches names and manifests; paths and manifests travel as text."""

    assignment: Assignment

    def lacks_space(self) -> str | None:
        """Why nothing can be written to the run directory, None where something can."""
        folder = self.assignment.places.run_dir
        try:
            with tempfile.TemporaryFile(dir=folder) as probe:
                os.posix_fallocate(probe.fileno(), 0, _PROBE_BYTES)
        except OSError as error:
            if error.errno in NO_SPACE:
                return f"{error.strerror} in {folder}"
        return None

    def publish(self, save_dir: str, manifest: str, save_latest: bool) -> str:
        """Commit a checkpoint of which all files are durable; its path."""
        return str(store.publish(Path(save_dir), Manifest.from_json(manifest), save_latest))

    def why_not_ours(self, save_dir: str) -> str | None:
        """Who else could change what is committed there, or make the folder if it is not there yet."""
        way = (Path(save_dir), *Path(save_dir).parents)
        return why_not_ours(next(folder for folder in way if folder.is_dir()))

    def committed(self, save_dir: str) -> list[str]:
        """Manifests of the committed checkpoints; `latest` is set right on the way."""
        folder = Path(save_dir)
        if not folder.is_dir():
            return []
        store.repair_latest(folder)
        return [one.to_json() for one in store.scan(folder).committed if not self._unsigned(one)]

    def passed_over(self, save_dir: str) -> dict[str, str]:
        """Folders whose manifest does not count, with the reason."""
        if not Path(save_dir).is_dir():
            return {}
        seen = store.scan(Path(save_dir))
        return seen.odd | {one.tag: _UNSIGNED for one in seen.committed if self._unsigned(one)}

    def places(self, save_dir: str) -> list[str]:
        """Folders in which committed checkpoints are: that one, and those in it."""
        return [str(place) for place in world_size.places_in(Path(save_dir))]

    def is_converted(self, save_dir: str) -> bool:
        """Whether a checkpoint there was converted for any number of ranks."""
        return world_size.is_converted(Path(save_dir))

    def _unsigned(self, manifest: Manifest) -> bool:
        """Whether it is not to be loaded: a key was asked for, and it was not signed with that."""
        return self.assignment.secrets.signing.required and not manifest.is_signed_with(self._key)

    @property
    def _key(self) -> bytes:
        return bytes.fromhex(self.assignment.secrets.signing.key)

    def why_not_vouched(self, save_dir: str, tag: str) -> str | None:
        """Why a committed checkpoint may be somebody else's; None where it is ours."""
        found = [one for one in store.scan(Path(save_dir)).committed if one.tag == tag]
        return why_not_vouched(Path(save_dir, tag), found[0], self._key) if found else "it has no manifest"

    def verify(self, save_dir: str, tag: str, names: Sequence[str]) -> dict[str, str]:
        """What is wrong with these files of a committed checkpoint, by name."""
        folder = Path(save_dir)
        found = [one for one in store.scan(folder).committed if one.tag == tag]
        if not found:
            return dict.fromkeys(names, "has no manifest")
        return store.verify(folder, found[0], names)

    def torn_around(self, save_dir: str, tag: str, whole: bool) -> str | None:
        """What is half written of all that a script has put around a checkpoint in a folder of its own."""
        return script_saves.torn_around(Path(save_dir), tag, whole)

    def quarantine(self, save_dir: str, tag: str, reason: str) -> str:
        """Never load it again; where it lies from now on."""
        folder, main = Path(save_dir), Path(self.assignment.places.checkpoint_dir)
        there = store.scan(folder).committed
        steps = [one.step for one in there if one.tag == tag]
        if steps and is_own_folder(folder, main, tag, steps[0], [one.tag for one in there]):
            return str(store.quarantine_folder(folder, reason))
        return str(store.quarantine(folder, tag, reason))

    def clear_way(self, save_dir: str, chosen: str | None, reason: str) -> dict[str, str]:
        """Put aside what a save that never got its name has left, newer than the folder that was chosen;
        where it lies from now on, by name."""
        found = left_over(Path(save_dir), Path(chosen) if chosen else None)
        return {folder.name: str(store.quarantine_folder(folder, reason)) for folder in found}

    def script_saves(self, save_dir: str) -> list[ScriptSave]:
        """What a script has saved there by itself."""
        return script_saves.look(Path(save_dir))

    def put_aside(self, save_dir: str, name: str, reason: str) -> str:
        """The same for what a script has saved by itself."""
        return str(store.quarantine_folder(Path(save_dir, name), reason))

    def lead_to(self, save_dir: str, newest: ScriptSave) -> list[str]:
        """Have what tells the script of its newest checkpoint tell of this, where it leads to one that is
        gone."""
        return lead_to(Path(save_dir), newest)

    def prune(self, save_dir: str, keep: int, keep_hours: float | None) -> None:
        """Remove committed checkpoints beyond those to keep."""
        store.prune(Path(save_dir), keep, keep_hours, time.time(), ())

    def tidy(self, save_dir: str, attempts_before: int, on_their_way: Sequence[str]) -> None:
        """Remove what older attempts left unfinished."""
        if Path(save_dir).is_dir():
            store.tidy(Path(save_dir), attempts_before, on_their_way)

    def give(self, source: str, offset: int, length: int) -> bytes:
        """A stretch of a file here, for another node."""
        with open(source, "rb") as file:
            file.seek(offset)
            return file.read(length)
