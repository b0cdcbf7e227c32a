"""What of printed bytes stays, and what is replaced: lines, and rows that a progress bar writes again and
again.

A bar goes back to the begin of its row (``\\r``), several go up and down between theirs (``\\n``, ``\\r`` and
the escape for a row up). Of such rows only the newest state is kept; one becomes a line once something else
is written below it. This is no terminal: a row that is written anew is new as a whole, and all other escapes
are part of the text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# What a line may be long: what is longer is cut.
LINE_BYTES = 4000
_MOST_ROWS = 50
_CONTROLS = re.compile(rb"(\r\n|\n|\r+|\x1b\[\d*A)")
_MOVES = re.compile(rb"\r|\x1b\[\d*A")
_FIGURES_BEHIND = re.compile(rb"(?<!\A)\{\".*\}\Z")
_BEGUN_ESCAPE = re.compile(rb"\x1b(\[\d{0,4})?\Z")


@dataclass
class _Row:
    data: bytes = b""
    cut: bool = False
    over: bool = False  # what comes next replaces it
    bar: bool = False  # it was gone back to

    def add(self, part: bytes) -> None:
        if self.over:
            self.data, self.cut, self.over = b"", False, False
        room = LINE_BYTES - len(self.data)
        self.cut = self.cut or len(part) > room
        self.data += part[:room]

    @property
    def gone(self) -> bool:
        """A bar that has wiped itself out."""
        return self.bar and not self.data.strip()

    @property
    def figures_behind(self) -> bytes | None:
        """Figures that were printed while a bar stood there are written behind it, in the same row."""
        found = _FIGURES_BEHIND.search(self.data.rstrip(b" ")) if self.bar else None
        return None if found is None else found[0]

    def text(self) -> str:
        shown = self.data.rstrip(b" ") if self.bar else self.data
        if (behind := self.figures_behind) is not None:
            shown = behind
        return shown.decode(errors="replace") + ("…" if self.cut else "")


class LogRows:
    """Takes bytes as they come, in pieces of any length."""

    def __init__(self) -> None:
        self._rows = [_Row()]
        self._at = 0
        self._came_down = False  # to this row, and nothing is written there yet
        self._stays_down = False  # it came down, and has not gone up since
        self._begun = b""  # an escape whose end has not come yet

    def feed(self, data: bytes) -> list[str]:
        """Returns the lines that are complete now."""
        data, self._begun = self._begun + data, b""
        row = self._rows[0]
        if len(self._rows) == 1 and not row.over and not row.bar and not _MOVES.search(data):
            if (begun := _BEGUN_ESCAPE.search(data[-8:])) is not None:
                self._begun = begun[0]
                data = data[: -len(self._begun)]
            return self._plain(data)
        return self._moving(data)

    def bars(self) -> str:
        """The newest state of the rows that are written again and again, "" where there are none."""
        return "\n".join(row.text() for row in self._rows if row.bar and not row.gone)

    def rest(self) -> list[str]:
        """All that is not complete: nothing more comes."""
        if self._begun:
            self._rows[self._at].add(self._begun)
        rows, self._rows, self._at, self._begun = self._rows, [_Row()], 0, b""
        return [row.text() for row in rows if row.data and not row.gone]

    def _plain(self, data: bytes) -> list[str]:
        first, *others = data.split(b"\n")
        self._rows[0].add(first)
        lines = []
        for part in others:
            lines.append(self._rows[0].text())
            self._rows[0] = _Row()
            self._rows[0].add(part)
        return lines

    def _moving(self, data: bytes) -> list[str]:
        if (begun := _BEGUN_ESCAPE.search(data[-8:])) is not None:
            self._begun = begun[0]
            data = data[: -len(self._begun)]
        lines: list[str] = []
        for place, part in enumerate(_CONTROLS.split(data)):
            if place % 2 == 0:
                if part:
                    lines += self._above() if self._came_down else []
                    self._came_down = False
                    self._rows[self._at].add(part)
            elif part.endswith(b"\n"):
                lines += self._down()
            elif part.startswith(b"\r"):
                lines += self._left_behind()
                self._rows[self._at].over = self._rows[self._at].bar = True
                self._came_down = False
            else:
                self._at = max(0, self._at - int(part[2:-1] or 1))
                self._came_down = self._stays_down = False
        # A bar below writes at once after it came down.
        return lines + (self._above() if self._came_down and self._at else [])

    def _down(self) -> list[str]:
        above = self._left_behind()
        plain = not any(row.bar for row in self._rows) or self._rows[self._at].figures_behind is not None
        self._at += 1
        if self._at == len(self._rows):
            self._rows.append(_Row())
        else:
            self._rows[self._at].over = True
        if plain or len(self._rows) > _MOST_ROWS:
            above += self._above()
        self._came_down = self._stays_down = True
        return above

    def _left_behind(self) -> list[str]:
        """A bar that is written below another goes up when it is written; what has not done so was printed,
        and so is a line, and what stands above it."""
        written = self._stays_down and self._rows[self._at].data and not self._rows[self._at].over
        return self._above() if written else []

    def _above(self) -> list[str]:
        """The rows above are lines now."""
        above, self._rows, self._at = self._rows[: self._at], self._rows[self._at :], 0
        self._stays_down = False
        return [row.text() for row in above if not row.gone]
