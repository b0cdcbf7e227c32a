"""Checkpoints that have a folder of their own, in which the script puts more than DeepSpeed does.

Trainers make a folder for each checkpoint (``checkpoint-15``), have DeepSpeed write into it, and then write
weights, random states and notes of their own beside that. Such a folder is good as a whole or not at all, so
it is set aside as a whole too: what chooses the newest folder by itself must not find one without its
checkpoint.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

_NUMBER = re.compile(r"\d+")
_BEGUN = ".attempts"  # see :mod:`~orchestrator.checkpoint.store`


def is_own_folder(save_dir: Path, main: Path, tag: str, step: int, tags: Collection[str]) -> bool:
    """Whether ``save_dir`` is the folder of this checkpoint alone; ``tags`` are all that it holds.

    ``main`` is the run's own checkpoint directory. A folder elsewhere may be anything, the user's home too,
    so it has to be called by the step.
    """
    if save_dir == main or not set(tags) <= {tag}:
        return False
    return main in save_dir.parents or step in map(int, _NUMBER.findall(save_dir.name))


def left_over(beside: Path, chosen: Path | None) -> list[Path]:
    """Folders in which ranks have begun a save that never got its name, and that are newer than the one that
    is gone on from, where there is one: a script that looks for the newest by itself would fail in them. Such
    a folder has what ranks were writing, and no checkpoint of DeepSpeed's, ours or another's."""
    found = []
    for folder in sorted(beside.iterdir()) if beside.is_dir() else []:
        if folder.name.startswith(".") or not (folder / _BEGUN).is_dir() or any(folder.glob("*/*.pt")):
            continue
        if chosen is None or _is_newer(folder.name, chosen.name):
            found.append(folder)
    return found


def _is_newer(name: str, than: str) -> bool:
    """Both are called alike but for their numbers, and these are greater."""
    numbers, others = (tuple(map(int, _NUMBER.findall(each))) for each in (name, than))
    return _NUMBER.sub("#", name) == _NUMBER.sub("#", than) and numbers > others


def step_of(name: str) -> int:
    """The last number in a folder's name, 0 where it has none."""
    numbers = _NUMBER.findall(name)
    return int(numbers[-1]) if numbers else 0
