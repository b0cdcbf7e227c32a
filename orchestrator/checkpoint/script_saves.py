"""Checkpoints that a script writes by itself, without DeepSpeed: which are whole, and from which to go on.

Nobody has written a manifest for them, so a file is held to its own index: the central directory of what
``torch.save`` writes, the header of safetensors, the list of shards, the places in ``.metadata``. All of them
come last or tell the length of the rest, so what a rank that died was writing is known by them. No code of a
pickle is run. It is looked at between attempts, when no rank and no child of one is left that could be
writing.

What is named by the same step was saved as one and is good as one: a model goes with its optimizer, the part
of one rank with those of the others.

Deciding is pure (:func:`choose`, :func:`as_sets`); :func:`look` reads a folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import struct
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from orchestrator import papers
from orchestrator.checkpoint.distributed_index import lacking
from orchestrator.checkpoint.manifest import MANIFEST

_WEIGHTS = (".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".distcp")
_STEP = re.compile(r"(?:step|checkpoint|ckpt|iter)[-_=]?0*(\d+)(?!\d)", re.IGNORECASE)
_RANK = re.compile(r"(?:rank|rng_state)[-_=]?(\d+)(?!\d)", re.IGNORECASE)
# A part of a checkpoint that no script is told to load by itself.
_OF_A_MODEL = re.compile(r"optim|sched|scaler|rng|random", re.IGNORECASE)
# What Hugging Face's Trainer writes last into a folder, and what tells that the folder is one of its.
_TRAINER_LAST, _TRAINERS = "trainer_state.json", ("training_args.bin", "rng_state", "scheduler.pt")
# What torch.distributed.checkpoint writes last, and how its parts are called.
_DCP_LAST, _DCP_PART = ".metadata", ".distcp"
# What DeepSpeed finds its newest by, and how a rank's part of it is called.
_LATEST, _OF_DEEPSPEED, _MOST_MARKER_BYTES = "latest", "*/*_states.pt", 4096
_ZIP, _HEADER = b"PK", struct.Struct("<Q")
_MOST_FILES, _MOST_HEADER_BYTES, _MOST_JSON_BYTES = 10_000, 100 << 20, 256 << 20


@dataclass(frozen=True)
class ScriptSave:
    """A file or a folder of a checkpoint directory. ``step`` is None where its name does not say it, ``torn``
    why it is not whole, None where it is."""

    name: str
    step: int | None
    time_unix_s: float
    torn: str | None = None
    ranks: frozenset[int] = frozenset()  # of which there is a part, as the files are called
    size_bytes: int = 0

    @property
    def is_best(self) -> bool:
        """Kept because it was the best, so it is the newest of nothing."""
        return "best" in self.name.lower()

    @property
    def is_of_a_step(self) -> bool:
        """It may be a part of what was saved at one step."""
        return self.step is not None and not self.is_best

    @property
    def age(self) -> tuple[bool, int, bool, float]:
        """The newest is the greatest."""
        step = -1 if self.step is None else self.step
        return not self.is_best, step, _OF_A_MODEL.search(self.name) is None, self.time_unix_s


def choose(found: Sequence[ScriptSave], since_unix_s: float) -> tuple[ScriptSave | None, list[ScriptSave]]:
    """The newest that is whole, and those that are torn and newer, which are in the way of a script that
    looks for the newest by itself. What was there before the run began, ``since_unix_s``, is none of its
    own."""
    ours = as_sets([one for one in found if one.time_unix_s >= since_unix_s])
    whole = max((one for one in ours if one.torn is None), key=lambda one: one.age, default=None)
    return whole, [one for one in ours if one.torn is not None and (whole is None or one.age >= whole.age)]


def set_of(one: ScriptSave, found: Sequence[ScriptSave]) -> list[ScriptSave]:
    """What was saved as one with it, itself included."""
    if not one.is_of_a_step:
        return [one]
    return [each for each in found if each.step == one.step and each.is_of_a_step]


def as_sets(found: Sequence[ScriptSave]) -> list[ScriptSave]:
    """The same saves, those torn of whose set another is, or of which a rank's part is not there that
    another step has."""
    named = sorted((one for one in found if one.is_of_a_step), key=lambda one: one.step or 0)
    alone = [one for one in found if not one.is_of_a_step]
    sets = [list(group) for _, group in groupby(named, key=lambda one: one.step)]
    ranks = [frozenset[int]().union(*(one.ranks for one in group)) for group in sets]
    every = frozenset[int]().union(*ranks)
    for group, there in zip(sets, ranks, strict=True):
        torn = next((f"{one.name}, of the same step, is not whole" for one in group if one.torn), None)
        if torn is None and there and there != every:
            torn = f"it has nothing of rank {min(every - there)}, of which another step has"
        alone += [one if one.torn or torn is None else replace(one, torn=torn) for one in group]
    return sorted(alone, key=lambda one: one.name)


def look(folder: Path) -> list[ScriptSave]:
    """What a checkpoint directory holds that a script may have saved; not what has a manifest of ours."""
    entries = sorted(folder.iterdir()) if folder.is_dir() else []
    return [found for entry in entries if (found := look_at(entry)) is not None]


def look_at(entry: Path, anything: bool = False) -> ScriptSave | None:
    """The same of one file or folder; ``anything``: it was saved, however it is called."""
    if entry.name.startswith(".") or entry.is_symlink():
        return None
    files = list(_files(entry))
    if not files or any(file.name == MANIFEST for file in files):
        return None
    if not anything and not any(file.suffix in _WEIGHTS for file in files):
        return None
    facts = [file.stat() for file in files]
    torn = next((why for file in files if (why := _torn(file)) is not None), None) or _lacks(entry, files)
    return ScriptSave(
        entry.name,
        step_of(entry.name),
        max(one.st_mtime for one in facts),
        torn,
        frozenset(int(number) for file in files for number in _RANK.findall(file.name)),
        sum(one.st_size for one in facts),
    )


def torn_around(folder: Path, tag: str, whole: bool) -> str | None:
    """What is half written of all that a script has put around the checkpoint ``tag`` of DeepSpeed's, in a
    folder that it has for that one; None where nothing is. ``whole``: all ranks write into this folder, so
    what is written last has to be in it."""
    files = [file for file in _files(folder) if not _is_hidden(file.relative_to(folder), tag)]
    torn = next((why for file in files if (why := _torn(file)) is not None), None)
    return torn or (_lacks(folder, files) if whole else None)


def _is_hidden(path: Path, tag: str) -> bool:
    """DeepSpeed's own files, for which their manifest speaks, and what is on its way to them."""
    return path.parts[0] == tag or path.parts[0].startswith(".")


