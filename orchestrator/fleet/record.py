"""How long jobs took that have ended, beside what was predicted: what a new one's time is guessed from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Ended:
    """A job that has ended by itself."""

    team: str
    owner: str
    script: str
    gpus: int
    hours: float
    predicted_hours: float | None = None


@dataclass(frozen=True)
class Record:
    """The latest last; the oldest may be left out."""

    ended: tuple[Ended, ...] = ()
