"""Frozen dataclasses <-> plain values of JSON, by their annotations: nested ones, tuples and words of an
enum."""

from __future__ import annotations

import dataclasses
import enum
import functools
import types
import typing
from typing import Any, TypeVar

from orchestrator.papers import PaperError, short

_T = TypeVar("_T")
# Fields that an earlier version wrote, and nobody read.
_GONE = {"Team": {"parent"}, "Pool": {"site"}}


def plain(value: Any) -> Any:
    """What JSON can hold of it."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    kind: Any = type(value)  # a class can be hashed, which mypy does not see here either
    if names := _names(kind):
        return {name: plain(getattr(value, name)) for name in names}
    if isinstance(value, tuple | list):
        return [plain(each) for each in value]
    return value.value if isinstance(value, enum.Enum) else value


def made(kind: type[_T], body: Any) -> _T:
    """The dataclass of a kind. A field that the body lacks has its default.

    Raises :class:`PaperError`, which names what does not fit.
    """
    if not isinstance(body, dict):
        raise PaperError(f"{kind.__name__} is {short(body)} and has to be an object")
    asked: Any = kind  # a class can be hashed, which mypy does not see of a type variable
    hints: dict[str, Any] = _hints(asked)
    if unknown := body.keys() - hints.keys():
        if unknown - _GONE.get(kind.__name__, set()):
            raise PaperError(f"{kind.__name__} has no {', '.join(sorted(unknown))}")
        body = {name: value for name, value in body.items() if name not in unknown}
    try:
        return kind(**{name: _value(hints[name], value, name) for name, value in body.items()})
    except TypeError as error:  # a field is missing that has no default
        raise PaperError(f"{kind.__name__}: {error}") from None


@functools.cache
def _names(kind: Any) -> tuple[str, ...]:
    """Of the fields of a dataclass; none of anything else."""
    return tuple([field.name for field in dataclasses.fields(kind)]) if dataclasses.is_dataclass(kind) else ()


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _value(hint: Any, value: Any, name: str) -> Any:
    origin = typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        (inner,) = [each for each in typing.get_args(hint) if each is not type(None)]
        return _value(inner, value, name)
    if origin is tuple and isinstance(value, list):
        inner = typing.get_args(hint)
        if inner[-1] is Ellipsis:
            return tuple([_value(inner[0], each, name) for each in value])
        if len(inner) == len(value):
            return tuple([_value(each, one, name) for each, one in zip(inner, value, strict=True)])
    elif dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return made(hint, value)
    elif isinstance(hint, type) and issubclass(hint, enum.Enum):
        try:
            return hint(value)
        except ValueError:
            pass
    elif hint is float and type(value) in (int, float):
        return float(value)
    elif type(value) is hint:
        return value
    raise PaperError(f"{name} is {short(value)}, which does not fit")
