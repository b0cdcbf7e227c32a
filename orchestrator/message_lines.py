"""Messages between processes of one node, each a line of JSON and read again: a dataclass, and the word that
stands for it in the line.

Each field is held to its annotation when it is read, since whoever has the descriptor may write to it. This
is imported into the user's process too, so it needs nothing but the standard library.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import typing
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

from orchestrator import papers

_Message = TypeVar("_Message")


class UnknownKindError(papers.PaperError):
    """A line is a message of a kind that this version does not know."""

    def __init__(self, kind: str) -> None:
        super().__init__(f"there is no message of the kind {papers.short(kind)}")
        self.kind = kind


class Lines(Generic[_Message]):
    """The lines of some kinds of messages, by the word that a line has for each."""

    def __init__(
        self,
        kinds: Mapping[str, type[Any]],
        most_bytes: int = papers.MOST_BYTES,
        most_values: int = papers.MOST_VALUES,
    ) -> None:
        self._kinds, self._most_bytes, self._most_values = kinds, most_bytes, most_values
        self._shapes = {
            made: (kind, tuple(one.name for one in dataclasses.fields(made))) for kind, made in kinds.items()
        }

    def encode(self, message: _Message) -> bytes:
        """Returns the line that says it, with its end."""
        kind, names = self._shapes[type(message)]
        body: dict[str, Any] = {"kind": kind}
        for name in names:
            body[name] = getattr(message, name)
        return _TO_JSON.encode(body).encode() + b"\n"

    def decode(self, line: bytes) -> _Message:
        """Returns what a line says. Raises :class:`~orchestrator.papers.PaperError` where it is no message,
        or has a field that is not what it has to be, and :class:`UnknownKindError`."""
        if len(line) > self._most_bytes:
            raise papers.PaperError(f"it has {len(line):,} bytes, and at most {self._most_bytes:,} are read")
        body = papers.json_of(line, self._most_values)
        if not isinstance(body, dict) or not isinstance(kind := body.pop("kind", None), str):
            raise papers.PaperError("it is no object with a kind")
        if kind not in self._kinds:
            raise UnknownKindError(kind)
        made: Any = self._kinds[kind]
        for name, inner in _maps_of_objects(made):
            if isinstance(given := body.get(name), dict):
                body[name] = {key: _made(inner, value) for key, value in given.items()}
        message: _Message = papers.made(made, body)
        return message


def _plain(value: object) -> object:
    """Dataclasses as objects. What is of another type than its field says is told as text: it must not end
    the thread that tells of it."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {one.name: getattr(value, one.name) for one in dataclasses.fields(value)}
    return str(value)


_TO_JSON = json.JSONEncoder(default=_plain)


@functools.cache
def _maps_of_objects(made: Any) -> tuple[tuple[str, Any], ...]:
    """The fields that are a map of dataclasses by text. Looked up when the first such line is read: a rank,
    which only writes lines, need not take the time."""
    found: list[tuple[str, Any]] = []
    for name, hint in typing.get_type_hints(made).items():
        if typing.get_origin(hint) is dict and dataclasses.is_dataclass(inner := typing.get_args(hint)[1]):
            found.append((name, inner))
    return tuple(found)


def _made(inner: type[Any], value: object) -> object:
    if not isinstance(value, dict):
        raise papers.PaperError(f"{papers.short(value)} is no object")
    return papers.made(inner, value)
