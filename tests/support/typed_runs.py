"""Runs as a user types them, in a folder and with a home of their own."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.events import Event, StepDone
from orchestrator.ledger.journal import replay

# Whatever this machine has, two processor cores train.
CPU = ["gpu=cpu", "cluster.gpus_per_node=2", "cluster.cpu_threads_per_rank=1"]
SHORT = [
    *CPU, "model.seq_len=64", "job.steps=24", "job.args.checkpoint_every=8", "job.args.val_every=12",
    "job.args.sample_tokens=20",
]  # fmt: skip
TIMEOUT_S = 150


@dataclass
class Done:
    """A run that has ended."""

    name: str
    code: int
    text: str
    folder: Path
    seen: dict[str, Any] = field(default_factory=dict)

    def events(self) -> list[Event]:
        return [record.event for record in replay(self.folder / "runs" / self.name / "journal.jsonl")]

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events() if isinstance(event, kind)]

    def losses(self) -> dict[int, float | None]:
        """The last loss of each step: what the model that was trained has seen."""
        return {event.step: event.loss for event in self.of(StepDone)}


Launch = Callable[..., Done]


def wait_for_step(journal: Path, step: int) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        if journal.exists() and any(
            isinstance(record.event, StepDone) and record.event.step >= step for record in replay(journal)
        ):
            return
        time.sleep(0.05)
    raise AssertionError(f"step {step} was not reached within {TIMEOUT_S} s")


# A user's own script, of whose model nothing is known; without what takes seconds to start and is not
# looked at here: preloaded imports, dashboard, MLflow.
OWN_SCRIPT = [
    *CPU,
    "job=script",
    "launch.zygote=false",
    "launch.dashboard=false",
    "tracking.uri=http://127.0.0.1:9",
]