def step_of(name: str) -> int | None:
    """The step in the name of a file or folder; None where it does not say one."""
    found = _STEP.search(name)
    return int(found[1]) if found else None


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
    marker = next((file for file in files if file.name == _LATEST), None)
    if marker is not None and (why := _leads_nowhere(marker)) is not None:
        return why
    return next((why for file in files if file.name == _DCP_LAST and (why := lacking(file))), None)


def _leads_nowhere(marker: Path) -> str | None:
    """Why DeepSpeed's `latest` cannot be followed, where parts of its checkpoints lie beside it."""
    if not any(marker.parent.glob(_OF_DEEPSPEED)):
        return None
    try:
        tag = papers.read_text(marker, _MOST_MARKER_BYTES).strip()
    except (OSError, ValueError) as error:
        return f"{marker.name} cannot be read: {getattr(error, 'strerror', None) or error}"
    if not tag:
        return f"{marker.name} is empty"
    there = (marker.parent / tag).exists()
    return None if there else f"{marker.name} names {papers.short(tag)}, which is not there"


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
            return _torn_json(path)
    except (OSError, ValueError, LookupError, TypeError, zipfile.BadZipFile) as error:
        return f"{path.name} cannot be read: {getattr(error, 'strerror', None) or error}"
    return None


def _torn_json(path: Path) -> str | None:
    """Any value of JSON is whole, however it is nested; what is too long to be read is not judged."""
    with papers.open_plain(path) as file:
        text = file.read(_MOST_JSON_BYTES + 1)
    if len(text) <= _MOST_JSON_BYTES:
        with contextlib.suppress(RecursionError):
            json.loads(text)
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
