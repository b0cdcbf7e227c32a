"""What others tell of their runs' spending, read: ``RUN_ROOT/spend/RUN.json``, which whoever may write there
has written as he likes."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from orchestrator import papers
from orchestrator.ledger.bill import Bucket
from orchestrator.ledger.money import Held

Amount = Annotated[float, papers.Within(0, papers.LARGEST)]


@dataclass(frozen=True)
class SpendRead:
    """The fields of :class:`~orchestrator.ledger.spend.Spend` that are read. ``held`` is empty in notes of a
    version that did not write it."""

    owner: str
    state: str
    project: str | None = None
    cost_center: str | None = None
    cluster: str | None = None
    unit: str = "GPU"
    every_s: Amount = 0.0
    gpus_held: papers.Count = 0
    gpu_hours: Amount = 0.0
    cost_usd: Amount = 0.0
    held: list[Held] = field(default_factory=list)
    updated_unix_s: Annotated[float, papers.Within(0, papers.LATEST_UNIX_S)] = 0.0

    def by_month(self) -> list[Held]:
        """By month and kind of work; of a note that does not tell them the whole, in the month of its last
        word."""
        if self.held or not (self.gpu_hours or self.cost_usd):
            return self.held
        at = datetime.fromtimestamp(self.updated_unix_s, UTC)
        return [Held(f"{at:%Y-%m}", "", self.gpu_hours, self.cost_usd)]


def spend_notes(folder: Path) -> dict[str, SpendRead]:
    """By run what it tells of its spending; what is no such note tells nothing."""
    notes: dict[str, SpendRead] = {}
    for entry in _entries(folder):
        name, dot, kind = entry.name.rpartition(".")
        if not dot or kind != "json" or name.startswith("."):
            continue
        try:
            notes[name] = note_of(papers.read_object(entry.path))
        except (OSError, ValueError):
            continue
    return notes


def note_of(body: dict[str, Any]) -> SpendRead:
    """Raises PaperError, which names the field. Fields of a later version are passed over."""
    known = {one.name for one in dataclasses.fields(SpendRead)}
    told = {name: value for name, value in body.items() if name in known and name != "held"}
    return dataclasses.replace(papers.made(SpendRead, told), held=_held(body.get("held")))


def _held(body: Any) -> list[Held]:
    """None where any of it cannot be added up: then the whole counts."""
    try:
        held = [papers.made(Held, dict(each)) for each in body]
    except (TypeError, ValueError):
        return []
    return held if all(_is_told(each) for each in held) else []


def _is_told(held: Held) -> bool:
    amounts = (held.gpu_hours, held.cost_usd)
    return held.bucket in list(Bucket) and all(
        math.isfinite(each) and 0 <= each < papers.LARGEST for each in amounts
    )


def _entries(root: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(root) as entries:
            yield from entries
    except (FileNotFoundError, NotADirectoryError):
        return
