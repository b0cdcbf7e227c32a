"""What a run says of itself on its page of MLflow: what it cost, what was predicted, what broke, how to go
on. Pure.

It stands in the run's description, between two marks that the page does not show. What somebody writes above
or below them stays.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from orchestrator.events import Status
from orchestrator.ledger.bill import Bill
from orchestrator.ledger.incident import Incident
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.predicted_actual import Compared, Comparison
from orchestrator.text import (
    UNKNOWN,
    bytes_in_words,
    clean,
    count,
    duration,
    hours,
    hours_name,
    number,
    percent,
    plural,
    seconds_in_words,
    usd,
)

BEGINS, ENDS = "<!-- orchestrator: from here -->", "<!-- orchestrator: to here -->"
_SECTION = re.compile(re.escape(BEGINS) + ".*?" + re.escape(ENDS), re.DOTALL)
# The newest ones; each is a line of some hundred characters, and MLflow takes 8,000.
MOST_INCIDENTS = 12
_MOST_WORDS = 200
_SPECIAL = re.compile(r"([\\`*_\[\]<>|#~])")


def description(ledger: Ledger, status: str, reason: str, go_on: str) -> str:
    """Markdown, without the marks. ``go_on`` is the command that takes the run up again."""
    bill, facts = ledger.bill(), ledger.facts
    unit = facts.unit if facts else "GPU"
    where = f" on {facts.gpus} × {_plain(facts.gpu_type)} ({_plain(facts.cluster)})" if facts else ""
    parts = [f"**{status}**" + (f": {_plain(reason)}" if reason else "")]
    parts.append(f"**{usd(bill.cost_usd)}** for {hours(bill.gpu_hours)} {hours_name(unit)}{where}")
    parts[-1] += f"; {percent(bill.goodput)} of it went to training. {_bought(bill)}"
    if status not in ("running", Status.FINISHED) and go_on:
        parts.append(f"To go on with it: `{go_on.replace('`', '')}`")
    if spent := _spent(bill):
        parts.append(spent)
    if compared := _compared(ledger.predicted_actual()):
        parts.append(compared)
    if incidents := ledger.incidents():
        parts.append(_incidents(incidents, unit))
    return "\n\n".join(parts)


def placed(ours: str, around: str) -> str:
    """A description with ours in it, where it was or else at the end of what others have written."""
    section = f"{BEGINS}\n{ours}\n{ENDS}"
    if _SECTION.search(around):
        return _SECTION.sub(lambda _: section, around, count=1)
    return f"{around.rstrip()}\n\n{section}" if around.strip() else section


def without(text: str) -> str:
    """What others have written."""
    return _SECTION.sub("", text).strip()


def _bought(bill: Bill) -> str:
    tokens = ""
    if bill.tokens is not None:
        per_million = usd(bill.cost_usd_per_million_tokens)
        tokens = f", {count(bill.tokens)} tokens at {per_million} per million"
    loss = f", loss {number(bill.final_loss)}" if bill.final_loss is not None else ""
    return f"Step {bill.step:,}{tokens}{loss}."


def _spent(bill: Bill) -> str:
    held_s = sum(bill.gpu_seconds.values())
    rows = [
        (bucket.value, duration(seconds), percent(bill.gpu_seconds[bucket] / held_s if held_s else None))
        for bucket, seconds in bill.seconds.items()
        if seconds > 0
    ]
    return table(("spent on", "time", "of what was paid"), rows)


def _compared(compared: Comparison) -> str:
    def row(label: str, figure: Compared, shown: tuple[str, str]) -> tuple[str, ...]:
        return label, *shown, "" if figure.ratio is None else f"× {number(figure.ratio, 3)}"

    if not compared.predicted:
        return ""
    memory, step, cost = compared.memory_bytes, compared.step_time_s, compared.cost_usd
    rows = [
        row("cost of the steps done", cost, (usd(cost.predicted), usd(cost.actual))),
        row("step", step, (seconds_in_words(step.predicted), seconds_in_words(step.actual))),
        row("memory of the fullest rank", memory, (_bytes(memory.predicted), _bytes(memory.actual))),
    ]
    return table(("", "predicted", "actual", ""), rows)


def _bytes(amount: float | None) -> str:
    return UNKNOWN if amount is None else bytes_in_words(amount)


def _incidents(incidents: Sequence[Incident], unit: str) -> str:
    cost = sum(incident.cost_usd for incident in incidents)
    shown = incidents[-MOST_INCIDENTS:]
    held = f"{hours(sum(incident.gpu_hours for incident in incidents))} {hours_name(unit)}"
    lines = [f"**{plural(len(incidents), 'incident')}**: {held}, {usd(cost)}", ""]
    if len(shown) < len(incidents):
        lines.append(f"- the first {len(incidents) - len(shown)} are in `incidents.json`")
    lines += [
        f"- {usd(incident.cost_usd)}: {_plain(incident.what)}"
        + (f"; {_plain(incident.done)}" if incident.done else "")
        for incident in shown
    ]
    return "\n".join(lines)


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """In Markdown; nothing without rows."""
    if not rows:
        return ""
    rule = ["---", *["---:" for _ in headings[1:]]]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (headings, rule, *rows))


def _plain(text: str) -> str:
    """Words of a job's or a machine's as they are: no markup, no link, one line."""
    return _SPECIAL.sub(r"\\\1", clean(" ".join(text.split()))[:_MOST_WORDS])
