"""Tables whose rows take a second line where the terminal is narrow, so that what matters stays: what a row
is stands in the first line, its figures in the second. Only what fits into neither is left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from rich.console import Console
from rich.segment import Segment, Segments
from rich.style import Style

from orchestrator.cli.show.tables import GAP
from orchestrator.text import cells

# Of the second line, so that a glance finds where a row begins.
INDENT = 2


@dataclass(frozen=True)
class Cells:
    """A column with its texts; those of the lowest ``rank`` are placed first. ``first``: it says what a row
    is and belongs into the first line; ``left``: it is set to the left."""

    title: str
    texts: Sequence[str]
    rank: int
    left: bool = False
    first: bool = False
    style: Callable[[int], str] = lambda _: ""

    @cached_property
    def width(self) -> int:
        """Of the widest of them."""
        return max(map(cells, [self.title, *self.texts]))


def placed(columns: Sequence[Cells], width: int) -> tuple[list[list[Cells]], list[Cells]]:
    """The lines of a row, one or two, and the columns for which there is no room."""
    if sum(one.width + GAP for one in columns) - GAP <= width:
        return [list(columns)], []
    room = [width + GAP, width + GAP - INDENT]
    lines: list[list[Cells]] = [[], []]
    hidden = []
    for one in sorted(columns, key=lambda one: (not one.first, one.rank)):
        for line in (0, 1) if one.first else (1, 0):
            if one.width + GAP <= room[line] or not (one.rank or lines[0]):
                lines[line].append(one)
                room[line] -= one.width + GAP
                break
        else:
            hidden.append(one)
    return [[one for one in columns if one in line] for line in lines if line], hidden


def print_lines(columns: Sequence[Cells], console: Console) -> list[Cells]:
    """Print headings and rows; returns the columns that were left out."""
    lines, hidden = placed(columns, console.width)
    headings = [
        _line(line, [(one.title, "bold") for one in line], number) for number, line in enumerate(lines)
    ]
    segments = [segment for heading in headings for segment in heading]
    for place in range(len(columns[0].texts)):
        for number, line in enumerate(lines):
            said = [(one.texts[place], one.style(place)) for one in line]
            segments += _line(line, said, number)
    # All at once: ten thousand rows, printed one by one, take longer than to look them up.
    console.print(Segments(segments), soft_wrap=True, end="")
    return hidden


def _line(line: Sequence[Cells], said: Sequence[tuple[str, str]], number: int) -> list[Segment]:
    """One line of a row, the last text of which is not filled up; what has no style of its own is one
    piece."""
    pieces: list[Segment] = []
    plain = " " * INDENT if number else ""
    for place, (one, (text, style)) in enumerate(zip(line, said, strict=True)):
        pad = " " * max(0, one.width - cells(text))
        last = place == len(line) - 1
        before, after = ("", "" if last else pad) if one.left else (pad, "")
        plain += before
        if style:
            pieces += [Segment(plain), Segment(text, Style.parse(style))]
            plain = ""
        else:
            plain += text
        plain += after + ("" if last else " " * GAP)
    pieces.append(Segment(plain))
    pieces.append(Segment.line())
    return pieces
