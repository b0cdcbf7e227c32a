"""Records <-> JSON, from the annotations of the events: one line in full, and back, with every value checked.

What a field is declared as is what a line may hold there: the checks of a class are made once, from its
annotations, and looked up by the exact type of a value, which is all that nearly every value takes.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import json
import typing
from typing import Any

from orchestrator import budget_events, checkpoint_events, events, papers, script_events
from orchestrator.events import Event, Record

# Three hundred years. What is counted in microseconds, times so many GPUs, then fits into any number.
LONGEST_S = 1e10
# A class is among those of its base once its module is imported.
_MODULES = tuple(module.__name__ for module in (events, budget_events, checkpoint_events, script_events))
EVENT_TYPES: dict[str, type[Event]] = {
    kind.__name__: kind for kind in Event.__subclasses__() if kind.__module__ in _MODULES
}
# Events that earlier journals have under another name.
RENAMED_EVENTS = {
    "SnapshotHeld": "CheckpointWriteBlocked",
    "SnapshotFreed": "CheckpointWriteResumed",
    "SnapshotUnstaged": "StagingUnavailable",
}
_NUMBERS = (float, int)


def record_to_json(record: Record) -> str:
    """One line of JSON without newline."""
    body: dict[str, Any] = {"seq": record.seq, "elapsed_s": round(record.elapsed_s, 6)}
    body |= {"time_unix_s": round(record.time_unix_s, 6), "type": type(record.event).__name__}
    body |= dataclasses.asdict(record.event)
    return json.dumps(body, allow_nan=True, separators=(", ", ": "))


def record_from_json(line: str) -> Record:
    """Inverse of :func:`record_to_json`; raises ``ValueError``, ``KeyError`` or ``TypeError`` on anything
    else."""
    body = papers.json_of(line)
    if not isinstance(body, dict):
        raise papers.PaperError("it is not a JSON object")
    return record_from_body(body)


def record_from_body(body: dict[str, Any]) -> Record:
    """Like :func:`record_from_json`, of the line's JSON, which is taken apart."""
    seq, elapsed_s, time_unix_s = body.pop("seq"), body.pop("elapsed_s"), body.pop("time_unix_s")
    name = body.pop("type")
    kind: Any = EVENT_TYPES[RENAMED_EVENTS.get(name, name)]
    for name, words in _words(kind).items():
        if isinstance(word := body.get(name), str):
            body[name] = words.get(word, word)
    return checked_record(seq, elapsed_s, time_unix_s, papers.made(kind, body))


def checked_record(seq: Any, elapsed_s: Any, time_unix_s: Any, event: Event) -> Record:
    """A record whose numbers can be counted with, whoever wrote them; raises ``ValueError``. The event is
    checked."""
    if type(seq) is not int or not 0 <= seq <= papers.LARGEST:
        raise papers.PaperError(f"seq is {papers.short(seq)} and has to be a whole number from 0")
    if type(elapsed_s) not in _NUMBERS or not 0 <= elapsed_s <= LONGEST_S:
        raise papers.PaperError(f"elapsed_s is {papers.short(elapsed_s)} and has to be seconds from 0")
    if type(time_unix_s) not in _NUMBERS or not 0 <= time_unix_s < papers.LATEST_UNIX_S:
        raise papers.PaperError(
            f"time_unix_s is {papers.short(time_unix_s)} and has to be seconds since 1970"
        )
    return Record(seq, elapsed_s, time_unix_s, event)


@functools.cache
def _words(kind: Any) -> dict[str, dict[str, enum.Enum]]:
    """The fields of an event that hold a word of a vocabulary, and each such word by its text."""
    found: dict[str, dict[str, enum.Enum]] = {}
    for name, hint in typing.get_type_hints(kind).items():
        for each in (hint, *typing.get_args(hint)):
            if isinstance(each, type) and issubclass(each, enum.Enum):
                found[name] = {str(word.value): word for word in each}
    return found
