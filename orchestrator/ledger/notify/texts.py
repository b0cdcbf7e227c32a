"""What a word reads like, for each who is told: plain lines, Slack, a card of Teams, a mail, variables."""

from __future__ import annotations

import dataclasses
import json
import time
from email.message import EmailMessage
from email.utils import format_datetime, localtime, make_msgid
from typing import Any

from orchestrator.ledger.notify.words import Word
from orchestrator.text import clean, duration, hours, hours_name, number, percent, usd
from orchestrator.vocabulary import Moment

VARIABLES = "ORCHESTRATOR_NOTIFY_"
_BAD = (Moment.FAULT, Moment.BUDGET_REACHED)


def headline(word: Word) -> str:
    """``night-1: fault: rank 2 on node n0, GPU 2: killed by SIGKILL at step 9``."""
    kind = {Moment.START: "", Moment.END: "", Moment.RECOVERED: ""}.get(
        word.moment, f"{word.moment.value.replace('_', ' ')}: "
    )
    return clean(f"{word.run}: {kind}{word.title}")


def lines(word: Word) -> list[str]:
    """All but the headline, the most important first."""
    step = f"step {word.step:,} of {word.steps:,}" if word.steps else f"step {word.step:,}"
    held = f"{hours(word.gpu_hours)} {hours_name(word.unit)}"
    figures = [step, usd(word.cost_usd), held, f"goodput {percent(word.goodput)}", duration(word.elapsed_s)]
    told = [word.reason] if word.reason else []
    if word.step or word.cost_usd:
        told.append(" \u00b7 ".join(figures))
    told.append(f"job {word.job} on cluster {word.cluster}, by {word.user} on {word.host}: {word.run_dir}")
    if word.left_out:
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(word.left_out.items()))
        told.append(f"not told before this: {counts}")
    if word.go_on:
        told.append(f"to go on with it: {word.go_on}")
    return [clean(line) for line in told]


def generic(word: Word) -> dict[str, Any]:
    """The fields of the word."""
    return dataclasses.asdict(word)


def slack(word: Word) -> dict[str, Any]:
    """A message for an incoming webhook; ``&``, ``<`` and ``>`` are what Slack takes orders by
    (docs.slack.dev/messaging/formatting-message-text)."""
    text = "\n".join([headline(word), *lines(word)])
    for character, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        text = text.replace(character, entity)
    return {"text": text, "unfurl_links": False}


def teams(word: Word) -> dict[str, Any]:
    """An adaptive card, as a workflow of Teams posts it. Its text runs are not read as Markdown, which other
    texts of a card are."""
    style = {"weight": "Bolder", "color": _colour(word)}
    body = [_paragraph(headline(word), style), *(_paragraph(line, {}) for line in lines(word))]
    card = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": body,
    }
    attachment = {"contentType": "application/vnd.microsoft.card.adaptive", "content": card}
    return {"type": "message", "attachments": [attachment]}


def mail(word: Word, sender: str, to: list[str]) -> EmailMessage:
    """A mail; all of one run make a thread."""
    message = EmailMessage()
    message["Subject"] = " ".join(headline(word).split())[:200]
    message["From"] = sender
    message["To"] = ", ".join(to)
    message["Date"] = format_datetime(localtime())
    message["Message-ID"] = make_msgid(domain="orchestrator.invalid")
    message["References"] = f"<{_only_letters(word.run)}@orchestrator.invalid>"
    message["Auto-Submitted"] = "auto-generated"  # so that nobody's absence notice answers
    when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(word.time_unix_s))
    message.set_content("\n".join([headline(word), *lines(word), when]) + "\n")
    return message


def variables(word: Word) -> dict[str, str]:
    """For a command's environment: its fields, and the text that people read."""
    fields = {
        name: "" if value is None else number(value, 6) if isinstance(value, float) else str(value)
        for name, value in vars(word).items()
        if name not in ("format", "left_out")
    }
    fields["text"] = "\n".join([headline(word), *lines(word)])
    return {f"{VARIABLES}{name.upper()}": value.replace("\0", "") for name, value in fields.items()}


def as_json(body: dict[str, Any]) -> bytes:
    """ASCII, without the infinities that JSON does not know."""
    return json.dumps(body, default=str, allow_nan=False).encode()


def _paragraph(text: str, style: dict[str, str]) -> dict[str, Any]:
    return {"type": "RichTextBlock", "inlines": [{"type": "TextRun", "text": text, **style}]}


def _colour(word: Word) -> str:
    bad = word.moment in _BAD or (word.moment is Moment.END and word.state != "finished")
    return "attention" if bad else "default"


def _only_letters(text: str) -> str:
    return "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in text) or "run"
