"""A line of a run's story, and what it is about."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What a line is about."""

    NOTE = "note"
    STEP = "step"
    OUTPUT = "output"
    GOOD = "good"
    WARNING = "warning"
    ERROR = "error"
    DETAIL = "detail"


@dataclass(frozen=True)
class Line:
    kind: Kind
    text: str
