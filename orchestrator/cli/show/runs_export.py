"""Runs for programs: JSON and CSV with the same fields, unknown as null or empty."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict

from orchestrator.ledger.mlflow.run_table import FIELDS
from orchestrator.ledger.mlflow.runs import RunRow


def to_json(rows: Sequence[RunRow]) -> str:
    """A list of objects; raises ``ValueError`` rather than write NaN, which is no JSON."""
    return json.dumps([asdict(row) for row in rows], indent=2, allow_nan=False)


def to_csv(rows: Sequence[RunRow]) -> str:
    """A header and one line per run; each key in which they differ is a column behind the fields."""
    text = io.StringIO()
    keys = sorted({key for row in rows for key in row.settings})
    writer = csv.DictWriter(text, [*FIELDS, *keys], lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(row.settings | asdict(row) for row in rows)
    return text.getvalue()
