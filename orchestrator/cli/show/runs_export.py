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
    """A header and one line per run."""
    text = io.StringIO()
    writer = csv.DictWriter(text, FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return text.getvalue()
