"""``simulate scenario=NAME``: a scenario's answer as tables, as JSON or as CSV."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from omegaconf import DictConfig
from rich.console import Console

from orchestrator.cli.show.scenario import show_scenario
from orchestrator.planner.scenario import ScenarioAnswer, answer


def simulate_scenario(
    composed: DictConfig, words: Sequence[str], output: Literal["json", "csv", "table"], console: Console
) -> None:
    """Raises :class:`ConfigError` for a scenario that does not hold together."""
    found = answer(composed, words)
    if output == "json":
        console.file.write(json.dumps(dataclasses.asdict(found), indent=2) + "\n")
    elif output == "csv":
        console.file.write(to_csv(found))
    else:
        show_scenario(found, console)


def to_csv(found: ScenarioAnswer) -> str:
    """A line for each site and week; of a range the least, the mean and the greatest."""
    rows = [_flat(dataclasses.asdict(row)) for row in found.sites]
    names: dict[str, None] = {}
    for row in rows:
        names |= dict.fromkeys(row)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(names), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, dict):
            flat |= {f"{name}_{part}": number for part, number in value.items()}
        else:
            flat[name] = value
    return flat
