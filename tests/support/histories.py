"""Short words for the events from which tests make the history of a run."""

from __future__ import annotations

import dataclasses

from orchestrator.events import CheckpointSaved, Decided, Event, Fault, LossRejected, RankLost, StepDone
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


# Twenty steps, two checkpoints.
AT_15 = (saved(1, 10), saved(1, 15), done(1, 20))
