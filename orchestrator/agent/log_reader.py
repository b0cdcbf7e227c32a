"""Rank logs on the node that wrote them: what is new, and what came last."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from orchestrator.agent.log_rows import LogRows
from orchestrator.agent.messages import FiguresPrinted, LinePrinted, Printed

_TAIL_BYTES = 16 * 1024
# What one look at a log may read: a rank that prints without end must not make its agent, the driver or the
# terminal the bottleneck.
READ_BYTES = 4 * 1024 * 1024
REST_BYTES = 32 * 1024 * 1024
_DEEPEST = 20
_MOST_STEPS = 1e18  # also less than NaN and infinity, which are no steps


class LogReader:
    """Reads whole new lines of a growing file, a bounded amount at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0
        self._rows = LogRows()
        self._passed: list[str] = []
        self._passed_bytes = 0

    @property
    def read_bytes(self) -> int:
        """How much of it has been read: grows with all that is printed, whole lines or not."""
        return self._offset

    def skip(self, offset: int) -> None:
        """Go on from there, if that is ahead: what is before is no more in the file. The next lines begin
        with how much that was."""
        if offset <= self._offset:
            return
        self._passed += [f"{line}…" for line in self._rows.rest()]
        self._passed_bytes += offset - self._offset
        self._offset = offset

    def rest(self) -> list[str]:
        """All that is left of a file that grows no more (of a huge rest, the end), an unfinished line too."""
        with contextlib.suppress(FileNotFoundError):
            self._offset = max(self._offset, self.path.stat().st_size - REST_BYTES)
        lines: list[str] = []
        while True:
            before = self._offset
            lines += self.lines()
            if self._offset == before:
                return lines + self._rows.rest()

    def lines(self) -> list[str]:
        """The lines completed since the last call, long ones cut."""
        passed = self._take_passed()
        try:
            with self.path.open("rb") as stream:
                stream.seek(self._offset)
                data = stream.read(READ_BYTES)
        except FileNotFoundError:
            return passed
        self._offset += len(data)
        return passed + self._rows.feed(data)

    def bars(self) -> str:
        """The newest state of progress bars that are written again and again, "" where there are none."""
        return self._rows.bars()

    def _take_passed(self) -> list[str]:
        passed, self._passed = self._passed, []
        if self._passed_bytes:
            passed.append(
                f"… {self._passed_bytes:,} bytes left out here, of the log too (launch.log_max_bytes)"
            )
            self._passed_bytes = 0
        return passed


def tail(path: Path, lines: int) -> list[str]:
    """The last lines of a file, however large it is; of a progress bar its last state."""
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            rows = LogRows()
            return [*rows.feed(stream.read()), *rows.rest()][-lines:]
    except FileNotFoundError:
        return []


def line_part(line: str) -> Printed:
    """Returns what a line tells the driver."""
    measured = metrics_of(line)
    return LinePrinted(line) if measured is None else FiguresPrinted(*measured)


def metrics_of(line: str) -> tuple[int | None, dict[str, float]] | None:
    """The step and figures of a line that is one JSON object with at least one number, else None. NaN and
    infinity are numbers, as Python writes them: a figure that has become one is what matters most."""
    if not line.startswith("{") or line.count("[") + line.count("{") > _DEEPEST:
        return None
    try:
        body: Any = json.loads(line)
    except ValueError:
        return None
    if not isinstance(body, dict):
        return None
    step = _number(body.pop("step", None))
    metrics = {str(name): number for name, value in body.items() if (number := _number(value)) is not None}
    return (int(step) if step is not None and abs(step) < _MOST_STEPS else None, metrics) if metrics else None


def _number(value: Any) -> float | None:
    """A number as a float, where it is one and fits into one."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return None
