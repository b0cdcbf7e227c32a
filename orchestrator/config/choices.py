"""What some keys choose among; the schema has them by these names."""

from __future__ import annotations

from enum import Enum


class TrackedRanks(Enum):
    """Whose calls of MLflow are taken: those of rank 0 alone, or of all ranks."""

    first = "first"
    all = "all"


class FlagStyle(Enum):
    """How ``job.args`` become words: see :mod:`~orchestrator.plan.arguments`."""

    equals = "equals"
    flags = "flags"
    dotted = "dotted"
    python = "python"
    hydra = "hydra"
