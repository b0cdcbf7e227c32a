"""What the runs of a run root have cost together, by who pays, where, when and for what.

There is one arithmetic: the charges of each run's own ledger. A run that has ended has left their sums in
``RUN_ROOT/spend/RUN.json``; of one that has not, the journal is folded where it is this user's own, else what
stands in its note. Here they are only added up. A run whose directory was removed has still cost what its
note says.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from orchestrator import papers
from orchestrator.driver.journal_fold import JournalFold
from orchestrator.driver.run_list import newest_first, owner_of
from orchestrator.errors import ConfigError, JournalError, near_miss
from orchestrator.events import Status
from orchestrator.ledger.bill import Bucket
from orchestrator.ledger.money import LOST, Held
from orchestrator.ledger.spend import FOLDER
from orchestrator.ledger.spend_notes import SpendRead, spend_notes
from orchestrator.trust import why_not_ours

# By what spending can be grouped.
BY = ("owner", "project", "cost_center", "cluster", "month", "bucket", "run")
BY_DEFAULT = ("owner", "month")
_ENDED = [status.value for status in Status]


@dataclass(frozen=True)
class SpentLine:
    """What one run has held in one month for one kind of work."""

    run: str  # its name
    owner: str  # who pays
    project: str | None  # and for what; null where that was not said
    cost_center: str | None  # whose budget it is; null where that was not said
    cluster: str | None  # where; null where that is not known
    month: str  # of UTC, as 2026-11
    bucket: str  # what it was spent on; "" where only the whole is known
    unit: str  # what an hour is counted of: `GPU` or `CPU core`
    gpu_hours: float  # held, in the unit
    cost_usd: float  # the same in dollars


@dataclass(frozen=True)
class SpentGroup:
    """What all that is alike has cost together. Hours of other units are a group of their own."""

    by: dict[str, str | None]  # what is alike, by its name; null is what was not said
    unit: str  # what an hour is counted of: `GPU` or `CPU core`
    runs: int  # that have a part in it
    gpu_hours: float  # held, in the unit
    cost_usd: float  # the same in dollars
    lost_usd: float  # of them what trained nothing
    bucket_usd: dict[str, float]  # the dollars by what they were spent on


@dataclass(frozen=True)
class Wanted:
    """Which spending is asked for; None is all."""

    owner: str | None = None
    project: str | None = None
    cost_center: str | None = None
    cluster: str | None = None
    month: str | None = None

    def check(self) -> None:
        """Raises :class:`ConfigError` for a month that is none."""
        try:
            if self.month is not None and f"{datetime.strptime(self.month, '%Y-%m'):%Y-%m}" != self.month:
                raise ValueError
        except ValueError:
            raise ConfigError(
                f"--month {papers.short(self.month)}: is no month; write e.g. --month 2026-11"
            ) from None

    def takes(self, line: SpentLine) -> bool:
        """Whether it is wanted."""
        return all(wanted is None or getattr(line, name) == wanted for name, wanted in asdict(self).items())


def spent_groups(run_root: str | Path, by: Sequence[str], wanted: Wanted, trust: bool) -> list[SpentGroup]:
    """Add up the spending below a run root.

    Raises :class:`ConfigError` for what cannot be grouped by, and for a month that is none.
    """
    for name in by:
        if name not in BY:
            raise ConfigError(
                f"--by {papers.short(name)}: spending is not grouped by that{near_miss(name, BY)}; choose"
                f" among {', '.join(BY)}"
            )
    wanted.check()
    return grouped((line for line in spent_lines(run_root, trust) if wanted.takes(line)), by)


def grouped(lines: Iterable[SpentLine], by: Sequence[str]) -> list[SpentGroup]:
    """Add up what is alike, in the order of what is grouped by."""
    found: dict[tuple[str | None, ...], list[SpentLine]] = {}
    for line in lines:
        found.setdefault((*(getattr(line, name) for name in by), line.unit), []).append(line)
    ordered = sorted(found.items(), key=lambda one: [(part is None, part or "") for part in one[0]])
    return [_group(dict(zip(by, key, strict=False)), same) for key, same in ordered]


def _group(by: dict[str, str | None], lines: list[SpentLine]) -> SpentGroup:
    buckets = {bucket: [each for each in lines if each.bucket == bucket] for bucket in ("", *Bucket)}
    bucket_usd = {
        str(bucket): math.fsum(each.cost_usd for each in same) for bucket, same in buckets.items() if same
    }
    return SpentGroup(
        by=by,
        unit=lines[0].unit,
        runs=len({line.run for line in lines}),
        gpu_hours=math.fsum(line.gpu_hours for line in lines),
        cost_usd=math.fsum(line.cost_usd for line in lines),
        lost_usd=math.fsum(line.cost_usd for line in lines if line.bucket and Bucket(line.bucket) in LOST),
        bucket_usd=bucket_usd,
    )


def spent_lines(run_root: str | Path, trust: bool) -> Iterable[SpentLine]:
    """Everything that the runs of a run root have held, a line for each run, month and kind of work."""
    root = Path(os.path.abspath(run_root))
    notes = spend_notes(root / FOLDER)
    for _, name, path in newest_first(root, notes):
        note = notes.get(name)
        ours = path is not None and (trust or why_not_ours(path) is None)
        told = note.by_month() if note is not None else []
        if path is not None and ours and not (told and note and note.state in _ENDED):
            yield from _by_journal(name, path, note)
        elif note is not None:
            yield from _lines(name, note, note.owner, note.cluster, note.unit, told)


def _by_journal(name: str, path: Path, note: SpendRead | None) -> Iterable[SpentLine]:
    fold = JournalFold(path, stamp_is_enough=True)
    try:
        folded = fold.catch_up()
        fold.keep_if_worth_it()
    except JournalError:  # up to the damage; what a note says is later
        folded = fold.folded
    facts, held = folded.run, folded.ledger.by_month()
    if note is not None and note.cost_usd > math.fsum(each.cost_usd for each in held):
        held = note.by_month()
    known = facts or note
    cluster, unit = (known.cluster, known.unit) if known else (None, "GPU")
    return _lines(name, note, (note.owner if note else "") or owner_of(path), cluster, unit, held)


def _lines(
    name: str, note: SpendRead | None, owner: str, cluster: str | None, unit: str, held: Iterable[Held]
) -> Iterable[SpentLine]:
    for each in held:
        yield SpentLine(
            run=name,
            owner=owner,
            project=note.project if note else None,
            cost_center=note.cost_center if note else None,
            cluster=cluster,
            month=each.month,
            bucket=each.bucket,
            unit=unit,
            gpu_hours=each.gpu_hours,
            cost_usd=each.cost_usd,
        )
