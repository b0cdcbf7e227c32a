"""Rank logs on the node that wrote them: what is new, and what came last."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

_TAIL_BYTES = 16 * 1024


class LogReader:
    """Reads whole new lines of a growing file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0
        self._rest = b""

    def lines(self, last: bool = False) -> list[str]:
        """The lines completed since the last call; with ``last`` an unfinished one too."""
        try:
            with self.path.open("rb") as stream:
                stream.seek(self._offset)
                data = stream.read()
        except FileNotFoundError:
            return []
        self._offset += len(data)
        *whole, self._rest = (self._rest + data).split(b"\n")
        if last and self._rest:
            whole, self._rest = [*whole, self._rest], b""
        return [line.decode(errors="replace").rstrip("\r") for line in whole]


def tail(path: Path, lines: int) -> list[str]:
    """The last lines of a file, however large it is."""
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            return stream.read().decode(errors="replace").splitlines()[-lines:]
    except FileNotFoundError:
        return []


def metrics_of(line: str) -> tuple[int | None, dict[str, float]] | None:
    """The step and figures of a line that is one JSON object with at least one number, else None."""
    if not line.startswith("{"):
        return None
    try:
        body: Any = json.loads(line)
    except ValueError:
        return None
    if not isinstance(body, dict):
        return None
    step = body.pop("step", None)
    metrics = {
        str(name): float(value)
        for name, value in body.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }
    return (int(step) if isinstance(step, int | float) else None, metrics) if metrics else None
