"""``incidents``: what broke in a run, as a table or as JSON."""

from __future__ import annotations

import dataclasses
import json

from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestrator.check.verdict import evidence_in_words
from orchestrator.driver.journal_fold import JournalFold
from orchestrator.ledger.incidents import Incident
from orchestrator.ledger.money import Money
from orchestrator.ledger.run_directory import find_run
from orchestrator.text import UNKNOWN, duration, hours, hours_name, number, percent, plural, usd
from orchestrator.vocabulary import Verdict


def incidents(run: str, run_root: str, as_json: bool, console: Console, trust: bool = False) -> None:
    """Print a run's incidents, from its journal alone; of a live run, those up to now.

    Raises :class:`~orchestrator.errors.ConfigError` for a run that is not there.
    """
    directory = find_run(run, run_root, trust)
    fold = JournalFold(directory)
    ledger = fold.catch_up().ledger
    fold.keep_if_worth_it()
    found = ledger.incidents()
    if as_json:
        rows = [dataclasses.asdict(incident) for incident in found]
        # past the console, which would wrap and colour it
        console.file.write(json.dumps(rows, indent=2) + "\n")
        return
    facts, bill = ledger.facts, ledger.bill()
    name = facts.run if facts else directory.name
    if not found:
        console.print(f"{name}: no incidents", highlight=False)
        _show_money(ledger.money(), facts.unit if facts else "GPU", console)
        return
    unit = hours_name(facts.unit) if facts else "GPU-hours"
    spent_hours, cost_usd = sum(each.gpu_hours for each in found), sum(each.cost_usd for each in found)
    console.print(incidents_table(found))
    share = percent(spent_hours / bill.gpu_hours) if bill.gpu_hours else UNKNOWN
    line = f"{name}: {plural(len(found), 'incident')}, {hours(spent_hours)} {unit}, {usd(cost_usd)}"
    console.print(f"\n{line}: {share} of {usd(bill.cost_usd)}", highlight=False, soft_wrap=True)
    _show_money(ledger.money(), facts.unit if facts else "GPU", console)


def _show_money(money: Money, unit: str, console: Console) -> None:
    """Where all of it went; nothing for a run that has cost nothing."""
    if not money.gpu_hours:
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    table.add_column()
    for _ in range(3):
        table.add_column(justify="right", no_wrap=True)
    parts = {"spent on": money.buckets, "by attempt": money.attempts, "by incident": money.incidents}
    for heading, shares in parts.items():
        if shares:
            table.add_row(Text(heading, style="dim"))
            for name, *figures in money.rows(shares, unit):
                table.add_row(f"  {name}", *figures)
    console.print(f"\nlost: {money.lost_in_words()}", highlight=False, soft_wrap=True)
    console.print(table)


def incidents_table(found: list[Incident]) -> Table:
    """One row for each."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 1, 0), header_style="dim")
    table.add_column("", justify="right")
    table.add_column("at")
    table.add_column("what happened, and what was done", overflow="fold", ratio=1)
    for heading in ("noticed\nafter", "recovered\nafter", "steps\nredone", "cost"):
        table.add_column(heading, justify="right")
    for each in found:
        table.add_row(
            str(each.number),
            duration(each.at_elapsed_s),
            _story(each),
            _seconds(each.detected_after_s),
            _seconds(each.recovered_after_s),
            f"{each.redone_steps:,}",
            usd(each.cost_usd),
        )
    return table


def _story(each: Incident) -> Text:
    story = Text(each.what)
    if each.verdict and each.verdict != Verdict.UNKNOWN:
        because = f": {evidence_in_words(each.evidence)}" if each.evidence else ""
        story.append(f"\nverdict: {each.verdict}{because}", style="yellow")
    if each.done:
        story.append(f"\n{each.done}", style="dim")
    elif each.reason:
        story.append(f"\n{each.reason}", style="dim")
    return story


def _seconds(value: float | None) -> str:
    if value is None:
        return UNKNOWN
    return f"{number(value, 3)} s" if value < 600 else duration(value)
