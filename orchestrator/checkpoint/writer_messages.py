"""What a node's agent asks the process that writes checkpoints, and what that answers, as lines of JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from orchestrator.checkpoint.manifest import FilePart


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
_ANSWERS: dict[str, type[Any]] = {"written": Written, "held": Held, "freed": Freed, "failed": Failed}
_WORDS = {made: word for word, made in _ANSWERS.items()}


def request_line(request: Request) -> bytes:
    """Returns the line that asks for it, with its end."""
    return json.dumps(asdict(request)).encode() + b"\n"


def request_of(line: str | bytes) -> Request:
    """Returns what a line asks for."""
    return Request(**json.loads(line))


def answer_line(answer: Answer) -> str:
    """Returns the line that says it, without its end."""
    return json.dumps({"event": _WORDS[type(answer)], **asdict(answer)})


def answer_of(line: str | bytes) -> Answer:
    """Returns what a line says."""
    body = json.loads(line)
    made = _ANSWERS[body.pop("event")]
    if made is Written:
        body["files"] = {name: FilePart(**file) for name, file in body["files"].items()}
    answer: Answer = made(**body)
    return answer
