"""``compare``: load, sort, print."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from rich.console import Console

from orchestrator.cli.show.runs_export import FIELDS, to_csv, to_json
from orchestrator.cli.show.runs_table import COLUMNS, print_table
from orchestrator.errors import ConfigError, near_miss
from orchestrator.ledger.mlflow.runs import RunRow, load_runs

NEWEST_FIRST = "started_at:desc"
DESCENDING_UNLESS_TOLD = {column.key for column in COLUMNS if column.best is max} | {"started_at"}


def compare(
    uri: str,
    experiment: str,
    sort: str | None,
    output: Literal["table", "csv", "json"],
    limit: int,
    console: Console,
) -> None:
    """Print the newest ``limit`` runs of an experiment.

    ``sort`` is a field, best or newest first, or ``field:asc`` / ``field:desc``; None is newest first.
    Raises :class:`ConfigError` for an unknown field, a missing experiment or no runs, and
    :class:`TrackingError` when MLflow does not answer.
    """
    key, descending = parse_sort(sort or NEWEST_FIRST)
    rows = sort_runs(load_runs(uri, experiment, limit), key, descending)
    if output == "table":
        print_table(rows, console)
    else:
        text = to_json(rows) + "\n" if output == "json" else to_csv(rows)
        console.file.write(text)  # past the console, which would wrap and colour it


def parse_sort(sort: str) -> tuple[str, bool]:
    """Field and whether it descends; raises :class:`ConfigError`."""
    key, _, direction = sort.partition(":")
    if key not in FIELDS:
        raise ConfigError(f"unknown sort key {key!r}{near_miss(key, FIELDS)}; one of {', '.join(FIELDS)}")
    if direction not in ("", "asc", "desc"):
        raise ConfigError(f"sort direction {direction!r} of {sort!r} is neither asc nor desc")
    return key, direction == "desc" if direction else key in DESCENDING_UNLESS_TOLD


def sort_runs(rows: Sequence[RunRow], key: str, descending: bool) -> list[RunRow]:
    """Sorted, unknown values last in both directions; equal ones stay newest first."""
    known = [row for row in rows if getattr(row, key) is not None]
    unknown = [row for row in rows if getattr(row, key) is None]
    return sorted(known, key=lambda row: getattr(row, key), reverse=descending) + unknown
