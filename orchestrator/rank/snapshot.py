"""A rank's checkpoints: staged in memory when the script saves, loaded from where the driver says.

DeepSpeed hands every file of a checkpoint to its checkpoint engine. Ours copies it into a slot of shared
memory and returns; the node's writer puts it on the disk, into a folder of this attempt, and the driver
gives it its name when all ranks' files are there. A script that loads is led to the checkpoint that the
driver chose, because DeepSpeed would look for `latest` and the files by itself, and where some are
missing it goes on at step 0 without a word.
"""

from __future__ import annotations

import _thread
import contextlib
import errno
import os
import time
from pathlib import Path
from typing import Any

from orchestrator.rank.arena import Slot, load_extent
from orchestrator.rank.durable import attempt_dir
from orchestrator.rank.link import Link
from orchestrator.rank.manifest import MANIFEST, Manifest, sha256_of

_LOOK_S = 0.005
_TABLE_BYTES = 1 << 20
_NO_ROOM = (errno.ENOSPC, errno.ENOMEM, errno.EDQUOT)


class RestoreError(Exception):
    """What was to be loaded was not, or must not be. The message says what and what to do."""


class RankSnapshots:
    """What one rank knows of them. `told` comes with the rank's specification:

    - `attempt`, and `slots`: paths of two slots, none where the training waits for the disk
    - `restore`: None, or `save_dir`, `tag`, `step`, `view` (a folder that has a name for every file) and
      `files`: by name None where it lies in the view, else `path`, `offset` and `entry` of it in memory
    - `trusted`: folders from which anything is loaded
    """

    def __init__(self, link: Link, told: dict[str, Any] | None) -> None:
        self.enabled = told is not None
        told = told or {}
        self.attempt = int(told.get("attempt", 0))
        self._link = link
        self._restore: dict[str, Any] | None = told.get("restore")
        self._trusted = [os.path.realpath(folder) for folder in told.get("trusted", ())]
        self._slot_paths: list[str] = list(told.get("slots", ()))
        self._slots: list[Slot] = []
        self._reserving = _thread.allocate_lock()
        self._saving: Saving | None = None

    def adopt(self, engine: Any) -> None:
        """Take the place of DeepSpeed's plain checkpoint engine; one that the user chose stays."""
        if not self.enabled or type(engine.checkpoint_engine).__name__ != "TorchCheckpointEngine":
            return
        if getattr(engine, "zero_nvme_offload_optimizer", bool)():  # its files go by no engine
            self._restore = None
            return
        engine.checkpoint_engine = _staging_engine(self, engine.checkpoint_engine)
        if self._slot_paths and not self._slots:
            self._slots = [Slot.open(path) for path in self._slot_paths]
            self._reserving.acquire()
            _thread.start_new_thread(self._reserve, (bytes_to_stage(engine),))

    def _reserve(self, count: int) -> None:
        """Have the memory in place before the first save needs it; it does not matter if there is none."""
        try:
            with contextlib.suppress(OSError):
                for slot in self._slots:
                    slot.reserve(count)
        finally:
            self._reserving.release()

    def adopted(self, engine: Any) -> bool:
        return bool(getattr(engine.checkpoint_engine, "stages_in_memory", False))

    def before_step(self, engine: Any) -> None:
        """Raises RestoreError where the script takes a step without having loaded what it was to load."""
        if self._restore is not None and self.adopted(engine):
            raise RestoreError(
                f"this attempt was to go on from step {self._restore['step']}, but the script took a step without "
                f"having called load_checkpoint('{self._restore['save_dir']}'): it would have begun at step 0. Load "
                "what is there when the script starts, or set snapshot.enabled=false to begin anew at every fault"
            )

    def begin(self, engine: Any, save_dir: str, tag: str, save_latest: bool) -> Saving:
        """Get ready for the files of one checkpoint; waits for a slot whose generation is on its way to the disk."""
        folder = attempt_dir(Path(os.path.abspath(save_dir)), self.attempt, int(engine.global_steps), tag)
        slot, index = self._free_slot()
        saving = Saving(folder, slot, index, _zipfile(engine.checkpoint_engine.inner))
        if slot is not None:
            slot.begin(self.attempt, tag, int(engine.global_steps), str(folder.parents[2]), save_latest)
        self._saving = saving
        return saving

    def end(self, done: bool) -> None:
        """The script's `save_checkpoint` has returned, or raised."""
        saving, self._saving = self._saving, None
        if done and saving is not None and saving.slot is not None:
            saving.slot.finish()

    def lead(self, load_dir: str, tag: str | None) -> tuple[str, str | None, int | None]:
        """Where a load is led: folder, tag, and the step that it must arrive at, if that is known."""
        restore = self._restore
        if restore is None or os.path.realpath(load_dir) != os.path.realpath(restore["save_dir"]):
            return load_dir, tag, None
        return restore["view"], restore["tag"], int(restore["step"])

    def arrived(self, engine: Any, loaded: bool, wanted: int | None) -> None:
        """All ranks compare what they loaded. Raises RestoreError on every rank unless all hold the same step."""
        import torch
        import torch.distributed as dist

        step = int(engine.global_steps) if loaded else -1
        low = high = step
        if dist.is_initialized():
            ends = torch.tensor([step, -step], device=engine.device)
            dist.all_reduce(ends, dist.ReduceOp.MAX)
            high, low = int(ends[0]), -int(ends[1])
        if low != high:
            raise RestoreError(f"ranks loaded different steps, {low} to {high} (-1 is nothing); here {step}")
        if wanted is not None and step != wanted:
            raise RestoreError(f"the checkpoint of step {wanted} was to be loaded, and step {step} was (-1 is nothing)")
        if wanted is not None:
            self._restore = None

    def stage(self, inner: Any, state: Any, path: str) -> None:
        """One file of the checkpoint that is being saved: into memory, or where there is no room to the disk."""
        saving = self._saving
        name = None if saving is None else _below(path, saving.folder)
        if saving is None or name is None:
            inner.save(state, path)
            return
        if saving.slot is not None:
            try:
                saving.slot.add(name, state, saving.zipfile)
                return
            except OSError as error:
                if error.errno not in _NO_ROOM:
                    raise
                saving.give_up(inner, str(error))
        from deepspeed.checkpoint.utils import clone_tensors_for_torch_save

        inner.save(clone_tensors_for_torch_save(state), path)
        saving.direct.append(name)

    def fetch(self, inner: Any, path: str, map_location: Any) -> Any:
        """One file of the checkpoint that is being loaded. Raises RestoreError for one that no manifest names."""
        restore = self._restore
        name = None if restore is None else _below(path, Path(restore["view"], restore["tag"]))
        if restore is not None and name is not None:
            if name not in restore["files"]:
                raise RestoreError(f"{path}: the manifest of {restore['tag']} does not name it")
            place = restore["files"][name]
            if place is not None:
                return load_extent(place["path"], place["offset"], place["entry"])
            return inner.load(path, map_location)
        self._refuse_unknown(path)
        return inner.load(path, map_location)

    def _refuse_unknown(self, path: str) -> None:
        real = os.path.realpath(path)
        if any(_below(real, Path(folder)) for folder in self._trusted):
            return
        for folder in Path(real).parents:
            if (folder / MANIFEST).is_file():
                part = Manifest.from_json((folder / MANIFEST).read_text()).files.get(os.path.relpath(real, folder))
                if part is not None and sha256_of(Path(real)) == part.sha256:
                    return
                raise RestoreError(f"{path} is not as its manifest says: it is damaged, or was put there later")
        raise RestoreError(
            f"{path}: no manifest names it, and loading a pickle runs what it says; if you trust it, put its "
            f"folder into snapshot.trusted (snapshot.trusted=[{os.path.dirname(os.path.dirname(path))}])"
        )

    def _free_slot(self) -> tuple[Slot | None, int | None]:
        """The slot that does not hold the newest generation, once what it holds is on the disk."""
        if not self._slots:
            return None, None
        with self._reserving:
            pass
        ages = [_age(slot) for slot in self._slots]
        index = ages.index(min(ages))
        slot = self._slots[index]
        if is_awaited(slot):
            before = self._link.phase
            self._link.enter("held")
            while is_awaited(slot):
                time.sleep(_LOOK_S)
            self._link.enter(before)
        return slot, index


