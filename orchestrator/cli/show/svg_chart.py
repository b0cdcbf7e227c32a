"""Charts as SVG inside a page: points, lines and stacked bars. They take their colours from the page's style,
so that one drawing is read on a light ground, on a dark one and on paper; each colour has a marker, a dash or
a hatching of its own besides. Every text is escaped."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from orchestrator.cli.show.sweep_picture import LOG_FROM, tick
from orchestrator.output import without_controls
from orchestrator.redact import redact_text

# So wide that its letters are read on a phone, and no wider than a third of a screen.
WIDTH, HEIGHT = 460, 320
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 10, 44
SERIES = 6  # told apart; all others are one, in grey
OTHERS = SERIES
# Circle, square, triangle, diamond, triangle upside down, cross; a small circle for all others.
MARKERS = (
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",
    "M-3.6-3.6h7.2v7.2h-7.2z",
    "M0-4.6L4.6 3.6H-4.6z",
    "M0-5L5 0L0 5L-5 0z",
    "M0 4.6L-4.6-3.6H4.6z",
    "M-1.6-5h3.2v3.4h3.4v3.2h-3.4v3.4h-3.2v-3.4h-3.4v-3.2h3.4z",
    "M-2 0a2 2 0 1 0 4 0a2 2 0 1 0-4 0z",
)
DASHES = ("", "7 3", "2 3", "9 3 2 3", "4 2", "1 2")
_LOG_UP_TO = 1e15  # beyond it the smallest of them are next to nothing
_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
MANY_MARKS = 150  # from which they are smaller
_BAR, _BAR_GAP, _LABEL = 20, 6, 150


def safe(text: str) -> str:
    """A text of others: without secrets, and neither markup nor orders to whoever shows it."""
    return escape(without_controls(redact_text(text)), quote=True)


@dataclass(frozen=True)
class Mark:
    """A point; ``title`` is what a pointer over it says. One that is ``hollow`` is of less weight."""

    x: float
    y: float
    title: str
    series: int = 0
    hollow: bool = False


@dataclass(frozen=True)
class Line:
    """A curve; one that is ``faint`` is context for the others."""

    points: Sequence[tuple[float, float]]
    series: int = 0
    title: str = ""
    faint: bool = False
    plain: bool = False  # of the ground: a front, a diagonal


@dataclass(frozen=True)
class Axis:
    """``label`` with its unit. ``logarithmic`` is None where the spread of the values decides."""

    label: str
    logarithmic: bool | None = None
    from_zero: bool = False


@dataclass(frozen=True)
class Scale:
    """Values to places on the drawing."""

    low: float
    high: float
    logarithmic: bool
    start: float
    end: float

    def at(self, value: float) -> float:
        """Where it lies; a value outside lies at the edge."""
        low, high, value = self.low, self.high, min(max(value, self.low), self.high)
        if self.logarithmic:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return self.start + (value - low) / ((high - low) or 1.0) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round values, some five of them."""
        if not self.logarithmic:
            return _round_ticks(self.low, self.high)
        decades = math.log10(self.high / self.low)
        parts: tuple[float, ...] = (
            (1.0, 2.0, 5.0) if decades > 0.9 else (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.0)
        )
        parts = (1.0,) if decades > 3 else parts
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        found = [part * 10.0**power for power in powers for part in parts]
        found = [value for value in found if self.low <= value <= self.high]
        while len(found) > 8:
            found = found[::2]
        return found if len(found) > 1 else [self.low, self.high]


def _round_ticks(low: float, high: float) -> list[float]:
    rough = (high - low) / 5 or 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(part * power for part in _STEPS if part * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(place * step, 12) for place in range(first, math.floor(high / step + 1e-9) + 1)]


def scale_of(values: Sequence[float], axis: Axis, start: float, end: float) -> Scale:
    """From the least to the greatest, with a little room."""
    low, high = min(values), max(values)
    logarithmic = axis.logarithmic
    if logarithmic is None:
        logarithmic = low > 0 and high / low >= LOG_FROM
    if logarithmic and low > 0 and high / low < _LOG_UP_TO:
        room = max(1.02, (high / low) ** 0.04)
        return Scale(low / room, high * room, True, start, end)
    low = min(0.0, low) if axis.from_zero else low
    room = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return Scale(low if axis.from_zero else low - room, high + room, False, start, end)


