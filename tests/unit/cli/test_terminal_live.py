"""What a terminal shows below the lines while a run goes on."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from orchestrator.cli.show.terminal import Terminal
from orchestrator.events import (
    Record,
    ResourcesGranted,
)
from orchestrator.ledger.ledger import Ledger
from orchestrator.text import (
    clean,
)
from tests.unit.cli.test_terminal import BARS, RUN, STORY, play


def test_in_a_live_display_progress_bars_are_rows_that_are_replaced() -> None:
    file = io.StringIO()
    console = Console(file=file, width=60, height=25, force_terminal=True, legacy_windows=False, _environ={})
    terminal, ledger = Terminal(console, None, clock=lambda: 0.0), Ledger()
    shown = []
    for seq, (at, event) in enumerate([*STORY[:3], *BARS]):
        ledger.fold(record := Record(seq, at, at, event))
        terminal.observe(record, ledger.bill())
        rows = console.render_lines(terminal._display(), pad=False)
        shown.append(["".join(part.text for part in row) for row in rows[:-2]])
    assert shown[3] == ["[rank 0] epoch 1", "[rank 0]   0%"]
    assert shown[-2] == ["[rank 0] epoch 1", "[rank 0]  50%"]
    assert shown[-1] == [], "nothing stale is left"
    assert "50%" not in file.getvalue(), "no state of it is a line"
    assert "100%" in file.getvalue()


def test_a_terminal_gets_a_live_display_with_events_above_it() -> None:
    file = io.StringIO()
    console = Console(file=file, width=80, height=25, force_terminal=True, legacy_windows=False, _environ={})
    terminal = play(console, STORY)
    assert "\x1b[?25l" in file.getvalue(), "the live display hides the cursor"
    assert "\x1b[?25h" in file.getvalue(), "and shows it again"
    assert "checkpoint global_step21 saved" in file.getvalue()
    assert "s/step" not in file.getvalue(), "the display shows steps, not lines"
    with console.capture() as captured:
        console.print(terminal._display())
    shown = clean(captured.get())
    assert "40/40" in shown
    assert "1M tokens/s" in shown
    assert "0.0711 GPU-hours" in shown


@pytest.mark.parametrize("width", [20, 40, 60, 80, 200])
def test_the_live_display_is_two_lines_at_any_width(width: int) -> None:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, _environ={})
    terminal = Terminal(console, None, clock=lambda: 0.0)
    ledger = Ledger()
    for seq, (at, event) in enumerate(STORY):
        record = Record(seq, at, at, event)
        ledger.fold(record)
        terminal.observe(record, ledger.bill())
        lines = console.render_lines(terminal._display(), pad=False)
        assert len(lines) == 2, event


def test_the_clock_runs_between_records_and_tick_brings_a_live_bill() -> None:
    now = 100.0
    console = Console(file=io.StringIO(), width=80, force_terminal=True, _environ={})
    terminal = Terminal(console, None, clock=lambda: now)
    ledger = Ledger()
    for seq, event in enumerate([RUN, ResourcesGranted(["n0"], 4)]):
        ledger.fold(record := Record(seq, 0.0, 0.0, event))
        terminal.observe(record, ledger.bill())
    now = 130.0
    with console.capture() as captured:
        console.print(terminal._display())
    assert "0:00:30" in captured.get()
    terminal.tick(ledger.bill(3600.0))
    with console.capture() as captured:
        console.print(terminal._display())
    assert "$10.00" in clean(captured.get())