class Saving:
    """One checkpoint on its way: `direct` names the files that went to the disk at once, because of `given_up`."""

    def __init__(self, folder: Path, slot: Slot | None, index: int | None, zipfile: bool) -> None:
        self.folder = folder
        self.slot = slot
        self.zipfile = zipfile
        self.direct: list[str] = []
        self.given_up = ""
        self._index = index

    def give_up(self, inner: Any, why: str) -> None:
        """There is no room in memory: what is staged already goes to the disk, as the rest will."""
        slot, self.slot, self.given_up = self.slot, None, why
        assert slot is not None
        for name in slot.entries():
            inner.save(slot.load(name), str(self.folder / name))
            self.direct.append(name)
        slot.forget()

    def told(self) -> dict[str, Any]:
        """What the agent must know of it."""
        return {
            "slot": self._index if self.slot is not None else None,
            "files": self.direct,
            "to": str(self.folder),
            "given_up": self.given_up,
        }


def bytes_to_stage(engine: Any) -> int:
    """About what this rank puts into a checkpoint: its weights, and 12 bytes of optimizer state per parameter.

    ZeRO divides the optimizer among the data-parallel ranks, stage 3 the weights too; else the first of
    them writes all.
    """
    weights = parameters = 0
    for parameter in engine.module.parameters():
        shard = getattr(parameter, "ds_tensor", parameter)
        weights += shard.numel() * shard.element_size()
        parameters += getattr(parameter, "ds_numel", parameter.numel())
    stage, writes_weights = engine.zero_optimization_stage(), bool(engine.save_non_zero_checkpoint)
    optimizer = 12 * parameters // engine.dp_world_size if stage else 12 * parameters * writes_weights
    return int(1.02 * (weights * (writes_weights or stage == 3) + optimizer)) + _TABLE_BYTES


def _age(slot: Slot) -> tuple[int, int]:
    header = slot.header()
    return (int(header["attempt"]), int(header["step"])) if header and header["state"] == "staged" else (-1, -1)


def is_awaited(slot: Slot) -> bool:
    """Whether its generation is on its way to the disk."""
    header, written = slot.header(), slot.written()
    if header is None or header["state"] != "staged":
        return False
    return written is None or any(written[key] != header[key] for key in ("attempt", "tag", "dir"))


def _below(path: str, folder: Path) -> str | None:
    """`path` as seen from `folder`, None where it lies elsewhere."""
    relative = os.path.relpath(os.path.abspath(path), folder)
    return None if relative.startswith("..") else relative


def _zipfile(inner: Any) -> bool:
    return bool(getattr(inner, "zipfile_serialization", True))


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

        def save(self, state_dict: Any, path: str) -> None:
            snapshots.stage(self.inner, state_dict, path)

        def load(self, path: str, map_location: Any = None) -> Any:
            return snapshots.fetch(self.inner, path, map_location)

        def commit(self, info: Any) -> bool:
            return True

        def is_decoupled(self) -> bool:
            return True

        def preserves_storage_sharing(self) -> bool:
            return False

    return StagingEngine()