def chart(x: Axis, y: Axis, lines: Sequence[Line], marks: Sequence[Mark], name: str) -> str:
    """Points and curves over two axes; "" where there are none. ``name`` is what it is called by who hears
    it."""
    points = [point for line in lines for point in line.points] + [(mark.x, mark.y) for mark in marks]
    if not points:
        return ""
    across = scale_of([one for one, _ in points], x, LEFT, WIDTH - RIGHT)
    up = scale_of([one for _, one in points], y, HEIGHT - BOTTOM, TOP)
    parts = [_grid(across, up, x.label, y.label)]
    for line in sorted(lines, key=lambda line: (not line.faint, not line.plain)):
        path = "M" + "L".join(f"{across.at(one):.1f} {up.at(other):.1f}" for one, other in line.points)
        kind = "plain" if line.plain else f"line s{line.series}" + (" faint" if line.faint else "")
        title = f"<title>{safe(line.title)}</title>" if line.title else ""
        parts.append(f'<path class="{kind}" d="{path}">{title}</path>')
    size = "n" if len(marks) > MANY_MARKS else "m"
    for mark in sorted(marks, key=lambda mark: not mark.hollow):
        kind = f"mark s{mark.series}" + (" hollow" if mark.hollow else "")
        title = f"<title>{safe(mark.title)}</title>" if mark.title else ""
        where = f'x="{across.at(mark.x):.1f}" y="{up.at(mark.y):.1f}"'
        parts.append(f'<use class="{kind}" href="#{size}{mark.series}" {where}>{title}</use>')
    return _svg("".join(parts), HEIGHT, name)


def bars(
    rows: Sequence[tuple[str, dict[str, float]]], kinds: Sequence[str], say: Callable[[float], str], name: str
) -> str:
    """A bar for each row, made of a part for each kind that it has; the sum stands behind it."""
    most = max((sum(parts.values()) for _, parts in rows), default=0.0)
    if most <= 0:
        return ""
    height = TOP + len(rows) * (_BAR + _BAR_GAP)
    room = WIDTH - _LABEL - 74
    drawn = []
    for place, (label, parts) in enumerate(rows):
        top, left = TOP + place * (_BAR + _BAR_GAP), float(_LABEL)
        middle = top + _BAR * 0.72
        drawn.append(
            f'<text class="name" x="{_LABEL - 6}" y="{middle:.0f}">'
            f"<title>{safe(label)}</title>{safe(_short(label))}</text>"
        )
        for kind in kinds:
            if (value := parts.get(kind, 0.0)) > 0:
                wide = value / most * room
                of_it = f" {kind}" if len(parts) > 1 else ""
                title = f"<title>{safe(f'{label}: {say(value)}{of_it}')}</title>"
                box = f'x="{left:.1f}" y="{top}" width="{max(wide, 0.5):.1f}" height="{_BAR}"'
                drawn.append(f'<rect class="b-{kind}" {box}>{title}</rect>')
                left += wide
        drawn.append(
            f'<text class="sum" x="{left + 6:.1f}" y="{middle:.0f}">{safe(say(sum(parts.values())))}</text>'
        )
    return _svg("".join(drawn), height, name)


def symbols() -> str:
    """What the charts of a page point at: a marker for each series, and hatchings."""
    markers = "".join(
        f'<path id="m{place}" d="{path}"/><path id="n{place}" transform="scale(.65)" d="{path}"/>'
        for place, path in enumerate(MARKERS)
    )
    hatch = (
        '<pattern id="hatch{0}" width="6" height="6" patternUnits="userSpaceOnUse"'
        ' patternTransform="rotate({1})">'
        '<rect class="f{0}" width="6" height="6"/><path class="h" d="M0 0V6"/></pattern>'
    )
    hatched = hatch.format("redone", 45) + hatch.format("recovering", -45) + hatch.format("starting", 90)
    return f'<svg class="defs" aria-hidden="true"><defs>{markers}{hatched}</defs></svg>'


def key_of(series: int) -> str:
    """A series as a legend shows it: its line with its marker on it."""
    return (
        f'<svg class="key" viewBox="0 0 30 12" aria-hidden="true"><path class="line s{series}" d="M0 6H30"/>'
        f'<use class="mark s{series}" href="#m{series}" x="15" y="6"/></svg>'
    )


def _grid(across: Scale, up: Scale, x: str, y: str) -> str:
    parts = []
    for value in across.ticks():
        place = f"{across.at(value):.1f}"
        parts.append(f'<path class="grid" d="M{place} {TOP}V{HEIGHT - BOTTOM}"/>')
        parts.append(f'<text class="tick" x="{place}" y="{HEIGHT - BOTTOM + 16}">{tick(value)}</text>')
    for value in up.ticks():
        place = f"{up.at(value):.1f}"
        parts.append(f'<path class="grid" d="M{LEFT} {place}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text class="up" x="{LEFT - 6}" y="{float(place) + 4:.1f}">{tick(value)}</text>')
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(f'<text class="axis" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}">{safe(x)}</text>')
    parts.append(f'<text class="axis" transform="translate(13 {middle}) rotate(-90)">{safe(y)}</text>')
    return "".join(parts)


def _svg(content: str, height: float, name: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{safe(name)}">{content}</svg>'


def _short(label: str, most: int = 24) -> str:
    """Its end, which tells names apart."""
    return label if len(label) <= most else "…" + label[1 - most :]
