"""How fast and how roomy the folders are that a run writes to."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

from orchestrator.check.reports import Figure, What
from orchestrator.checkpoint.free_space import room_bytes

_PIECE = b"\xa5" * (4 << 20)


def disk(folder: Path, seconds: float, most_bytes: int = 128 << 20) -> list[Figure]:
    """Written and synced, into a file without a name. Raises ``OSError``."""
    return _looked(folder, seconds, most_bytes, What.DISK, What.DISK_ROOM)


def shared_memory(folder: Path, seconds: float, most_bytes: int = 64 << 20) -> list[Figure]:
    """The same of memory that files lie in. Raises ``OSError``."""
    return _looked(folder, seconds, most_bytes, What.SHM, What.SHM_ROOM)


def _looked(folder: Path, seconds: float, most_bytes: int, rate: What, room: What) -> list[Figure]:
    free_bytes = room_bytes(folder)
    found = [Figure(room, float(free_bytes), device=str(folder))]
    most_bytes = min(most_bytes, free_bytes // 2)
    if most_bytes < len(_PIECE):
        return found
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        written, began_s = 0, time.monotonic()
        while written + len(_PIECE) <= most_bytes and time.monotonic() - began_s < seconds:
            written += file.write(_PIECE)
        os.fsync(file.fileno())
        taken_s = time.monotonic() - began_s
    return [Figure(rate, written / taken_s, device=str(folder)), *found]


def there(folder: str) -> Path:
    """The folder, or the nearest one above it that is there."""
    place = Path(folder).absolute()
    return next(one for one in (place, *place.parents) if one.is_dir())
