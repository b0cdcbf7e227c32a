"""Frames of a terminal → one animated SVG that a README can show: no script, no font file, no network.

Every distinct line is drawn once and placed by reference. The frames lie below each other on a strip that
a CSS animation moves past a window, a step per frame; with ``prefers-reduced-motion``, and for a viewer
that knows no CSS, the strip rests on the last frame.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

FONT_SIZE, CELL_WIDTH, LINE_HEIGHT, BASELINE = 14, 8.4, 19, 14
MARGIN, BAR_HEIGHT, RADIUS = 14, 34, 8
BACKGROUND, FOREGROUND, EDGE, FAINT = "#0d1117", "#d1d7e0", "#30363d", "#7d8590"
FONTS = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', 'Liberation Mono', monospace"
BLOCK, RULE = "\u2588", re.compile("[\u2500-\u257f]")  # a full cell; characters that draw lines
# By the names of ANSI colours as pyte gives them; "brown" is what others call yellow.
COLOURS = {
    "black": "#484f58", "red": "#ff7b72", "green": "#3fb950", "brown": "#d29922",
    "blue": "#58a6ff", "magenta": "#bc8cff", "cyan": "#39c5cf", "white": "#b1bac4",
    "brightblack": "#6e7681", "brightred": "#ffa198", "brightgreen": "#56d364", "brightbrown": "#e3b341",
    "brightblue": "#79c0ff", "brightmagenta": "#d2a8ff", "brightcyan": "#56d4dd", "brightwhite": "#f0f6fc",
}  # fmt: skip


@dataclass(frozen=True)
class Style:
    """How a run of characters looks; ``colour`` is an ANSI name, six hexadecimal digits or ``default``."""

    colour: str = "default"
    bold: bool = False
    dim: bool = False

    def css(self) -> str:
        """Properties of the class that draws it; empty for plain text."""
        colour = COLOURS.get(self.colour) or (
            f"#{self.colour}" if re.fullmatch("[0-9a-f]{6}", self.colour) else ""
        )
        parts = [f"fill:{colour}"] if colour else []
        parts += ["font-weight:700"] if self.bold else []
        parts += ["opacity:.62"] if self.dim else []
        return ";".join(parts)


@dataclass(frozen=True)
class Run:
    """Characters of one style from a column on."""

    column: int
    text: str
    style: Style


Line = tuple[Run, ...]


@dataclass(frozen=True)
class Frame:
    """What the screen shows from ``at_s`` on."""

    at_s: float
    lines: tuple[Line, ...]


def render(frames: Sequence[Frame], columns: int, rows: int, title: str, hold_s: float) -> str:
    """The recording as an SVG; it starts again once the last frame was shown for ``hold_s``."""
    width, height = columns * CELL_WIDTH + 2 * MARGIN, rows * LINE_HEIGHT + BAR_HEIGHT + 2 * MARGIN
    reel_height = rows * LINE_HEIGHT
    rest = f"translate(0 {-reel_height * (len(frames) - 1)})"
    styles, lines = _numbered(frames)
    blocks = [_still(frames, index) for index in range(len(frames))]
    numbers = {block: number for number, block in enumerate(dict.fromkeys(blocks))}
    shown = escape(title)
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
            f'height="{height:g}" role="img" aria-label="{shown}">'
        ),
        f"<title>{shown}</title>",
        f"<style>{_css(frames, styles, reel_height, hold_s)}</style>",
        (
            f'<rect x=".5" y=".5" width="{width - 1:g}" height="{height - 1:g}" rx="{RADIUS}"'
            f' fill="{BACKGROUND}" stroke="{EDGE}"/>'
        ),
        *(f'<circle cx="{20 + 18 * i}" cy="{BAR_HEIGHT / 2:g}" r="5.5" fill="{EDGE}"/>' for i in range(3)),
        f'<path d="M0 {BAR_HEIGHT}H{width:g}" stroke="{EDGE}"/>',
        f'<text class="bar" x="{width / 2:g}" y="{BAR_HEIGHT / 2 + 4.5:g}">{shown}</text>',
        "<defs>",
        *(f'<g id="l{number}">{_draw(line, styles)}</g>' for line, number in lines.items()),
        *(f'<g id="b{number}">{_place(block, lines)}</g>' for block, number in numbers.items()),
        "</defs>",
        (
            f'<svg x="{MARGIN}" y="{BAR_HEIGHT + MARGIN}" width="{columns * CELL_WIDTH:g}"'
            f' height="{reel_height}">'
        ),
        f'<g class="reel" transform="{rest}">',
    ]
    for index, (frame, block) in enumerate(zip(frames, blocks, strict=True)):
        moving = tuple(() if still == line else line for line, still in zip(frame.lines, block, strict=True))
        top = index * reel_height
        parts.append(f'<use href="#b{numbers[block]}" y="{top}"/>{_place(moving, lines, top)}')
    return "\n".join([*parts, "</g>", "</svg>", "</svg>", ""])


def _still(frames: Sequence[Frame], index: int) -> tuple[Line, ...]:
    """The lines of a frame that a neighbour has at the same place; the others are empty. Drawn once for
    both."""
    here = frames[index].lines
    shared = [
        tuple(line if line == other else () for line, other in zip(here, neighbour.lines, strict=True))
        for neighbour in frames[max(0, index - 1) : index + 2]
        if neighbour is not frames[index]
    ]
    return max(shared, key=lambda lines: sum(map(bool, lines)), default=here)


def _place(rows: Sequence[Line], lines: dict[Line, int], top: int = 0) -> str:
    return "".join(
        f'<use href="#l{lines[line]}" y="{top + row * LINE_HEIGHT + BASELINE}"/>'
        for row, line in enumerate(rows)
        if line
    )


def _numbered(frames: Sequence[Frame]) -> tuple[dict[Style, int], dict[Line, int]]:
    """Every style and every line that is not empty, in the order of their first appearance."""
    styles: dict[Style, int] = {}
    lines: dict[Line, int] = {}
    for line in (line for frame in frames for line in frame.lines if line):
        lines.setdefault(line, len(lines))
        for run in line:
            if run.style.css():
                styles.setdefault(run.style, len(styles))
    return styles, lines


def _css(frames: Sequence[Frame], styles: dict[Style, int], reel_height: int, hold_s: float) -> str:
    begin_s, total_s = frames[0].at_s, frames[-1].at_s - frames[0].at_s + hold_s
    moves = "".join(
        f"{100 * (frame.at_s - begin_s) / total_s:.2f}%{{transform:translateY({-index * reel_height}px)}}"
        for index, frame in enumerate(frames)
    )
    last = -reel_height * (len(frames) - 1)
    return (
        f"text{{font:{FONT_SIZE}px {FONTS};fill:{FOREGROUND}}}"
        f".bar{{fill:{FAINT};text-anchor:middle;font-size:13px}}"
        + "".join(f".s{number}{{{style.css()}}}" for style, number in styles.items())
        + f"@keyframes play{{{moves}100%{{transform:translateY({last}px)}}}}"
        f".reel{{transform:translateY({last}px);animation:play {total_s:.2f}s step-end infinite}}"
        "@media (prefers-reduced-motion:reduce){.reel{animation:none}}"
    )


def _draw(line: Line, styles: dict[Style, int]) -> str:
    """The runs of one line from its baseline. ``textLength`` keeps the columns, however wide a font is."""
    drawn = []
    for run in line:
        kind = f' class="s{styles[run.style]}"' if run.style in styles else ""
        x, width = f"{run.column * CELL_WIDTH:g}", f"{len(run.text) * CELL_WIDTH:g}"
        if set(run.text) == {BLOCK}:
            drawn.append(
                f'<rect x="{x}" y="{2 - BASELINE}" width="{width}" height="{LINE_HEIGHT - 3}"{kind}/>'
            )
            continue
        length = f' textLength="{width}"' if len(run.text) > 2 else ""
        if RULE.search(run.text):  # these have to touch
            length += ' lengthAdjust="spacingAndGlyphs"'
        drawn.append(f'<text x="{x}"{kind}{length}>{escape(run.text)}</text>')
    return "".join(drawn)
