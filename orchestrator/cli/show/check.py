"""What a check has found as a person reads it: a line for each node, and what is wrong above all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from orchestrator.check.findings import Finding, Grave, in_words
from orchestrator.check.reports import Figure, What
from orchestrator.cli.show.tables import Column, Row, fitting, left_out, table_of
from orchestrator.text import UNKNOWN, plural, usd

if TYPE_CHECKING:
    from orchestrator.driver.check import CheckSeen, NodeSeen

_SHOWN = (What.MATMUL, What.MEMORY, What.ALL_REDUCE, What.DISK, What.SHM, What.CLOCK)


def show_check(seen: CheckSeen, console: Console) -> None:
    """Print it."""
    between = ""
    if seen.exchange_bytes_per_s:
        rate = in_words(What.EXCHANGE, seen.exchange_bytes_per_s)
        between = f", {rate} between nodes in {plural(seen.rounds, 'round')}"
    head = f"{plural(len(seen.nodes), 'node')} in {seen.seconds:.0f} s{between}"
    console.print(Text.assemble(("Check", "bold"), "  ", (seen.cluster, "bold cyan"), f"  {head}"))
    known = {one.what for node in seen.measured for one in node.figures}
    columns = [_figure_column(what) for what in _SHOWN if what in known]
    _table([_node_column(), *columns], seen.measured, console)
    if seen.skipped:
        console.print(f"left alone, as runs are on them: {', '.join(seen.skipped)}", highlight=False)
    console.print()
    if not seen.findings:
        console.print("nothing is wrong here")
        return
    _table(_FINDINGS, seen.findings, console, lambda one: "red" if one.grave is Grave.BAD else "yellow")
    for finding in seen.findings:
        console.print(Text(_sentence(finding, seen)), soft_wrap=True)


def _sentence(one: Finding, seen: CheckSeen) -> str:
    """Where it is, what follows and what it costs."""
    where = f"{one.node}, GPU {one.gpu}" if one.gpu is not None else one.node
    said = f"{where}: {one.what}" + (f", {one.detail}" if one.detail else "")
    if one.lost_share is None:
        return said
    share = f"{one.lost_share:.0%}"
    lost = (
        f"up to {share} of {usd(seen.price_usd)} for {seen.priced_for}"
        if seen.price_usd
        else f"up to {share}"
    )
    return f"{said}; to train on regardless would waste {lost}"


def _node_column() -> Column[NodeSeen]:
    return Column("node", lambda one: one.node, 0, text=True)


def _figure_column(what: What) -> Column[NodeSeen]:
    return Column(str(what), lambda one: _worst(one.figures, what), 1 + _SHOWN.index(what))


def _worst(figures: Sequence[Figure], what: What) -> str:
    """Of several GPUs the slowest."""
    values = [one.value for one in figures if one.what is what]
    return in_words(what, min(values, key=abs)) if values else UNKNOWN


_FINDINGS: tuple[Column[Finding], ...] = (
    Column("wrong", lambda one: one.node, 0, text=True),
    Column("GPU", lambda one: UNKNOWN if one.gpu is None else str(one.gpu), 4),
    Column("figure", lambda one: str(one.what), 0, text=True),
    Column("measured", lambda one: in_words(one.what, one.measured) or UNKNOWN, 1),
    Column("expected", lambda one: in_words(one.what, one.expected) or UNKNOWN, 2),
    Column("against", lambda one: one.against or UNKNOWN, 5, text=True),
    Column("lost", lambda one: UNKNOWN if one.lost_share is None else f"{one.lost_share:.0%}", 3),
)


def _table(
    columns: Sequence[Column[Row]],
    rows: Sequence[Row],
    console: Console,
    style: Callable[[Row], str] = lambda row: "",
) -> None:
    shown = fitting(columns, rows, console.width)
    console.print(table_of(shown, rows, style))
    if text := left_out(columns, shown):
        console.print(text, style="dim", highlight=False)
