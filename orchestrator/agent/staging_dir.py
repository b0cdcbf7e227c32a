"""Where a node stages its checkpoints: the first folder of those asked for that has room."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.checkpoint.arena import room_bytes
from orchestrator.checkpoint.free_space import capacity_bytes

DURABLE = "durable"
# A folder with less room than this is not worth staging in where the job's needs are not known.
LEAST_BYTES = 64 << 20


@dataclass
class Place:
    """Where the node stages; ``folder`` None makes the training wait for the disk. ``remark`` says why it is
    not the first choice."""

    folder: Path | None
    remark: str | None = None


def choose_place(dirs: Sequence[str], needed_bytes: int | None, has_bytes: int = 0) -> Place:
    """The first folder with room for ``needed_bytes`` (two generations of this node; None is not known), of
    which it has ``has_bytes`` already."""
    refused: list[str] = []
    for name in dirs:
        if name == DURABLE:
            break
        folder = Path(name)
        if not is_writable(folder):
            refused.append(f"{name} is no folder that can be written")
            continue
        room = room_bytes(folder) + has_bytes
        if room >= (LEAST_BYTES if needed_bytes is None else needed_bytes):
            return Place(folder, _remark(refused, name))
        needs = f"two generations need {gigabytes(needed_bytes)}" if needed_bytes else "hardly anything"
        refused.append(f"{name} has room for {gigabytes(room)}, {needs}")
    return Place(None, _remark(refused, "the disk only: training waits for every save"))


def first_folder(dirs: Sequence[str]) -> Path | None:
    """Where the node would rather stage than anywhere else; None where it stages nowhere."""
    for name in dirs:
        if name == DURABLE:
            break
        if is_writable(Path(name)):
            return Path(name)
    return None


def why_too_much(park_bytes: int | None, dirs: Sequence[str]) -> str | None:
    """What is wrong with ``snapshot.park_bytes`` where it is more than the folder of this node could hold,
    with what to write instead."""
    folder = first_folder(dirs)
    if park_bytes is None or folder is None:
        return None
    has = capacity_bytes(folder)
    if park_bytes <= has:
        return None
    return (
        f"snapshot.park_bytes={park_bytes}: {folder} has {has} bytes here, for all that is in it; write"
        f" snapshot.park_bytes={has // 2} or less, or null for half of what each node has"
    )


def is_writable(folder: Path) -> bool:
    """Whether it is there for us to write to."""
    return folder.is_dir() and os.access(folder, os.W_OK)


def gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB"


def _remark(refused: Sequence[str], taken: str) -> str | None:
    return f"snapshot.dirs: {'; '.join(refused)}; taking {taken}" if refused else None
