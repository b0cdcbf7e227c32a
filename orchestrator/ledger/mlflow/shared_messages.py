"""What a driver and the sink that it shares with others say to each other: lines of JSON, a type for each."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.message_lines import Lines
from orchestrator.papers import Count, Seconds

MOST_LINE_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Follow:
    """Tell MLflow of the run in this directory while the connection lasts, and what is left then; an end
    within the first ``earlier_bytes`` of its journal is an earlier driver's."""

    run_dir: str
    finish_timeout_s: Seconds
    earlier_bytes: Count


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Nobody waits for it any longer, and MLflow is to be told no more."""


@dataclass(frozen=True, slots=True)
class Follows:
    """The process that does so."""

    pid: Count


@dataclass(frozen=True, slots=True)
class Said:
    """A line for whoever started the run."""

    text: str


@dataclass(frozen=True, slots=True)
class Done:
    """With the exit code that a sink of its own would have ended with."""

    code: Count


FromDriver = Follow | GiveUp
FromSink = Follows | Said | Done

from_driver: Lines[FromDriver] = Lines({"follow": Follow, "give_up": GiveUp}, MOST_LINE_BYTES)
from_sink: Lines[FromSink] = Lines({"follows": Follows, "said": Said, "done": Done}, MOST_LINE_BYTES)
