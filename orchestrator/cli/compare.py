"""``compare``: runs side by side, or in groups, as a table, for programs, as a page or as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from rich.console import Console

from orchestrator.cli.show.runs_export import groups_to_csv, to_csv, to_json
from orchestrator.cli.show.runs_table import print_groups, print_table
from orchestrator.cli.show.written import place_of, write_at
from orchestrator.ledger.mlflow.run_table import NEWEST_FIRST, RunTable, runs
from orchestrator.text import bytes_in_words, plural

# Where nothing is said: of a table a screen or two, of means and pictures all that there are.
LIMIT, LIMIT_OF_MANY = 100, 10_000


def compare(
    uri: str,
    experiment: str,
    sort: str | None,
    output: Literal["table", "csv", "json"],
    limit: int | None,
    console: Console,
    *,
    filter_string: str = "",
    to_loss: float | None = None,
    by: Sequence[str] = (),
    html: str | None = None,
    png: str | None = None,
) -> None:
    """Show the newest ``limit`` runs of an experiment; raises as :func:`~orchestrator.runs` does.

    ``sort`` is a field, best or newest first, or ``field:asc`` / ``field:desc``; None is newest first. ``by``
    are the keys of groups that are shown instead, ``to_loss`` is the loss that is asked how dear it was.
    ``html`` and ``png`` are files that are written instead of what is printed.
    """
    places = {flag: place_of(flag, name) for flag, name in (("--html", html), ("--png", png)) if name}
    most = limit or (LIMIT_OF_MANY if by or places else LIMIT)
    rows = runs(
        experiment,
        uri=uri,
        sort=sort or NEWEST_FIRST,
        limit=most,
        filter_string=filter_string,
        to_loss=to_loss,
    )
    if places:
        _write(rows, uri, experiment, by, to_loss, filter_string, places, console)
        return
    if output == "table":
        _print(rows, by, to_loss, console)
        return
    if by:
        groups = rows.by(*by)
        text = to_json(groups) + "\n" if output == "json" else groups_to_csv(groups)
    else:
        text = to_json(rows) + "\n" if output == "json" else to_csv(rows)
    console.file.write(text)  # past the console, which would wrap and colour it


def _print(rows: RunTable, by: Sequence[str], to_loss: float | None, console: Console) -> None:
    if by:
        print_groups(rows.by(*by), console)
    else:
        print_table(rows, console)
    if to_loss is not None:
        reached = sum(row.usd_to_loss is not None for row in rows)
        console.print(
            f"to a loss of {to_loss:g}: the first step at which the median of five losses is no higher;"
            f" {reached} of {plural(len(rows), 'run')} came to it",
            style="dim",
            highlight=False,
            soft_wrap=True,
        )


def _write(
    rows: RunTable,
    uri: str,
    experiment: str,
    by: Sequence[str],
    to_loss: float | None,
    filter_string: str,
    places: Mapping[str, Path],
    console: Console,
) -> None:
    from orchestrator.cli.show.runs_page import runs_page, with_curves
    from orchestrator.ledger.mlflow.curves import load_curves

    groups = rows.by(*by) if by else ()
    curves = load_curves(with_curves(rows), uri)
    asked = [plural(len(rows), "run"), filter_string, f"by {', '.join(by)}" if by else ""]
    subtitle = "; ".join([*filter(None, asked), datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")])
    if (path := places.get("--html")) is not None:
        text = runs_page(rows, groups, curves, f"Runs of {experiment}", subtitle, to_loss)
        write_at("--html", path, text)
        console.print(
            f"{path}: {plural(len(rows), 'run')}, {bytes_in_words(len(text.encode()))}", soft_wrap=True
        )
    if (path := places.get("--png")) is not None:
        from orchestrator.cli.show.runs_picture import runs_picture

        write_at("--png", path, runs_picture(rows, groups, curves, f"Runs of {experiment}; {subtitle}"))
        console.print(f"{path}: {plural(len(rows), 'run')}", soft_wrap=True)
