"""The range of each number of the configuration: it stands in the field's type, and is looked at here.

The names below say what kind of number a field holds, and carry its bounds. Bounds are wide: they hold back
what no machine, budget or model can be, and what would be a division by zero or a wait for ever; whether two
numbers go together is for ``plan/``.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from orchestrator.errors import ConfigError
from orchestrator.papers import short

# What the longest lines of ours can show of a number that somebody gave.
_MOST_DIGITS = 24


@dataclass(frozen=True)
class Range:
    """Which numbers a field can hold: from ``least`` (or ``above`` it) to ``most``. ``example`` is written
    where a field has no default of its own; ``or_infinite`` for what may never happen."""

    least: float
    most: float
    example: float
    above: bool = False
    or_infinite: bool = False

    def why_not(self, value: float) -> str | None:
        """What is wrong with a value, None where nothing is."""
        if math.isnan(value):
            return "is not a number"
        if self.or_infinite and value == math.inf:
            return None
        if self.above and value <= self.least:
            return f"must be greater than {self.least:g}"
        if value < self.least:
            return f"must be {self.least:g} or more"
        if math.isinf(value):
            return f"must be finite, at most {self.most:g}"
        return f"must be at most {self.most:g}" if value > self.most else None

    def instead_of(self, default: object) -> str:
        """A number that is in the range, the field's own default where it is one."""
        own = isinstance(default, int | float) and not isinstance(default, bool) and not self.why_not(default)
        return f"{default if own else self.example:.10g}".replace("e+", "e")

    def __str__(self) -> str:
        ends = "above" if self.above else "from"
        return f"{ends} {self.least:g} to {self.most:g}{', or inf' if self.or_infinite else ''}"


# Whole numbers.
Count = Annotated[int, Range(0, 1e12, 1, above=True)]
CountOr0 = Annotated[int, Range(0, 1e12, 0)]
Degree = Annotated[int, Range(0, 1e6, 1, above=True)]  # of nodes, ranks, and what divides them
DegreeOr0 = Annotated[int, Range(0, 1e6, 0)]
Bytes = Annotated[int, Range(1_000_000, 1e18, 80_000_000_000)]
BytesOr0 = Annotated[int, Range(0, 1e18, 0)]
Port = Annotated[int, Range(0, 65535, 8080, above=True)]
Seed = Annotated[int, Range(-(2**63), 2**64 - 1, 0)]  # what torch takes

# A second is never waited for longer than the system's clocks can count: this is 31 years.
Seconds = Annotated[float, Range(0, 1e9, 30)]
SecondsAbove0 = Annotated[float, Range(0, 1e9, 30, above=True)]
Hours = Annotated[float, Range(0, 1e7, 24)]
HoursAbove0 = Annotated[float, Range(0, 1e12, 200, above=True, or_infinite=True)]
GpuHours = Annotated[float, Range(0, 1e12, 20_000, above=True)]
Days = Annotated[float, Range(0, 1e5, 30, above=True)]
Years = Annotated[float, Range(0, 1000, 5, above=True)]

# The largest machine of today is below 1e21 bytes or operations a second.
Rate = Annotated[float, Range(1, 1e24, 1e12)]
RateOr0 = Annotated[float, Range(0, 1e24, 0)]
Watts = Annotated[float, Range(0, 1e12, 700, above=True)]
WattsOr0 = Annotated[float, Range(0, 1e12, 700)]
Usd = Annotated[float, Range(0, 1e15, 1)]
UsdAbove0 = Annotated[float, Range(0, 1e15, 100_000, above=True)]
Loss = Annotated[float, Range(-1e9, 1e9, 2.5)]
Pue = Annotated[float, Range(1, 100, 1.2)]

Share = Annotated[float, Range(0, 1, 0.8, above=True)]
ShareOr0 = Annotated[float, Range(0, 1, 0)]
Factor = Annotated[float, Range(0, 1e9, 1, above=True)]
FactorOr0 = Annotated[float, Range(0, 1e9, 0)]
FactorAbove1 = Annotated[float, Range(1, 1e9, 3, above=True)]
FactorFrom1 = Annotated[float, Range(1, 1e9, 2)]


@dataclass(frozen=True)
class _Field:
    """A field of the schema: the range of its numbers, or the section that it is."""

    name: str
    range: Range | None
    section: type | None
    default: Any
    or_null: bool


def check(section: Any, prefix: str = "") -> None:
    """Look at every number of a dataclass of the schema; ``prefix`` is the path of its keys, with the dot.

    Raises :class:`ConfigError` for the first that is out of its range, with what to write instead.
    """
    for key, value, field in _numbers(section, prefix):
        assert field.range is not None
        if (why := field.range.why_not(value)) is not None:
            example = field.range.instead_of(field.default)
            null = f" or {key}=null" if field.or_null else ""
            raise ConfigError(f"{key}={_shown(value)}: {why}; write e.g. {key}={example}{null}")


def range_of(owner: Any, name: str) -> Range | None:
    """The range of the numbers in a field of the schema; None for one that holds no numbers."""
    return next(field.range for field in _fields(owner) if field.name == name)


def _numbers(section: Any, prefix: str) -> Iterator[tuple[str, float, _Field]]:
    owner: Any = type(section)
    for field in _fields(owner):
        value = getattr(section, field.name)
        if field.section is not None:
            if dataclasses.is_dataclass(value):  # a section that may be null is none then
                yield from _numbers(value, f"{prefix}{field.name}.")
        elif field.range is not None:
            yield from ((key, number, field) for key, number in _values(value, f"{prefix}{field.name}"))


def _values(value: Any, key: str) -> Iterator[tuple[str, float]]:
    """The numbers of a field: its own, or those of a map, whose names are keys."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _values(inner, f"{key}.{name}")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield key, value


@functools.cache
def _fields(owner: Any) -> tuple[_Field, ...]:
    """Worked out once: the annotations of a dataclass are read from text."""
    hints = typing.get_type_hints(owner, include_extras=True)
    return tuple(
        _Field(
            field.name,
            _range(hints[field.name]),
            _section(hints[field.name]),
            field.default,
            types.NoneType in typing.get_args(hints[field.name]),
        )
        for field in dataclasses.fields(owner)
    )


def _range(hint: Any) -> Range | None:
    if typing.get_origin(hint) is Annotated:
        return next((one for one in hint.__metadata__ if isinstance(one, Range)), None)
    return next((found for part in typing.get_args(hint) if (found := _range(part)) is not None), None)


def _section(hint: Any) -> type | None:
    parts = typing.get_args(hint) if isinstance(hint, types.UnionType) or _is_union(hint) else (hint,)
    return next((part for part in parts if isinstance(part, type) and dataclasses.is_dataclass(part)), None)


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) is typing.Union


def _shown(value: float) -> str:
    text = str(value) if isinstance(value, float) or abs(value) < 10**_MOST_DIGITS else short(value)
    return text.removesuffix(".0")
