"""Checkpoints that a script writes by itself, without DeepSpeed: which are whole, and from which to go on.

Nobody has written a manifest for them, so a file is held to its own index: the central directory of what
``torch.save`` writes, the header of safetensors, the list of shards. All of them come last or tell the length
of the rest, so what a rank that died was writing is known by them. Nothing is unpickled. It is looked at
between attempts, when no rank and no child of one is left that could be writing.

Deciding is pure (:func:`choose`); :func:`look` reads a folder.
"""

from __future__ import annotations

import json
import os
import re
import struct
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator import papers
from orchestrator.checkpoint.manifest import MANIFEST

_WEIGHTS = (".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".distcp")
_STEP = re.compile(r"(?:step|checkpoint|ckpt|iter)[-_=]?0*(\d+)(?!\d)", re.IGNORECASE)
# What Hugging Face's Trainer writes last into a folder, and what tells that the folder is one of its.
_TRAINER_LAST, _TRAINERS = "trainer_state.json", ("training_args.bin", "rng_state", "scheduler.pt")
# What torch.distributed.checkpoint writes last, and how its parts are called.
_DCP_LAST, _DCP_PART = ".metadata", ".distcp"
_ZIP, _HEADER = b"PK", struct.Struct("<Q")
_MOST_FILES, _MOST_HEADER_BYTES = 10_000, 100 << 20


@dataclass(frozen=True)
class ScriptSave:
    """A file or a folder of a checkpoint directory. ``step`` is None where its name does not say it, ``torn``
    why it is not whole, None where it is."""

    name: str
    step: int | None
    time_unix_s: float
    torn: str | None = None

    @property
    def age(self) -> tuple[bool, int, float]:
        """The newest is the greatest; what is kept because it was the best is the newest of nothing."""
        return "best" not in self.name.lower(), -1 if self.step is None else self.step, self.time_unix_s


def choose(found: Sequence[ScriptSave], since_unix_s: float) -> tuple[ScriptSave | None, list[ScriptSave]]:
    """The newest that is whole, and those that are torn and newer, which are in the way of a script that
    looks for the newest by itself. What was there before the run began, ``since_unix_s``, is none of its
    own."""
    ours = [one for one in found if one.time_unix_s >= since_unix_s]
    whole = max((one for one in ours if one.torn is None), key=lambda one: one.age, default=None)
    return whole, [one for one in ours if one.torn is not None and (whole is None or one.age >= whole.age)]


def look(folder: Path) -> list[ScriptSave]:
    """What a checkpoint directory holds that a script may have saved; not what has a manifest of ours."""
    found = []
    for entry in sorted(folder.iterdir()) if folder.is_dir() else []:
        if entry.name.startswith(".") or entry.is_symlink():
            continue
        files = list(_files(entry))
        if not any(file.suffix in _WEIGHTS for file in files) or any(file.name == MANIFEST for file in files):
            continue
        step = _STEP.search(entry.name)
        times = [file.stat().st_mtime for file in files]
        torn = next((why for file in files if (why := _torn(file)) is not None), None) or _lacks(entry, files)
        found.append(ScriptSave(entry.name, int(step[1]) if step else None, max(times), torn))
    return found


def _files(entry: Path) -> Iterator[Path]:
    """A file itself, or the plain files of a folder and of those in it."""
    if entry.is_file():
        yield entry
        return
    count = 0
    for parent, _, names in os.walk(entry):
        for name in sorted(names):
            path = Path(parent, name)
            if path.is_file() and not path.is_symlink():
                yield path
                count += 1
            if count >= _MOST_FILES:
                return


def _lacks(entry: Path, files: Sequence[Path]) -> str | None:
    """What a folder has to have, and has not."""
    names = {file.name for file in files}
    if any(name.startswith(_TRAINERS) for name in names) and _TRAINER_LAST not in names:
        return f"it has no {_TRAINER_LAST}, which is written last"
    if any(file.suffix == _DCP_PART for file in files) and _DCP_LAST not in names:
        return f"it has no {_DCP_LAST}, which is written last"
    for index in (file for file in files if file.name.endswith(".index.json")):
        for shard in _shards(index):
            if not (index.parent / shard).is_file():
                return f"{index.name} names {papers.short(shard)}, which is not there"
    return None


def _shards(index: Path) -> list[str]:
    try:
        weights = papers.read_object(index).get("weight_map")
    except (OSError, ValueError):
        return []
    names = weights.values() if isinstance(weights, dict) else ()
    return sorted({name for name in names if isinstance(name, str)})


def _torn(path: Path) -> str | None:
    """Why a file is not all that was to be written; None where it is, or where nothing in it could tell."""
    try:
        if path.suffix == ".safetensors":
            return _torn_safetensors(path)
        if path.suffix in (".pt", ".pth", ".ckpt", ".bin"):
            return _torn_zip(path)
        if path.name == _TRAINER_LAST or path.name.endswith(".index.json"):
            papers.read_object(path)
    except (OSError, ValueError, LookupError, TypeError, zipfile.BadZipFile) as error:
        return f"{path.name} cannot be read: {getattr(error, 'strerror', None) or error}"
    return None


def _torn_zip(path: Path) -> str | None:
    """What torch.save writes is a zip file, whose directory is its end. Its older format has no such mark."""
    with papers.open_plain(path) as file:
        start = file.read(2)
    if start == b"":
        return f"{path.name} is empty"
    if start != _ZIP:
        return None
    with zipfile.ZipFile(path) as whole:
        return None if whole.namelist() else f"{path.name} is empty"


def _torn_safetensors(path: Path) -> str | None:
    size = path.stat().st_size
    with papers.open_plain(path) as file:
        start = file.read(_HEADER.size)
        if len(start) < _HEADER.size:
            return f"{path.name} ends within its header"
        (length,) = _HEADER.unpack(start)
        if length > min(size - _HEADER.size, _MOST_HEADER_BYTES):
            return f"{path.name} ends within its header"
        header = json.loads(file.read(length))
    tensors = header.values() if isinstance(header, dict) else ()
    ends = [each["data_offsets"][1] for each in tensors if isinstance(each, dict) and "data_offsets" in each]
    wanted = _HEADER.size + length + max(ends, default=0)
    return None if size >= wanted else f"{path.name} has {size:,} bytes of {wanted:,}"
