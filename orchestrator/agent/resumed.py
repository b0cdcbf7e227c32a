"""The words of a rank in an attempt that goes on from a checkpoint. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.config.placeholders import ATTEMPT, CHECKPOINT, OF_ATTEMPT, RESUME_STEP, asks_for, fill


@dataclass(frozen=True)
class Origin:
    """Where an attempt begins. ``checkpoint`` is the folder or file by which the script knows what it is to
    load, "" where there is nothing; ``step`` is None where that is not known."""

    attempt: int
    checkpoint: str = ""
    step: int | None = None


def words_of(
    args: Sequence[str], resume_args: Sequence[str], origin: Origin, places: Mapping[str, str]
) -> list[str]:
    """The words of a rank, placeholders filled in. Of those that say from where to go on, one that has
    nothing to say is left out: a script takes an empty path for a path."""
    own = {
        CHECKPOINT: origin.checkpoint,
        RESUME_STEP: "" if origin.step is None else str(origin.step),
        ATTEMPT: str(origin.attempt),
    }
    goes_on = origin.attempt > 1 or origin.checkpoint != ""
    added = [
        word
        for word in resume_args
        if goes_on and (origin.checkpoint or any(name in word for name in OF_ATTEMPT))
    ]
    empty = [name for name, value in own.items() if not value]
    return [
        fill(word, {**places, **own})
        for word in (*args, *added)
        if not any(asks_for(name, [word]) for name in empty)
    ]
