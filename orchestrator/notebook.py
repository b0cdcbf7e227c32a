"""What a notebook shows of our results: plain HTML tables. Every text is escaped, colours are the page's own
so that it is read on a light ground as on a dark one, and nothing is fetched from anywhere."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from html import escape

_CELL = "text-align: left; vertical-align: top; padding: 0.1em 1em 0.1em 0"
_NUMBER = "text-align: right; vertical-align: top; padding: 0.1em 1em 0.1em 0; white-space: nowrap"


def table(
    rows: Iterable[Sequence[str]],
    headings: Sequence[str] = (),
    title: str = "",
    numbers: Collection[int] = (),
) -> str:
    """A table of texts; the columns whose places are in ``numbers`` are set to the right."""

    def line(tag: str, texts: Sequence[str]) -> str:
        made = (
            f'<{tag} style="{_NUMBER if place in numbers else _CELL}">{escape(text)}</{tag}>'
            for place, text in enumerate(texts)
        )
        return f"<tr>{''.join(made)}</tr>"

    caption = f'<caption style="{_CELL}; font-weight: bold">{escape(title)}</caption>' if title else ""
    head = f"<thead>{line('th', headings)}</thead>" if headings else ""
    body = "".join(line("td", row) for row in rows)
    return f"<table>{caption}{head}<tbody>{body}</tbody></table>"
