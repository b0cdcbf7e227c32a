"""What the ranks of job/trains_on.py and job/saves.py have noted: who did what when, over all attempts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Note:
    """`step`, `seconds` and `wrote` (bytes) are 0 where they say nothing."""

    rank: int
    pid: int
    what: str
    at_unix_s: float
    step: int = 0
    seconds: float = 0.0
    wrote: int = 0


def read(folder: Path) -> list[Note]:
    """All notes so far, in the order of time."""
    return sorted(_read(folder), key=lambda note: note.at_unix_s)


def _read(folder: Path) -> Iterator[Note]:
    for path in folder.glob("rank-*.jsonl"):
        rank, pid = path.stem.removeprefix("rank-").split(".")
        *whole, _torn = path.read_text().split("\n")
        for line in map(json.loads, whole):
            figures = {name: line[name] for name in ("step", "seconds", "wrote") if name in line}
            yield Note(int(rank), int(pid), line["what"], line["at"], **figures)


def after(notes: Sequence[Note], unix_s: float) -> list[Note]:
    """Those of the processes whose script began after that moment."""
    pids = {note.pid for note in notes if note.what == "script" and note.at_unix_s > unix_s}
    return [note for note in notes if note.pid in pids]


def before(notes: Sequence[Note], unix_s: float) -> list[Note]:
    """Those of the others."""
    pids = {note.pid for note in notes if note.what == "script" and note.at_unix_s <= unix_s}
    return [note for note in notes if note.pid in pids]


def last_s(notes: Sequence[Note], what: str, ranks: int, step: int = 0) -> float | None:
    """When the last of the ranks came to it for the first time, None where one has not; at `step`, or at
    any."""
    first: dict[int, float] = {}
    for note in notes:
        if note.what == what and step in (0, note.step):
            first[note.rank] = min(note.at_unix_s, first.get(note.rank, note.at_unix_s))
    return max(first.values()) if len(first) == ranks else None


def reached(notes: Sequence[Note]) -> int:
    """The highest step that a rank has done."""
    return max((note.step for note in notes if note.what == "step"), default=0)


def newest_pid(notes: Sequence[Note], rank: int) -> int:
    """The process in which this rank's script began last."""
    return max(
        (note for note in notes if note.rank == rank and note.what == "script"), key=lambda n: n.at_unix_s
    ).pid


def rank_zero_steps(notes: Sequence[Note]) -> list[Note]:
    """Every step that was done, as often as it was done."""
    return [note for note in notes if note.what == "step" and note.rank == 0]


def new_steps(steps: Sequence[Note]) -> list[Note]:
    """Of these the ones that took the run further than it had been."""
    new: list[Note] = []
    for note in steps:
        if not new or note.step > new[-1].step:
            new.append(note)
    return new
