"""A page of figures and charts in one file: nothing is fetched, no script but its own may run, and what it is
about is read without any. Good on a phone, on a wide screen, on a dark ground and on paper."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from orchestrator.cli.show.svg_chart import DASHES, safe, symbols

# Okabe and Ito's colours, told apart by most colour-blind people; on a dark ground the darkest is lighter.
LIGHT = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8A8F98")
DARK = ("#4FA8DC", "#F0844A", "#2FBF95", "#E3A3C6", "#F0B840", "#8FD0F5", "#7D838C")
# On a light and on a dark ground.
BUCKETS = {
    "training": ("#0072B2", "#4FA8DC"),
    "starting": ("#56B4E9", "#8FD0F5"),
    "checkpoint": ("#E69F00", "#F0B840"),
    "redone": ("#D55E00", "#F0844A"),
    "recovering": ("#CC79A7", "#E3A3C6"),
    "stopping": ("#009E73", "#2FBF95"),
    "skipped": ("#F0E442", "#F0E442"),
    "unobserved": ("#8A8F98", "#7D838C"),
    "untold": ("#C9CDD3", "#565C66"),
}
_LIGHT = "--ground:#fff;--raised:#f6f7f9;--text:#1c2127;--faint:#5b6470;--rule:#dfe3e8;--grid:#e8eaed"
_DARK = "--ground:#14171b;--raised:#1d2127;--text:#e8eaed;--faint:#a3abb6;--rule:#333a43;--grid:#2a3038"
# What is no bucket has a colour of its own too.
BARS = {
    **BUCKETS,
    "attempt": ("#0072B2", "#4FA8DC"),
    "incident": ("#D55E00", "#F0844A"),
    "spent": ("#0072B2", "#4FA8DC"),
    "stops": ("#D55E00", "#F0844A"),
    "to_come": ("#9CCBE8", "#3B6F93"),
}
_LONG = 40  # letters of a text that is broken into lines
HATCHED = ("redone", "recovering", "starting")


@dataclass(frozen=True)
class Cell:
    """A text of a table, and the number that it is sorted by where it is one."""

    text: str
    value: float | None = None


def page(
    title: str, subtitle: str, parts: Iterable[str], *, style: str = "", again_s: float | None = None
) -> str:
    """The whole file; ``parts`` are HTML, ``style`` is this page's own. With ``again_s`` whoever serves it is
    asked for it again each so many seconds."""
    script = Path(__file__).with_name("page.js").read_text()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'"
    policy += "; connect-src 'self'" if again_s is not None else ""
    again = f' data-again="{again_s:g}"' if again_s is not None else ""
    return "".join([
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">',
        f"<title>{safe(title)}</title><style>{_style()}{style}</style></head>",
        f"<body{again}>{symbols()}",
        f"<header><h1>{safe(title)}</h1><p>{safe(subtitle)}</p></header><main>",
        *parts,
        f"</main><script>{script}</script></body></html>\n",
    ])  # fmt: skip


def tiles(figures: Sequence[tuple[str, str]]) -> str:
    """What there is to know at a glance: each figure with what it is."""
    made = (f"<div><b>{safe(value)}</b><span>{safe(name)}</span></div>" for name, value in figures)
    return f'<section class="tiles">{"".join(made)}</section>'


def charts(figures: Iterable[tuple[str, str, str]]) -> str:
    """Each with its heading and what has to be known to read it; those without a drawing are left out."""
    made = (
        f"<figure><figcaption><h2>{safe(title)}</h2><p>{safe(note)}</p></figcaption>{drawing}</figure>"
        for title, drawing, note in figures
        if drawing
    )
    return f'<section class="charts">{"".join(made)}</section>'


def legend(entries: Iterable[tuple[str, str]]) -> str:
    """What the marks mean: each is HTML, with its text."""
    made = "".join(f"<li>{key}{safe(text)}</li>" for key, text in entries)
    return f'<ul class="legend">{made}</ul>' if made else ""


def swatch(bucket: str) -> str:
    """Of a bucket, as its bars are."""
    return (
        '<svg class="key swatch" viewBox="0 0 14 12" aria-hidden="true">'
        f'<rect class="b-{bucket}" width="14" height="12"/></svg>'
    )


def sorted_table(
    headings: Sequence[tuple[str, bool]], rows: Sequence[Sequence[Cell]], what: str, filtered: bool = True
) -> str:
    """A table that is sorted by a press on a heading and filtered by words; a heading is of figures or
    not."""
    head = "".join(
        f'<th scope="col"{" class=n" if is_figure else ""}><button type="button">{safe(title)}</button></th>'
        for title, is_figure in headings
    )
    figures = [is_figure for _, is_figure in headings]
    body = "".join(f"<tr>{_cells(row, figures)}</tr>" for row in rows)
    filter_box = (
        '<label class="filter">Filter'
        ' <input type="search" placeholder="words, all of which a row has"></label>'
        f"<output>{len(rows):,} {safe(what)}</output>"
        if filtered and len(rows) > 1
        else ""
    )
    return (
        f'<section class="table" data-what="{safe(what)}"><div class="above">{filter_box}</div>'
        '<div class="wide" tabindex="0">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></section>"
    )


def _cells(row: Sequence[Cell], figures: Sequence[bool]) -> str:
    return "".join(map(_cell, row, figures))


def _cell(cell: Cell, is_figure: bool) -> str:
    if is_figure:
        return (
            f"<td class=n{f' data-v={cell.value:.6g}' if cell.value is not None else ''}>{escape(cell.text)}"
        )
    return f"<td{' class=t' if len(cell.text) > _LONG else ''}>{safe(cell.text)}"


def _style() -> str:
    """Colours as variables, what has them, and how a page looks, which may change what comes before it."""

    def colours(place: int) -> str:
        told = [f"--s{number}:{colour}" for number, colour in enumerate((LIGHT, DARK)[place])]
        return ";".join(told + [f"--b-{name}:{both[place]}" for name, both in BARS.items()])

    rules = []
    for number in range(len(LIGHT)):
        dashes = DASHES[number] if number < len(DASHES) and DASHES[number] else "none"
        rules.append(f".line.s{number}{{stroke:var(--s{number});stroke-dasharray:{dashes}}}")
        rules.append(f".mark.s{number}{{fill:var(--s{number});stroke:var(--s{number})}}")
    for name in BARS:
        rules.append(f".f{name}{{fill:var(--b-{name})}}")
        rules.append(f".b-{name}{{fill:{f'url(#hatch{name})' if name in HATCHED else f'var(--b-{name})'}}}")
    light, dark = f":root{{{_LIGHT};{colours(0)}}}", f":root{{{_DARK};{colours(1)}}}"
    media = f"@media(prefers-color-scheme:dark){{{dark}}}@media print{{{light}}}"
    return light + media + "".join(rules) + Path(__file__).with_name("page.css").read_text()
