"""What others wrote is shown as it reads, and gives a terminal no orders."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.table import Table
from rich.text import Text

from orchestrator.cli.show.screen import Screen
from orchestrator.cli.show.terminal import Terminal
from orchestrator.events import (
    BatchesSkipped,
    Decided,
    Event,
    NodeDraining,
    RankLost,
    Record,
    RunEnded,
    RunStarted,
    Status,
)
from orchestrator.ledger.ledger import Ledger
from orchestrator.output import without_controls

ORDERS = {
    "clipboard": "\x1b]52;c;cm0gLXJm\x07",
    "clipboard, 8 bits": "\x9d52;c;cm0gLXJm\x9c",
    "title": "\x1b]0;owned\x1b\\",
    "link": "\x1b]8;;http://evil\x1b\\",
    "clear": "\x1b[2J\x1b[H",
    "colour": "\x1b[31m",
    "8 bits": "\x9b31m",
    "device": "\x1bP1$r\x1b\\",
    "unfinished": "\x1b]52;c;abc",
    "backspace": "\b\b\b",
    "reads otherwise": "\u202egnp.exe\u2066",
}
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
texts = st.text() | st.lists(st.sampled_from([*ORDERS.values(), "[red]", "[/]", ":smile:", "a", "\n"])).map(
    "".join
)


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_no_order_is_left(order: str) -> None:
    left = without_controls(f"before {order}after")
    assert not OBEYED.search(left)
    assert left.startswith("before ")


@given(texts)
@example("\x1b]x\n\x1b[31m")
def test_no_text_orders_anything(text: str) -> None:
    left = without_controls(text)
    assert not OBEYED.search(left)
    assert left.count("\n") == text.count("\n"), "what follows a line is not swallowed with it"
    assert without_controls(left) == left


def shown(*printed: object) -> str:
    screen = Screen(file=io.StringIO(), width=200, force_terminal=False, color_system=None, highlight=False)
    for one in printed:
        screen.print(one, soft_wrap=True)
    return screen.file.getvalue()


@given(texts)
def test_a_screen_shows_texts_and_tables_as_they_read(text: str) -> None:
    table = Table(text)
    table.add_row(text)
    assert not OBEYED.search(shown(f"run {text}", Text(text), table))


def test_names_are_no_markup() -> None:
    assert shown("run [bold red]x[/] :smile:") == "run [bold red]x[/] :smile:\n"


@given(st.text() | st.sampled_from([*ORDERS.values(), "[/]", "[link=x]y"]))
def test_a_story_of_hostile_names_is_told_harmlessly(name: str) -> None:
    lost = RankLost(1, 0, name, name, 1, 3, name, name, [name], name)
    story: list[Event] = [
        RunStarted(name, name, name, name, 4, 2.0), NodeDraining(1, name, 3, 4.0), lost,
        BatchesSkipped([3], name), Decided("restart", name), RunEnded(Status.FAILED, name),
    ]  # fmt: skip
    screen, ledger = Screen(file=io.StringIO(), width=100, force_terminal=False, color_system=None), Ledger()
    terminal = Terminal(screen, None, clock=lambda: 0.0)
    for seq, event in enumerate(story):
        ledger.fold(record := Record(seq, float(seq), 1.7e9, event))
        terminal.observe(record, ledger.bill())
    terminal.notice(name)
    terminal.summary(record, ledger, {"where": name})
    assert not OBEYED.search(screen.file.getvalue())


def test_the_last_place_stops_what_was_forgotten_and_lets_through_what_draws() -> None:
    program = (
        "import os, sys; from orchestrator import output;"
        " output.take_over()\nsys.stdout.write('\\x1b[31mred\\x1b[0m\\r\\x1b[2K\\x1b]52;c;YQ==\\x07end ' +"
        " os.environ['A_TOKEN'] + '\\n')\nprint('\\x9d0;t\\x9cx', os.environ['A_TOKEN'], file=sys.stderr)\n"
    )
    environment = {**os.environ, "A_TOKEN": "zanzibar-77", "PYTHONUTF8": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, timeout=60, check=True
    )
    assert done.stdout == b"\x1b[31mred\x1b[0m\r\x1b[2Kend ***\n"
    assert done.stderr == b"x ***\n"
