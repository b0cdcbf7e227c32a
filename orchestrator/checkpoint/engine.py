"""A rank's checkpoints: staged in memory when the script saves, loaded from where the driver says.

DeepSpeed hands every file of a checkpoint to its checkpoint engine. Ours copies it into a slot of shared
memory and returns; the node's writer puts it on the disk, into a folder of this attempt, and the driver
gives it its name when all ranks' files are there. A script that loads is led to the checkpoint that the
driver chose, because DeepSpeed would look for `latest` and the files by itself, and where some are
missing it goes on at step 0 without a word.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from orchestrator.checkpoint.arena import load_extent
from orchestrator.checkpoint.laid_out import LaidOut
from orchestrator.checkpoint.manifest import sha256_of
from orchestrator.checkpoint.plain_load import UnknownTypesError, plain_load
from orchestrator.checkpoint.staging import NO_ROOM, Phases, Staging, below
from orchestrator.checkpoint.vouching import KnownManifests
from orchestrator.errors import RestoreError

_NOTHING, _OWN_CHOICE = -1, -2  # in place of a step


class RankSnapshots:
    """What one rank knows of them. `payload` comes with the rank's specification:

    - `attempt`, and `slots`: paths of two slots, none where the training waits for the disk
    - `restore`: None, or a `LaidOut`
    - `trusted`: folders from which anything is loaded
    - `key`: by which our manifests are signed, in hex digits; `key_required`: others are not loaded at all
    - `allow_types`: names of types that may be loaded from what is not vouched for
    """

    def __init__(self, phases: Phases, payload: dict[str, Any] | None) -> None:
        self.enabled = payload is not None
        payload = payload or {}
        self.staging = Staging(phases, int(payload.get("attempt", 0)), payload.get("slots", ()))
        restore = payload.get("restore")
        self._restore = None if restore is None else LaidOut.from_payload(restore)
        self._trusted = [os.path.realpath(folder) for folder in payload.get("trusted", ())]
        self._manifests = KnownManifests(bytes.fromhex(payload.get("key", "")))
        self._key_required = bool(payload.get("key_required"))
        self._allow_types = list(payload.get("allow_types", ()))

    def adopt(self, engine: Any) -> None:
        """Take the place of DeepSpeed's plain checkpoint engine; one that the user chose stays."""
        if not self.enabled or type(engine.checkpoint_engine).__name__ != "TorchCheckpointEngine":
            return
        if getattr(engine, "zero_nvme_offload_optimizer", bool)():  # its files go by no engine
            self._restore = None
            return
        if engine.load_universal_checkpoint():  # converted by hand, for another layout: not what was told
            self._restore = None
        engine.checkpoint_engine = _staging_engine(self, engine.checkpoint_engine)
        if hasattr(engine, "_copy_recovery_script"):  # a full disk holds the writer, not the training
            engine._copy_recovery_script = _unless_full(engine._copy_recovery_script)
        self.staging.prepare(engine)

    def adopted(self, engine: Any) -> bool:
        return bool(getattr(engine.checkpoint_engine, "stages_in_memory", False))

    def before_step(self, engine: Any) -> None:
        """Raises RestoreError where the script takes a step without having loaded what it was to load."""
        if self._restore is not None and self.adopted(engine):
            raise RestoreError(
                f"this attempt was to go on from step {self._restore.step}, but the script took a step"
                f" without having called load_checkpoint('{self._restore.save_dir}'): it would have begun"
                " at step 0. Load what is there when the script starts, or set snapshot.enabled=false to"
                " begin anew at every fault"
            )

    def lead(self, load_dir: str, tag: str | None) -> tuple[str, str | None, int | None]:
        """Where a load is led: folder, tag, and the step that it must arrive at, if that is known."""
        restore = self._restore
        if restore is None or os.path.realpath(load_dir) != os.path.realpath(restore.save_dir):
            return load_dir, tag, None
        return restore.view, restore.tag, restore.step

    def depart(self, engine: Any, load_dir: str, tag: str | None, wanted: int | None) -> None:
        """All ranks compare what they are about to load. Raises RestoreError on every rank where that
        differs: a rank that finds nothing would leave the others waiting for it in the middle of loading."""
        finds = tag is not None or os.path.isfile(os.path.join(load_dir, "latest"))
        own = _OWN_CHOICE if finds else _NOTHING
        low, high = _lowest_and_highest(engine, own if wanted is None else wanted)
        if low != high:
            here = "nothing" if not finds else load_dir if wanted is None else f"step {wanted}"
            raise RestoreError(f"ranks are about to load different checkpoints; here {here}")

    def arrived(self, engine: Any, loaded: bool, wanted: int | None) -> None:
        """All ranks compare what they loaded. Raises RestoreError on every rank unless all hold the same
        step."""
        step = int(engine.global_steps) if loaded else _NOTHING
        low, high = _lowest_and_highest(engine, step)
        if low != high:
            raise RestoreError(f"ranks loaded different steps, {low} to {high} (-1 is nothing); here {step}")
        if wanted is not None and step != wanted:
            raise RestoreError(
                f"the checkpoint of step {wanted} was to be loaded, and step {step} was (-1 is nothing)"
            )
        if wanted is not None:
            self._restore = None

    def fetch(self, inner: Any, path: str, map_location: Any) -> Any:
        """One file of the checkpoint that is being loaded. Raises RestoreError for one that no manifest
        names."""
        restore = self._restore
        name = None if restore is None else below(path, Path(restore.view, restore.tag))
        if restore is not None and name is not None:
            if name not in restore.files:
                raise RestoreError(f"{path}: the manifest of {restore.tag} does not name it")
            place = restore.files[name]
            if place is not None:
                return load_extent(place.path, place.offset, place.entry)
            unvouched = restore.unvouched
        else:
            unvouched = self._why_not_vouched(path)
        if unvouched is None:
            return inner.load(path, map_location)
        return self._load_plain(path, map_location, unvouched)

    def _load_plain(self, path: str, map_location: Any, unvouched: str) -> Any:
        try:
            return plain_load(path, map_location, self._allow_types)
        except UnknownTypesError as error:
            trusted = f"snapshot.trusted=[{os.path.dirname(os.path.dirname(os.path.realpath(path)))}]"
            remedy = f"snapshot.allow_types=[{','.join(error.allowable)}]" if error.allowable else trusted
            raise RestoreError(
                f"{path}: {unvouched}, so only types that are known to run nothing are loaded from it; but"
                f" {error}. If you know who wrote it, set {remedy}"
            ) from None
        except ValueError as error:
            raise RestoreError(str(error)) from None

    def _why_not_vouched(self, path: str) -> str | None:
        """Of a file that a script loads by itself; None where it is ours. Raises RestoreError where no
        manifest has it."""
        real = os.path.realpath(path)
        if any(below(real, Path(folder)) for folder in self._trusted):
            return None
        for folder in Path(real).parents:
            if (known := self._manifests.of(folder)) is not None:
                name = os.path.relpath(real, folder)
                part = known.manifest.files.get(name)
                if part is None or sha256_of(Path(real)) != part.sha256:
                    raise RestoreError(
                        f"{path} is not as its manifest says: it is damaged, or was put there later"
                    )
                if self._key_required and not known.is_signed:
                    raise RestoreError(
                        f"{path}: its manifest is not signed with the key of snapshot.key_file"
                    )
                return known.why_not_vouched(name)
        raise RestoreError(
            f"{path}: no manifest names it, and loading a pickle runs what it says; if you trust it, put its "
            f"folder into snapshot.trusted (snapshot.trusted=[{os.path.dirname(os.path.dirname(path))}])"
        )


