"""``spend``: what the runs below a run root have cost together, as a table, CSV or JSON."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from collections.abc import Sequence
from typing import Any, Literal

from rich.console import Console
from rich.text import Text

from orchestrator.cli.show.tables import Column, fitting, table_of
from orchestrator.driver.spending import SpentGroup, Wanted, spent_groups
from orchestrator.ledger.bill import Bucket
from orchestrator.text import UNKNOWN, clean, ending, hours, hours_name, percent, usd

_NAME_WIDTH = 32
_TITLES = {"cost_center": "cost centre", "bucket": "spent on"}


def spend(
    run_root: str,
    by: Sequence[str],
    wanted: Wanted,
    output: Literal["json", "csv", "table"],
    console: Console,
    trust: bool = False,
) -> None:
    """Print it; raises as :func:`~orchestrator.driver.spending.spent_groups` does."""
    groups = spent_groups(run_root, by, wanted, trust)
    if output == "json":  # past the console, which would wrap and colour it
        console.file.write(json.dumps([dataclasses.asdict(group) for group in groups], indent=2) + "\n")
    elif output == "csv":
        _write_csv(groups, by, console)
    elif not groups:
        which = "nothing of this kind was spent" if wanted != Wanted() else "nothing was spent"
        console.print(f"{which} in {run_root}; set run_root to look elsewhere", highlight=False)
    else:
        _show(groups, by, console)


def _write_csv(groups: Sequence[SpentGroup], by: Sequence[str], console: Console) -> None:
    """Amounts are as exact as they are kept, so that sums of them are too."""
    figures = ["unit", "runs", "gpu_hours", "cost_usd", "lost_usd"]
    # What a kind of work is in a row of its own has no columns as well.
    buckets = [] if "bucket" in by else [bucket.value for bucket in Bucket]
    writer = csv.writer(console.file, lineterminator="\n")
    writer.writerow([*by, *figures, *(f"{bucket}_usd" for bucket in buckets)])
    for group in groups:
        writer.writerow(
            [
                *(_cell(group.by[name]) for name in by),
                *(getattr(group, figure) for figure in figures),
                *(group.bucket_usd.get(bucket, 0.0) for bucket in buckets),
            ]
        )


def _cell(value: str | None) -> str:
    """A name that a spreadsheet would take for a formula is text to it."""
    text = clean(value or "")
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text


def _show(groups: Sequence[SpentGroup], by: Sequence[str], console: Console) -> None:
    whole = math.fsum(group.cost_usd for group in groups)
    named = [
        Column[SpentGroup](_TITLES.get(name, name), _value_of(name), place, text=True)
        for place, name in enumerate(by)
    ]
    units = {group.unit for group in groups}
    columns = [
        *(dataclasses.replace(column, rank=0) for column in named),
        Column[SpentGroup]("cost", lambda group: usd(group.cost_usd), 0),
        Column[SpentGroup]("share", lambda group: percent(_share(group.cost_usd, whole)), 4),
        Column[SpentGroup]("hours", _hours(units), 2),
        Column[SpentGroup]("lost", lambda group: usd(group.lost_usd), 3),
        Column[SpentGroup]("of cost", lambda group: percent(_share(group.lost_usd, group.cost_usd)), 5),
        Column[SpentGroup]("runs", lambda group: f"{group.runs:,}", 6),
    ]
    shown = fitting(columns, groups, console.width)
    console.print(table_of(shown, groups))
    hidden = [column.title for column in columns if column not in shown]
    note = f"; not shown for lack of width: {', '.join(hidden)}" if hidden else ""
    console.print(Text(_total(groups, whole) + note, style="dim"), soft_wrap=True)


def _value_of(name: str) -> Any:
    return lambda group: ending(clean(group.by[name] or UNKNOWN), _NAME_WIDTH)


def _hours(units: set[str]) -> Any:
    if len(units) == 1:
        return lambda group: hours(group.gpu_hours)
    return lambda group: f"{hours(group.gpu_hours)} {hours_name(group.unit)}"


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _total(groups: Sequence[SpentGroup], whole: float) -> str:
    """All together; hours are not added up over units."""
    parts = [
        f"{hours(math.fsum(group.gpu_hours for group in groups if group.unit == unit))} {hours_name(unit)}"
        for unit in sorted({group.unit for group in groups})
    ]
    lost = math.fsum(group.lost_usd for group in groups)
    trained_nothing = f", of which {usd(lost)} trained nothing" if lost else ""
    return f"in all {usd(whole)} for {' and '.join(parts)}{trained_nothing}"
