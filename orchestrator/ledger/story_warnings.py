"""What did not end a run, or its attempt, but should be known, as lines of its story."""

from __future__ import annotations

from orchestrator.events import (
    CheckpointWriteBlocked,
    EngineConfigured,
    Event,
    LossRejected,
    NodeChecked,
    NodeDraining,
    NodeQuarantined,
    ProbesFailed,
    SnapshotDoubted,
    SnapshotPassedOver,
    SnapshotQuarantined,
    StagingUnavailable,
    StallNamed,
    StragglerNamed,
)
from orchestrator.ledger.fault_words import draining_in_words
from orchestrator.ledger.story_lines import Kind, Line
from orchestrator.text import clean, known, number


def warning_of(event: Event) -> Line | None:
    """What did not end the attempt but should be known."""
    match event:
        case SnapshotQuarantined():
            text = f"checkpoint {event.tag} quarantined, it is not loaded any more: {clean(event.reason)}"
        case SnapshotPassedOver():
            text = f"checkpoint {event.tag} is passed over: {clean(event.reason)} ({event.path})"
        case SnapshotDoubted():
            text = (
                f"others could change checkpoints: {clean(event.reason)}. From that disk only types that are"
                " known to run nothing are loaded; name the script's own in snapshot.allow_types"
            )
        case CheckpointWriteBlocked():
            text = f"node {event.node} cannot write its checkpoint: {clean(event.reason)}"
        case StagingUnavailable():
            where = f"rank {event.rank} on node {event.node}"
            text = (
                f"{where}: no room to stage its checkpoints, training waits for the disk:"
                f" {clean(event.reason)}"
            )
        case ProbesFailed():
            text = (
                f"rank {event.rank} on node {event.node} tells no more of its steps, it trains on without: "
                f"{event.where}: {clean(event.reason)}"
            )
            if event.observed == 0:
                text += "; no rank tells of them now, and what follows in this attempt is unobserved"
        case StragglerNamed():
            who = f"rank {event.rank} on node {event.node}, {event.gpu}"
            text = (
                f"{who}: slow, its own work takes {event.ratio:.2f} times that of the others (step"
                f" {event.step})"
            )
        case StallNamed():
            text = _stall(event)
        case LossRejected():
            loss = f"loss {number(event.loss)}" if known(event.loss) else "loss"
            text = f"{loss} of step {event.step} rejected: {clean(event.reason)}"
        case NodeDraining():
            text = f"{draining_in_words(event)}: the ranks save, and the run goes on without it"
        case NodeChecked(well=True):
            text = f"node {event.node} {_came(event)}was checked in {event.seconds:.0f} s and is well"
            return Line(Kind.NOTE, text)
        case NodeChecked():
            text = f"node {event.node} {_came(event)}was checked, and is bad: {clean(event.found)}"
        case NodeQuarantined():
            text = f"node {event.node} quarantined, its GPUs are not taken any more"
        case _:
            return None
    return Line(Kind.WARNING, text)


def _came(checked: NodeChecked) -> str:
    return "came in place of a lost one, " if checked.came else ""


_ENGINE = {
    "global_batch": "batch",
    "micro_batch": "micro-batch",
    "accumulation": "accumulation",
    "zero_stage": "ZeRO stage",
    "world_size": "ranks",
}


def other_engine(event: EngineConfigured) -> list[Line]:
    """What somebody asked for and did not get is a warning; what was the script's to choose is told."""
    runs = {
        name: f"{_ENGINE.get(name, name)} {clean(str(getattr(event, name, '?')))}" for name in event.planned
    }
    asked = [
        f"{runs[name]} instead of {clean(str(planned))}"
        for name, planned in event.planned.items()
        if name not in event.assumed
    ]
    chosen = [words for name, words in runs.items() if name in event.assumed]
    lines = [Line(Kind.NOTE, f"the script has chosen for DeepSpeed: {', '.join(chosen)}")] if chosen else []
    if asked:
        lines.append(
            Line(
                Kind.WARNING,
                f"DeepSpeed runs with other values than were planned: {', '.join(asked)}. What the plan"
                " predicts does not hold for them; hand {deepspeed_config} to the script, or set in job and"
                " deepspeed what it sets",
            )
        )
    return lines


def _stall(event: StallNamed) -> str:
    who = f"rank {event.rank} on node {event.node}, {event.gpu}, {clean(event.doing)}"
    where = f" at {clean(event.where)}" if event.where else ""
    awaited = f"; {clean(event.awaited)}" if event.awaited else ""
    return f"no progress for {event.silent_s:.0f} s: {who}{where}{awaited} (it is left to run)"
