"""``report``: the table that a run ends with, of any run at any time, and what broke in it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, TypedDict

from rich.console import Console

from orchestrator.cli.incidents import incidents_table
from orchestrator.cli.show.run_page import run_page
from orchestrator.cli.show.terminal import Terminal
from orchestrator.cli.show.written import place_of, write_at
from orchestrator.driver.handle import Run
from orchestrator.driver.journal_fold import JournalFold
from orchestrator.driver.resume import resume_command
from orchestrator.errors import ConfigError
from orchestrator.events import RunEnded, Status
from orchestrator.ledger.bill import Bill
from orchestrator.ledger.energy import Drawn
from orchestrator.ledger.incident import Incident
from orchestrator.ledger.journal import replay
from orchestrator.ledger.loss_trail import loss_trail
from orchestrator.ledger.run_directory import LOST, find_run
from orchestrator.text import bytes_in_words

_CAN_GO_ON = frozenset({LOST, *Status} - {Status.FINISHED})


class RunReport(TypedDict):
    """A run as it stands, from its journal alone."""

    run: str  # name of the run
    state: str  # what its time goes to, or how it ended; `lost` where its driver is gone
    bill: Bill  # what it has taken and given
    energy: Drawn  # what it has drawn, measured and modelled
    incidents: list[Incident]  # what broke in it, in the order of the journal
    path: str  # its directory


def report(
    run: str, run_root: str, as_json: bool, console: Console, trust: bool = False, html: str | None = None
) -> None:
    """Print what a run has taken, given and lost, from its journal alone; of a live run up to now. With
    ``html`` a page of it is written there instead.

    Raises :class:`ConfigError` for a run that is not there, or that has not begun.
    """
    place = place_of("--html", html) if html else None
    directory = find_run(run, run_root, trust)
    fold = JournalFold(directory)
    folded = fold.catch_up()
    fold.keep_if_worth_it()
    if folded.run is None:
        raise ConfigError(f"{directory.name} has not begun: its journal says nothing yet")
    state = Run(directory).state
    if place is not None:
        text = run_page(folded.ledger, state, *loss_trail(replay(directory / "journal.jsonl")))
        write_at("--html", place, text)
        console.print(f"{place}: {bytes_in_words(len(text.encode()))}", soft_wrap=True)
        return
    if as_json:
        body: dict[str, Any] = {
            "run": folded.run.run,
            "state": state,
            "bill": dataclasses.asdict(folded.ledger.bill()),
            "energy": dataclasses.asdict(folded.ledger.drawn()),
            "incidents": [dataclasses.asdict(each) for each in folded.ledger.incidents()],
            "path": str(directory),
        }
        console.file.write(json.dumps(body, indent=2) + "\n")  # past the console, which would wrap it
        return
    terminal = Terminal(console, None)
    terminal.remember(folded.story)
    where = {"run directory": str(directory)}
    terminal.summary(
        folded.last,
        folded.ledger,
        where if isinstance(folded.driver, RunEnded) else {"state": state, **where},
    )
    found = folded.ledger.incidents()
    if found:
        console.print()
        console.print(incidents_table(found))
    if state in _CAN_GO_ON:
        console.print()
        told = f"to go on with it: {resume_command(directory, Path.cwd())}"
        console.print(told, soft_wrap=True, highlight=False, markup=False)
