"""A plan's sections laid out in lines of a given width. Each span of a line says what it is, for whoever
colours it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING

from orchestrator.output import without_controls
from orchestrator.plan.report import Grid, Pairs, Parts, SideBySide, Title, sections
from orchestrator.text import cells, longest_piece, wrapped

if TYPE_CHECKING:
    from orchestrator.plan.plan import Plan

WIDTH = 110  # columns of a page that nobody gave a width
_LABEL, _GAP, _WIDE_GAP = 12, 2, 4  # columns
_LEAST = 8  # columns that a text is given on however narrow a page
_BAR = 12  # columns of a whole


class Role(StrEnum):
    """What a span of a line is."""

    PLAIN = "plain"
    TITLE = "title"
    NAME = "name"  # in the title
    LABEL = "label"
    HEADING = "heading"  # of a table
    COLUMN = "column"  # a column's heading
    SHARE = "share"
    BAR = "bar"
    TOTAL = "total"
    SOURCE = "source"


Span = tuple[str, Role]
Line = list[Span]


def plain_text(plan: Plan, width: int = WIDTH) -> str:
    """The whole plan as text, ``width`` columns wide; its last line is empty and has no end of its own."""
    return "\n".join("".join(text for text, _ in line).rstrip() for line in page(plan, width))


def page(plan: Plan, width: int = WIDTH, brief: bool = False) -> Iterator[Line]:
    """The plan line by line; ``brief`` as of :func:`~orchestrator.plan.report.sections`."""
    blank: Line = []
    for section in sections(plan, brief):
        match section:
            case Title():
                yield _title(section)
            case Pairs():
                yield from _pairs(section, width)
            case SideBySide():
                yield from (blank, *_side_by_side(section.tables, width), blank)
            case Grid():
                yield from (blank, *_grid(section, width))
    yield blank


def _title(title: Title) -> Line:
    job, cluster = without_controls(title.job), without_controls(title.cluster)
    return [("Plan  ", Role.TITLE), (job, Role.NAME), (" on ", Role.PLAIN), (cluster, Role.NAME)]


def _pairs(pairs: Pairs, width: int) -> Iterator[Line]:
    indent = max(_LABEL, *(2 + cells(label) for label, _ in pairs.rows))
    for label, value in pairs.rows:
        for place, text in enumerate(wrapped(value, max(_LEAST, width - indent - _GAP))):
            yield [(_padded(f"  {'' if place else label}", indent + _GAP), Role.LABEL), (text, Role.PLAIN)]


def _side_by_side(tables: Sequence[Parts], width: int) -> Iterator[Line]:
    """Below each other where the page is too narrow."""
    blocks = [list(_parts(table)) for table in tables]
    widths = [max(map(_width, block)) for block in blocks]
    if sum(widths) + _WIDE_GAP * (len(blocks) - 1) > width:
        yield from itertools.chain.from_iterable(
            ([[]] if place else []) + block for place, block in enumerate(blocks)
        )
        return
    for row in itertools.zip_longest(*blocks, fillvalue=[]):
        line: Line = []
        for place, part in enumerate(row):
            line += part
            if place < len(row) - 1:
                line.append((" " * (widths[place] - _width(part) + _WIDE_GAP), Role.PLAIN))
        yield line


def _parts(table: Parts) -> Iterator[Line]:
    yield [(table.title, Role.HEADING)]
    names = max(cells(name) for name in ("total", *(part.name for part in table.parts)))
    amounts = max(cells(amount) for amount in (table.total, *(part.amount for part in table.parts)))
    shares = ["<1%" if part.share < 0.005 else f"{part.share:.0%}" for part in table.parts]
    for part, share in zip(table.parts, shares, strict=True):
        yield [
            (f"{_padded(part.name, names)} {part.amount:>{amounts}} ", Role.PLAIN),
            (f"{share:>{max(map(len, shares))}} ", Role.SHARE),
            ("━" * round(part.share * _BAR), Role.BAR),
        ]
    yield [(_padded("total", names), Role.TOTAL), (f" {table.total:>{amounts}}", Role.PLAIN)]


def _grid(grid: Grid, width: int) -> Iterator[Line]:
    """The first column is never wrapped, and the others share what it leaves."""
    table = [tuple(map(without_controls, row)) for row in grid.rows]
    first, *natural = [max(map(cells, column)) for column in zip(grid.headings, *table, strict=True)]
    room = max(_LEAST * len(natural), width - first - _WIDE_GAP * len(natural))
    least = [max(map(longest_piece, column)) for column in list(zip(*table, strict=True))[1:]]
    yield [(grid.title, Role.HEADING)]
    if sum(least) > room:
        yield from _stacked(table, width)
        return
    widths = [first, *_shared(natural, least, room)]
    for row in (grid.headings, *table):
        wrapped_row = [
            [row[0]],
            *(wrapped(text, room) for text, room in zip(row[1:], widths[1:], strict=True)),
        ]
        for parts in itertools.zip_longest(*wrapped_row, fillvalue=""):
            padded = [_padded(part, room + _WIDE_GAP) for part, room in zip(parts, widths, strict=True)]
            if row is grid.headings:
                yield [("".join(padded), Role.COLUMN)]
            else:
                yield [("".join(padded[:-1]), Role.PLAIN), (parts[-1], Role.SOURCE)]


def _stacked(table: Sequence[tuple[str, ...]], width: int) -> Iterator[Line]:
    """Cells below each other, where columns beside each other would break words: the second beside the first,
    and those after it further in."""
    for first, second, *others in table:
        room = max(_LEAST, width - _LABEL)
        head, *more = wrapped(f"{first}  {second}", max(_LEAST, width - _WIDE_GAP))
        yield [(head, Role.PLAIN)]
        for text in more:
            yield [(" " * _WIDE_GAP + text, Role.PLAIN)]
        for other in others:
            for text in wrapped(other, room):
                yield [(" " * _LABEL + text, Role.SOURCE)]


def _shared(natural: Sequence[int], least: Sequence[int], room: int) -> list[int]:
    """Widths that add up to ``room`` at most: the widest columns are narrowed to one width, the others are as
    is, and none is narrower than its least."""
    widths = list(natural)
    while sum(widths) > room:
        spare = [(width - low > 0, width) for width, low in zip(widths, least, strict=True)]
        widths[spare.index(max(spare))] -= 1
    return widths


def _padded(text: str, width: int) -> str:
    return text + " " * (width - cells(text))


def _width(line: Iterable[Span]) -> int:
    return sum(cells(text) for text, _ in line)
