"""The plan on a terminal: the lines of its page, coloured."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from orchestrator.plan.page import Role, page
from orchestrator.plan.plan import Plan

_STYLES = {
    Role.TITLE: "bold",
    Role.NAME: "bold cyan",
    Role.LABEL: "dim",
    Role.HEADING: "bold",
    Role.COLUMN: "dim",
    Role.SHARE: "dim",
    Role.BAR: "cyan",
    Role.TOTAL: "bold",
    Role.SOURCE: "dim",
}


def show_plan(plan: Plan, console: Console, brief: bool = False) -> None:
    """Print the plan; ``brief`` leaves out what only an engineer asks for, command and environment."""
    lines = [
        Text.assemble(*((text, _STYLES.get(role, "")) for text, role in line))
        for line in page(plan, console.width, brief)
    ]
    for line in lines:
        line.rstrip()
    console.print(Text("\n").join(lines), soft_wrap=True)
