"""Run directories as a run leaves them, of runs that never were: configuration, plan and journal."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

from orchestrator.config import load
from orchestrator.config.schema import Config
from orchestrator.events import (
    AttemptEnded,
    AttemptStarted,
    Event,
    MemoryPeaked,
    Outcome,
    ResourcesGranted,
    RunEnded,
    RunStarted,
    Status,
    StepDone,
)
from orchestrator.ledger.journal import Journal
from orchestrator.plan.layout.layout import derive_layout
from tests.support.compositions import config_of


@functools.cache
def _composed() -> Config:
    return config_of("gpu=cpu", "cluster.gpus_per_node=2", "cluster.cpu_threads_per_rank=1")


def configuration(**changes: Any) -> Config:
    """The default job on two processor cores, with ``model__hidden=64`` for ``model.hidden``."""
    made = copy.deepcopy(_composed())
    for key, value in changes.items():
        owner: Any = made
        *path, leaf = key.split("__")
        for name in path:
            owner = getattr(owner, name)
        setattr(owner, leaf, value)
    return made


def leave_run(
    folder: Path,
    config: Config,
    step_time_s: float,
    peak_bytes: int | None = None,
    steps: int = 12,
    status: Status | None = Status.FINISHED,
) -> Path:
    """Its first step took ten times as long as the others, as first steps do; ``status`` None: its driver was
    lost."""
    layout = derive_layout(config)
    folder.mkdir(parents=True)
    kept = {"cwd": str(folder), "config": load.to_container(config)}
    (folder / "resume.json").write_text(json.dumps(kept))
    (folder / "plan.json").write_text(json.dumps({"layout": dataclasses.asdict(layout), "deepspeed": {}}))
    clock = iter([0.0, *(float(tick) for tick in range(10_000))])
    with Journal(folder / "journal.jsonl", clock=lambda: next(clock), wall=lambda: 1.7e9) as journal:
        started = RunStarted(
            folder.name, "job", config.cluster.name, config.gpu.name, layout.ranks, 0.05, steps=steps
        )
        events: list[Event] = [
            started,
            ResourcesGranted(["n"], layout.ranks),
            AttemptStarted(1, "n", 1, layout.ranks),
        ]
        events += [StepDone(1, step, step_time_s * (10 if step == 1 else 1)) for step in range(1, steps + 1)]
        events += [] if peak_bytes is None else [MemoryPeaked(1, steps, peak_bytes)]
        if status is not None:
            events += [AttemptEnded(1, Outcome.FINISHED, steps), RunEnded(status, "")]
        for event in events:
            journal.append(event)
    return folder
