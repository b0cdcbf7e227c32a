"""The runs of a run root: which go on and which have ended, by their journals, and those of others by what
they tell of their spending."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator import papers
from orchestrator.driver.folded import Folded
from orchestrator.driver.journal_fold import JournalFold
from orchestrator.errors import ConfigError, JournalError, near_miss
from orchestrator.events import RunEnded, Status
from orchestrator.ledger.bill import Bucket
from orchestrator.ledger.run_directory import LOST, holder
from orchestrator.ledger.spend import FOLDER
from orchestrator.ledger.spend_notes import SpendRead, spend_notes
from orchestrator.trust import why_not_ours
from orchestrator.users import user_name

DAMAGED = "damaged"
# What is asked for as a state: all that goes on, and each way to have ended.
GOES_ON = "running"
STATES = (GOES_ON, *(status.value for status in Status), LOST, DAMAGED)
# A note is written so often; one that is older than this many times that is of a driver that is gone.
_NOTES_MISSED = 4


@dataclass(frozen=True)
class ListedRun:
    """One run of a run root."""

    name: str  # its name below the run root
    # what its time goes to, or how it ended; `lost` where its driver is gone without a last word, `damaged`
    # where its journal cannot be read
    state: str
    goes_on: bool  # whether a driver is there
    job: str | None  # name of the job; null where only what it spends may be known
    cluster: str | None  # name of the cluster; null where only what it spends may be known
    owner: str  # who pays
    project: str | None  # and for what; null where that was not said
    unit: str  # what an hour is counted of: `GPU` or `CPU core`
    gpus_held: int  # at this moment
    gpu_hours: float  # held so far, in the unit
    cost_usd: float  # spent so far
    step: int | None  # the highest step reached; null where only what it spends may be known
    steps: int | None  # of the whole run; null where that is not known
    started_unix_s: float | None  # when it began; null where only what it spends may be known
    last_unix_s: float  # of its newest record
    path: str | None  # its directory; null where it is in none of this run root


@dataclass(frozen=True)
class RunFilter:
    """Which runs are wanted; an empty one is all. ``states`` are of :data:`STATES`."""

    states: Sequence[str] = ()
    job: str | None = None
    cluster: str | None = None
    owner: str | None = None
    project: str | None = None

    def check(self) -> None:
        """Raises :class:`ConfigError` for a state that no run can have."""
        for state in self.states:
            if state not in STATES:
                raise ConfigError(
                    f"state {papers.short(state)}: no run is that{near_miss(state, STATES)}; choose among"
                    f" {', '.join(STATES)}"
                )

    def takes(self, run: ListedRun) -> bool:
        """Whether a run is wanted."""
        if self.states and not (run.state in self.states or (run.goes_on and GOES_ON in self.states)):
            return False
        named = (
            ("job", self.job),
            ("cluster", self.cluster),
            ("owner", self.owner),
            ("project", self.project),
        )
        return all(wanted is None or getattr(run, name) == wanted for name, wanted in named)


def list_runs(
    run_root: str | Path = "runs",
    *,
    states: Sequence[str] = (),
    job: str | None = None,
    cluster: str | None = None,
    owner: str | None = None,
    project: str | None = None,
    limit: int = 100,
    trust: bool = False,
) -> list[ListedRun]:
    """Look up the runs of a run root, those with the newest word first; no server is asked.

    Args:
        run_root: The folder of the runs.
        states: Only those that are ``running`` (all that go on), ``finished``, ``failed``, ``interrupted``,
            ``lost`` or ``damaged``.
        job: Only those of the job of this name.
        cluster: Only those on the cluster of this name.
        owner: Only those that this one pays.
        project: Only those of this project.
        limit: The most that are returned.
        trust: Whether journals of runs that are somebody else's are read too; of these only what they tell of
            their spending is known otherwise.

    Raises:
        ConfigError: No run can have a state that is asked for.
    """
    if isinstance(states, str):
        raise ConfigError(f"states={states!r}: is one text; give a list of states")
    return listed(run_root, RunFilter(tuple(states), job, cluster, owner, project), limit, trust)


def listed(run_root: str | Path, wanted: RunFilter, limit: int, trust: bool) -> list[ListedRun]:
    """As :func:`list_runs`."""
    wanted.check()
    run_root = os.path.abspath(run_root)
    notes = spend_notes(Path(run_root) / FOLDER)
    found: list[ListedRun] = []
    for _, name, path in newest_first(Path(run_root), notes):
        note = notes.get(name)
        run = None
        if path is not None and (trust or why_not_ours(path) is None):
            run = _by_journal(name, path, note)
        elif note is not None:
            run = _by_note(name, path, note)
        if run is not None and wanted.takes(run):
            found.append(run)
            if len(found) >= limit:
                break
    return found


def newest_first(root: Path, notes: dict[str, SpendRead]) -> list[tuple[float, str, Path | None]]:
    """Time of the newest word, name and directory of each."""
    found: dict[str, tuple[float, Path | None]] = {
        name: (note.updated_unix_s, None) for name, note in notes.items()
    }
    for entry in _entries(root):
        journal = os.path.join(entry.path, "journal.jsonl")
        try:
            seen = os.stat(journal)
        except OSError:
            continue  # no run, or one that may not be looked into
        if stat.S_ISREG(seen.st_mode):
            found[entry.name] = (seen.st_mtime, Path(entry.path))
    return sorted(
        ((at, name, path) for name, (at, path) in found.items()), reverse=True, key=lambda run: run[:2]
    )


def _entries(root: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(root) as entries:
            yield from entries
    except (FileNotFoundError, NotADirectoryError):
        return


def _by_journal(name: str, path: Path, note: SpendRead | None) -> ListedRun | None:
    fold = JournalFold(path, stamp_is_enough=True)
    held = holder(path) is not None  # asked first: a driver that is gone has written its last word
    try:
        folded = fold.catch_up()
    except JournalError:
        return _listed(name, path, note, fold.folded, DAMAGED, held)
    fold.keep_if_worth_it()
    if folded.run is None and not held:
        return None  # it never began, and cost nothing
    last = folded.last.event if folded.last else None
    # the last word of a driver before this one is none of this one's
    ended = last.status.value if isinstance(last, RunEnded) else None
    state = ended or ((folded.ledger.bucket.value if folded.run else Bucket.WAITING.value) if held else LOST)
    return _listed(name, path, note, folded, state, held and ended is None)


def _listed(
    name: str, path: Path, note: SpendRead | None, folded: Folded, state: str, goes_on: bool
) -> ListedRun:
    facts, bill = folded.run, folded.ledger.bill()
    return ListedRun(
        name=name,
        state=state,
        goes_on=goes_on,
        job=facts.job if facts else None,
        cluster=facts.cluster if facts else None,
        owner=(note.owner if note else "") or owner_of(path),
        project=note.project if note else None,
        unit=facts.unit if facts else "GPU",
        gpus_held=bill.gpus_held if goes_on else 0,
        gpu_hours=bill.gpu_hours,
        cost_usd=bill.cost_usd,
        step=bill.step,
        steps=folded.story.total_steps,  # it may have been taken up with another number of them
        started_unix_s=folded.started.time_unix_s if folded.started else None,
        last_unix_s=folded.last.time_unix_s if folded.last else path.stat().st_mtime,
        path=str(path),
    )


def _by_note(name: str, path: Path | None, note: SpendRead) -> ListedRun:
    ended = note.state in [status.value for status in Status]
    lost = not ended and time.time() - note.updated_unix_s > _NOTES_MISSED * max(1.0, note.every_s)
    return ListedRun(
        name=name,
        state=LOST if lost else papers.one_line(note.state),
        goes_on=not ended and not lost,
        job=None,
        cluster=None,
        owner=papers.one_line(note.owner),
        project=note.project,
        unit=note.unit,
        gpus_held=0 if lost or ended else note.gpus_held,
        gpu_hours=note.gpu_hours,
        cost_usd=note.cost_usd,
        step=None,
        steps=None,
        started_unix_s=None,
        last_unix_s=note.updated_unix_s,
        path=str(path) if path else None,
    )


def owner_of(path: Path) -> str:
    try:
        return user_name(path.stat().st_uid)
    except OSError:
        return "?"
