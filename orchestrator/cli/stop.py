"""``stop``: a run is asked to stop, from wherever its directory can be written, and waited for."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console

from orchestrator.driver import stop_file
from orchestrator.driver.journal_fold import JournalFold
from orchestrator.driver.resume import resume_command
from orchestrator.errors import RunDirectoryError
from orchestrator.events import Record, RunEnded, Status, StopRequested
from orchestrator.ledger.journal import Tail
from orchestrator.ledger.run_directory import find_run, holder
from orchestrator.text import seconds_in_words, usd

# For a driver to say that it has heard: it may be starting Ray, or its machine may be busy.
ANSWER_S = 120.0
# The same where no driver seems to hold the run: not every shared file system tells of locks of other hosts.
ANSWER_UNHELD_S = 15.0
POLL_S = 0.2


def stop(run: str, run_root: str, now: bool, wait: bool, console: Console, trust: bool = False) -> None:
    """Ask, and unless ``wait`` is false come back when the run has ended. With ``now`` its ranks have no time
    to save.

    Raises :class:`~orchestrator.errors.ConfigError` for a run that is not there,
    :class:`RunDirectoryError` where its driver cannot be asked, or does not answer.
    """
    directory = find_run(run, run_root, trust)
    fold = JournalFold(directory)
    last = fold.catch_up().last
    held = holder(directory) is not None
    if last is not None and isinstance(last.event, RunEnded) and not held:
        _say(console, f"{directory.name} has ended already: {last.event.status.value}")
        return
    for _ in range(2 if now else 1):
        stop_file.ask(directory)
    _say(console, f"{directory.name} is asked to stop{' at once' if now else ''}")
    try:
        _follow(directory, fold, held, wait, console)
    except KeyboardInterrupt:
        _say(console, "no longer waited for; the run is asked to stop all the same")


def _follow(directory: Path, fold: JournalFold, held: bool, wait: bool, console: Console) -> None:
    """Tell what comes of it."""
    tail = Tail(directory / "journal.jsonl", fold.mark)
    patience_s = ANSWER_S if held else ANSWER_UNHELD_S
    deadline_s, heard = time.monotonic() + patience_s, False
    with console.status("waiting for its driver"):
        while True:
            # asked before reading: what a driver that is gone wrote last is then read
            alive = holder(directory) is not None
            for record in tail.read():
                if isinstance(record.event, StopRequested):
                    heard = True
                    grace = seconds_in_words(record.event.grace_s)
                    saving = f"have {grace} to save" if record.event.grace_s else "end at once"
                    _say(console, f"its driver has heard; ranks {saving}")
                elif isinstance(record.event, RunEnded):
                    _ended(directory, record, fold, console)
                    return
            if heard and not wait:
                return
            if held and not alive:
                # it had ended before it was asked, and had still to tell MLflow
                last = fold.catch_up().last
                if last is not None and isinstance(last.event, RunEnded):
                    _ended(directory, last, fold, console)
                    return
            if (held and not alive) or (not heard and time.monotonic() > deadline_s):
                raise RunDirectoryError(_unanswered(directory, alive, patience_s))
            time.sleep(POLL_S)


def _ended(directory: Path, record: Record, fold: JournalFold, console: Console) -> None:
    assert isinstance(record.event, RunEnded)
    folded = fold.catch_up()
    cost_usd, status = folded.ledger.bill().cost_usd, record.event.status
    reason = f": {record.event.reason}" if record.event.reason else ""
    _say(console, f"{directory.name} {status.value}{reason} ({usd(cost_usd)})")
    if status is not Status.FINISHED:
        _say(console, f"to go on with it: {resume_command(directory, Path.cwd())}")


def _unanswered(directory: Path, alive: bool, patience_s: float) -> str:
    if alive:
        return (
            f"{directory}: its driver (process {holder(directory)}) has not answered within"
            f" {patience_s:g} s; it stops when it does, or send SIGTERM to that process on its machine"
        )
    return (
        f"{directory}: no driver holds the run, it is lost and its ranks are gone with it; nothing is left to"
        " stop, 'orchestrator resume' takes it up"
    )


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, soft_wrap=True)
