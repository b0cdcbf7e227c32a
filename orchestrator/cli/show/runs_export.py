"""Runs for programs: JSON and CSV with the same fields, unknown as null or empty."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from orchestrator.ledger.mlflow.run_groups import FIGURES, Group
from orchestrator.ledger.mlflow.run_table import FIELDS
from orchestrator.ledger.mlflow.runs import RunRow


def to_json(rows: Sequence[RunRow] | Sequence[Group]) -> str:
    """A list of objects; raises ``ValueError`` rather than write NaN, which is no JSON."""
    return json.dumps([asdict(row) for row in rows], indent=2, allow_nan=False)


def to_csv(rows: Sequence[RunRow]) -> str:
    """A header and one line per run; what each bucket cost, and each key in which they differ, are columns
    behind the fields."""
    keys = sorted({key for row in rows for key in row.settings})
    buckets = [f"cost_usd_{name}" for name in dict.fromkeys(name for row in rows for name in row.bucket_usd)]
    lines = [
        row.settings | {f"cost_usd_{name}": cost for name, cost in row.bucket_usd.items()} | asdict(row)
        for row in rows
    ]
    return _csv([*FIELDS, *buckets, *keys], lines)


def groups_to_csv(groups: Sequence[Group]) -> str:
    """A header and one line per group: its keys, how many runs, and of each figure how many have it, their
    mean and their standard deviation."""
    lines: list[dict[str, object]] = []
    for group in groups:
        line: dict[str, object] = {**group.values, "runs": group.runs, "finished": group.finished}
        line |= {"spent_usd": group.cost_usd, "reached": group.reached}
        for name, spread in group.figures.items():
            line |= {f"{name}_n": spread.n, f"{name}": spread.mean, f"{name}_deviation": spread.deviation}
        lines.append(line)
    figures = [f"{name}{end}" for name in FIGURES for end in ("", "_deviation", "_n")]
    keys = list(groups[0].values) if groups else []
    return _csv([*keys, "runs", "finished", "spent_usd", "reached", *figures], lines)


def _csv(columns: Sequence[str], lines: Sequence[Mapping[str, object]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()
