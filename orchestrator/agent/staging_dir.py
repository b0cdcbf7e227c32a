"""Where a node stages its checkpoints: the first folder of those asked for that has room."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.checkpoint.arena import room_bytes

DURABLE = "durable"
# A folder with less room than this is not worth staging in where the job's needs are not known.
_LEAST_BYTES = 64 << 20


@dataclass
class Place:
    """Where the node stages; ``folder`` None makes the training wait for the disk. ``remark`` says why it is
    not the first choice."""

    folder: Path | None
    remark: str | None = None


def choose_place(dirs: Sequence[str], needed_bytes: int | None) -> Place:
    """The first folder with room for ``needed_bytes`` (two generations of this node; None is not known)."""
    refused: list[str] = []
    for name in dirs:
        if name == DURABLE:
            break
        folder = Path(name)
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            refused.append(f"{name} is no folder that can be written")
            continue
        room = room_bytes(folder)
        if room >= (needed_bytes or _LEAST_BYTES):
            return Place(folder, _remark(refused, name))
        needs = f"two generations need {gigabytes(needed_bytes)}" if needed_bytes else "hardly anything"
        refused.append(f"{name} has room for {gigabytes(room)}, {needs}")
    return Place(None, _remark(refused, "the disk only: training waits for every save"))


def gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB"


def _remark(refused: Sequence[str], taken: str) -> str | None:
    return f"snapshot.dirs: {'; '.join(refused)}; taking {taken}" if refused else None