def _lowest_and_highest(engine: Any, number: int) -> tuple[int, int]:
    """Of all ranks' numbers."""
    import torch
    import torch.distributed as dist

    if not dist.is_initialized():
        return number, number
    ends = torch.tensor([number, -number], device=engine.device)
    dist.all_reduce(ends, dist.ReduceOp.MAX)
    return -int(ends[1]), int(ends[0])


def _unless_full(action: Callable[..., Any]) -> Callable[..., Any]:
    """What DeepSpeed itself puts into the folder while saving: done, or left out where there is no space."""

    def tried(*args: Any, **kwargs: Any) -> None:
        try:
            action(*args, **kwargs)
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise

    return tried


def _staging_engine(snapshots: RankSnapshots, plain: Any) -> Any:
    from deepspeed.runtime.checkpoint_engine.checkpoint_engine import CheckpointEngine

    class StagingEngine(CheckpointEngine):  # type: ignore[misc]
        """DeepSpeed sees an engine that commits by itself, some time after `save_checkpoint`."""

        stages_in_memory = True

        def __init__(self) -> None:
            super().__init__()
            self.name = "StagingEngine"
            self.inner = plain

        def create(self, info: Any) -> None:
            pass

        def makedirs(self, path: str, exist_ok: bool = False) -> None:
            _unless_full(os.makedirs)(path, exist_ok=exist_ok)

        def save(self, state_dict: Any, path: str) -> None:
            snapshots.staging.stage(self.inner, state_dict, path)

        def load(self, path: str, map_location: Any = None) -> Any:
            return snapshots.fetch(self.inner, path, map_location)

        def commit(self, info: Any) -> bool:
            return True

        def is_decoupled(self) -> bool:
            return True

        def preserves_storage_sharing(self) -> bool:
            return False

    return StagingEngine()
