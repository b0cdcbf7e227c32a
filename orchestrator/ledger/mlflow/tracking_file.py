"""What is known of a run before it begins, for the process that tells MLflow: ``tracking.json`` in its
directory."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator import papers


@dataclass(frozen=True)
class Tracking:
    """Where to record the run, and what is known before it begins."""

    uri: str  # MLflow's address, which may hold a password: the file is its owner's alone
    experiment: str  # in which the run is
    run_name: str  # name of the run
    flush_s: float = 2.0  # how often the run so far is written
    params: dict[str, Any] = field(default_factory=dict)  # by name, see [MLflow](#mlflow)
    tags: dict[str, str] = field(default_factory=dict)  # by name, see [MLflow](#mlflow)
    sweep: str = ""  # the sweep's number; empty for a run of its own
    sweep_values: dict[str, Any] = field(default_factory=dict)  # by key, what it has of what is varied
    go_on: str = ""  # the command that takes the run up again
    artifacts: list[str] = field(default_factory=list)  # files of the run's directory to upload at its end

    @staticmethod
    def read(path: Path) -> Tracking:
        """Raises ``OSError`` or ``ValueError`` when the file is not what it should be."""
        return papers.made(Tracking, papers.read_object(path))
