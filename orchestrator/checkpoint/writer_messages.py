"""What a node's agent asks the process that writes checkpoints, and what that answers, as lines of JSON."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.checkpoint.manifest import FilePart
from orchestrator.message_lines import Lines


@dataclass(frozen=True, slots=True)
class Request:
    """Asks for files of a rank's part of a checkpoint in the folder ``to``; ``id`` is in the answer too.

    ``slot`` is the path of the memory that holds the generation of this attempt, tag and folder; no ``files``
    are all that it holds. Without a slot the files are in ``to`` already.
    """

    id: int
    attempt: int
    tag: str
    dir: str
    rank: int
    to: str
    slot: str | None
    files: list[str]


@dataclass(frozen=True, slots=True)
class Written:
    """All of it is durable, after so many seconds."""

    id: int
    files: dict[str, FilePart]
    seconds: float


@dataclass(frozen=True, slots=True)
class Held:
    """There is no space, and the writer tries again until there is."""

    id: int
    reason: str


@dataclass(frozen=True, slots=True)
class Freed:
    """There is space again, after so many seconds."""

    id: int
    held_s: float


@dataclass(frozen=True, slots=True)
class Failed:
    """It cannot be written."""

    id: int
    reason: str


Answer = Written | Held | Freed | Failed
REQUESTS: Lines[Request] = Lines({"write": Request})
ANSWERS: Lines[Answer] = Lines({"written": Written, "held": Held, "freed": Freed, "failed": Failed})
