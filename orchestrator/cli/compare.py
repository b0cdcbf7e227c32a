"""``compare``: runs side by side, as a table or for programs."""

from __future__ import annotations

from typing import Literal

from rich.console import Console

from orchestrator.cli.show.runs_export import to_csv, to_json
from orchestrator.cli.show.runs_table import print_table
from orchestrator.ledger.mlflow.run_table import NEWEST_FIRST, runs


def compare(
    uri: str,
    experiment: str,
    sort: str | None,
    output: Literal["table", "csv", "json"],
    limit: int,
    console: Console,
) -> None:
    """Print the newest ``limit`` runs of an experiment; raises as :func:`~orchestrator.runs` does.

    ``sort`` is a field, best or newest first, or ``field:asc`` / ``field:desc``; None is newest first.
    """
    rows = runs(experiment, uri=uri, sort=sort or NEWEST_FIRST, limit=limit)
    if output == "table":
        print_table(rows, console)
    else:
        text = to_json(rows) + "\n" if output == "json" else to_csv(rows)
        console.file.write(text)  # past the console, which would wrap and colour it
