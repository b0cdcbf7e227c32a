"""Short words for the events from which tests make the history of a run."""

from __future__ import annotations

import dataclasses

from orchestrator.events import (
    AttemptStarted,
    CheckpointSaved,
    Decided,
    EngineConfigured,
    Event,
    Fault,
    LossRejected,
    RankLost,
    StepDone,
)
from orchestrator.supervise.history import History
from tests.support.fakes import lost


def dies(
    attempt: int, step: int, fault: Fault = Fault.EXIT, error: str = "ValueError: boom", **others: int
) -> Event:
    return dataclasses.replace(lost(attempt, step, error), fault=fault, **others)  # type: ignore[arg-type]


def killed(attempt: int, step: int) -> Event:
    return lost(attempt, step, "killed by SIGKILL", -9)


def nan(attempt: int, step: int) -> Event:
    return LossRejected(attempt, step, float("nan"), "the loss is nan")


def done(attempt: int, step: int) -> Event:
    return StepDone(attempt, step, 0.1, 1.0)


def begun(attempt: int, step: int) -> Event:
    """An attempt that is to load a checkpoint in a folder of its own."""
    return AttemptStarted(attempt, "127.0.0.1", 29500, 2, step, "disk", restore_alone=True)


def own_save(attempt: int, path: str, has_earlier: bool = True) -> Event:
    """An attempt that is to begin from what the script has saved without DeepSpeed."""
    return AttemptStarted(attempt, "127.0.0.1", 29500, 2, restore_path=path, restore_has_earlier=has_earlier)


def saved(attempt: int, step: int) -> Event:
    return CheckpointSaved(attempt, step, f"step-{step}", "/checkpoints", 0.1)


def story(*events: Event) -> History:
    """The history of these events, each failure decided once the next one is there."""
    history = History()
    for event in events:
        if history.open and isinstance(event, RankLost | LossRejected):
            history.fold(Decided("", ""))
        history.fold(event)
    return history


# A rank has made an engine of DeepSpeed's.
ENGINE = EngineConfigured(1, 16, 8, 1, "fp32", 1, 2)
# Twenty steps, two checkpoints.
AT_15 = (saved(1, 10), saved(1, 15), done(1, 20))
