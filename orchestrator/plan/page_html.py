"""A plan's sections as the tables of a notebook."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.notebook import table
from orchestrator.plan.report import Grid, Pairs, Parts, Section, SideBySide, Title, sections

if TYPE_CHECKING:
    from orchestrator.plan.plan import Plan


def page_html(plan: Plan) -> str:
    """The whole plan; what is secret is hidden as it is in the text."""
    return f"<div>{''.join(map(_html, sections(plan)))}</div>"


def _html(section: Section) -> str:
    match section:
        case Title():
            return table([], title=f"Plan {section.job} on {section.cluster}")
        case Pairs():
            return table(section.rows)
        case Grid():
            return table(section.rows, section.headings, section.title)
        case SideBySide():
            return "".join(map(_whole, section.tables))


def _whole(whole: Parts) -> str:
    rows = [(part.name, part.amount, f"{part.share:.0%}") for part in whole.parts]
    return table([*rows, ("total", whole.total, "")], title=whole.title, numbers=(1, 2))
