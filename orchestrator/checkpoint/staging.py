"""Staging: where a rank's checkpoint goes when the script saves, memory of the node or else the disk."""

from __future__ import annotations

import _thread
import contextlib
import errno
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from orchestrator.checkpoint.arena import Slot
from orchestrator.checkpoint.store import attempt_dir
from orchestrator.files import NO_SPACE

_LOOK_S = 0.005
_TABLE_BYTES = 1 << 20
NO_ROOM = (*NO_SPACE, errno.ENOMEM)


class Phases(Protocol):
    """What staging tells of itself: the rank's tie to its agent has them."""

    phase: str

    def enter(self, phase: str) -> None: ...


class Staging:
    """One rank's slots; without any, the training waits for the disk."""

    def __init__(self, phases: Phases, attempt: int, slot_paths: Sequence[str]) -> None:
        self.attempt = attempt
        self._phases = phases
        self._slot_paths = list(slot_paths)
        self._slots: list[Slot] = []
        self._reserving = _thread.allocate_lock()
        self._saving: Saving | None = None

    def prepare(self, engine: Any) -> None:
        """Open the slots, and have their memory in place before the first save needs it."""
        if self._slot_paths and not self._slots:
            self._slots = [Slot.open(path) for path in self._slot_paths]
            self._reserving.acquire()
            _thread.start_new_thread(self._reserve, (bytes_to_stage(engine),))

    def begin(self, engine: Any, save_dir: str, tag: str, save_latest: bool) -> Saving:
        """Get ready for the files of one checkpoint; waits for a slot whose generation is on its way to the
        disk."""
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

    def stage(self, inner: Any, state: Any, path: str) -> None:
        """One file of the checkpoint that is being saved: into memory, or where there is no room to the
        disk."""
        saving = self._saving
        name = None if saving is None else below(path, saving.folder)
        if saving is None or name is None:
            inner.save(state, path)
            return
        if saving.slot is not None:
            try:
                saving.slot.add(name, state, saving.zipfile)
                return
            except OSError as error:
                if error.errno not in NO_ROOM:
                    raise
                saving.give_up(inner, str(error))
        from deepspeed.checkpoint.utils import clone_tensors_for_torch_save

        inner.save(clone_tensors_for_torch_save(state), path)
        saving.direct.append(name)

    def _reserve(self, count: int) -> None:
        """It does not matter if there is no room: the save itself finds out."""
        try:
            with contextlib.suppress(OSError):
                for slot in self._slots:
                    slot.reserve(count)
        finally:
            self._reserving.release()

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
            before = self._phases.phase
            self._phases.enter("held")
            while is_awaited(slot):
                time.sleep(_LOOK_S)
            self._phases.enter(before)
        return slot, index


class Saving:
    """One checkpoint on its way: `direct` names the files that went to the disk at once, because of
    `given_up`."""

    def __init__(self, folder: Path, slot: Slot | None, index: int | None, zipfile: bool) -> None:
        self.folder = folder
        self.slot = slot
        self.zipfile = zipfile
        self.direct: list[str] = []
        self.given_up = ""
        self._index = index

    @property
    def slot_index(self) -> int | None:
        """Which of the rank's slots holds it; None where it went to the disk."""
        return self._index if self.slot is not None else None

    def give_up(self, inner: Any, why: str) -> None:
        """There is no room in memory: what is staged already goes to the disk, as the rest will."""
        slot, self.slot, self.given_up = self.slot, None, why
        assert slot is not None
        for name in slot.entries():
            inner.save(slot.load(name), str(self.folder / name))
            self.direct.append(name)
        slot.forget()


def bytes_to_stage(engine: Any) -> int:
    """About what this rank puts into a checkpoint: its weights, and 12 bytes of optimizer state per
    parameter.

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
    return (
        (int(header["attempt"]), int(header["step"])) if header and header["state"] == "staged" else (-1, -1)
    )


def is_awaited(slot: Slot) -> bool:
    """Whether its generation is on its way to the disk."""
    header = slot.header()
    return header is not None and header["state"] == "staged" and not writer_is_done(slot, header)


def writer_is_done(slot: Slot, header: Mapping[str, Any]) -> bool:
    """Whether it has marked this generation, as written or given up."""
    written = slot.written()
    return written is not None and all(written[key] == header[key] for key in ("attempt", "tag", "dir"))


def _zipfile(inner: Any) -> bool:
    return bool(getattr(inner, "zipfile_serialization", True))


def below(path: str, folder: Path) -> str | None:
    """`path` as seen from `folder`, None where it lies elsewhere."""
    relative = os.path.relpath(os.path.abspath(path), folder)
    return None if relative.startswith("..") else relative
