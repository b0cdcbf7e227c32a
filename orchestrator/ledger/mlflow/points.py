"""One value of one metric, as MLflow gets it, and the names and lengths that MLflow takes."""

from __future__ import annotations

import re
from dataclasses import dataclass

from orchestrator.ledger.mlflow.names import END_METRICS, RUN_METRICS, STEP_METRICS

MAX_KEY_CHARACTERS = 250
_BAD_KEY = re.compile(r"[^\w\-. :/]")
# A job may log metrics of these names too; they get a name of their own beside ours.
_OWN_NAMES = frozenset([*STEP_METRICS, *RUN_METRICS, *END_METRICS])


@dataclass(frozen=True, slots=True)
class Point:
    """One value of one metric; ``seq`` is that of the record it came from."""

    seq: int
    key: str
    value: float
    timestamp_ms: int
    step: int


def job_name(name: str) -> str:
    """What a metric of the job's is called beside ours."""
    return f"job/{name}" if name in _OWN_NAMES else name


def clean_key(key: str) -> str:
    """A name that MLflow accepts: other characters become ``_``, and path tricks are taken out."""
    parts = [part for part in _BAD_KEY.sub("_", key).split("/") if part not in ("", ".", "..")]
    return ("/".join(parts) or "_")[:MAX_KEY_CHARACTERS].rstrip("/")


def clip(value: str, limit: int) -> str:
    """``value``, or as much as fits together with a note of how much is missing."""
    if len(value) <= limit:
        return value
    note = f" … (cut, {len(value)} characters in all)"
    return value[: limit - len(note)] + note
