"""What a key takes, in words, and why a value is none of that: asked when a configuration was refused.

OmegaConf says which type did not fit, in its own words and often without the key. Here the word of the
command line is looked at again, by the annotations of the schema.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import shlex
import types
import typing
from typing import Any

from orchestrator.config import ranges
from orchestrator.config.schema import Config
from orchestrator.papers import short

_MOST_SHOWN = 60


@dataclasses.dataclass(frozen=True)
class Kind:
    """What one key takes. ``takes`` is a type of the schema without null."""

    key: str
    takes: Any
    or_null: bool
    range: ranges.Range | None
    default: Any

    @property
    def is_map(self) -> bool:
        return typing.get_origin(self.takes) is dict

    @property
    def is_list(self) -> bool:
        return typing.get_origin(self.takes) is list

    @property
    def is_section(self) -> bool:
        """Whether keys stand below it, those of the schema."""
        return dataclasses.is_dataclass(self.takes)

    def words(self) -> str:
        """``a whole number above 0 to 1e+12, or null``."""
        null = ", or null" if self.or_null else ""
        if self.is_section or self.is_map:
            return f"keys below it{null}"
        if self.is_list:
            return f"a list of text{null}"
        if issubclass(self.takes, enum.Enum):
            return " or ".join(member.name for member in self.takes) + null
        name = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}[self.takes]
        return f"{name}{f' {self.range}' if self.range else ''}{null}"

    def fits(self, value: Any) -> bool:
        """Whether a value that Hydra read is of this kind, as OmegaConf converts."""
        if value is None:
            return self.or_null
        if self.is_section or self.is_map:
            return isinstance(value, dict)
        if self.is_list:
            plain = isinstance(value, list) and not any(isinstance(one, list | dict) for one in value)
            return plain and None not in value
        if issubclass(self.takes, enum.Enum):
            return str(value) in self.takes.__members__
        if self.takes is bool:
            return isinstance(value, bool) or str(value).lower() in ("0", "1", "true", "false", "yes", "no")
        if self.takes is str:
            return not isinstance(value, dict | list)
        try:
            return not isinstance(value, bool | dict | list) and self.takes(str(value)) is not None
        except ValueError:
            return False

    def remedy(self, value: Any) -> str:
        """What to type instead of a value that does not fit."""
        if self.is_map or self.is_section:
            names = [field.name for field in dataclasses.fields(self.takes)] if self.is_section else ["NAME"]
            name = next((name for name in names if name not in ("name", "kind")), names[0])
            return f"{'' if self.is_section else '+'}{self.key}.{name}=…"
        if self.is_list:
            item = value if isinstance(value, str) and len(value) < _MOST_SHOWN else ""
            return shlex.quote(f"{self.key}=[{item}]")
        if issubclass(self.takes, enum.Enum):
            return f"{self.key}={next(iter(self.takes)).name}"
        whole = self.takes is int and isinstance(value, float) and value.is_integer()
        if whole and not (self.range and self.range.why_not(value)):
            return f"{self.key}={int(value)}"
        if self.takes is str:
            return f"{self.key}={self.default or 'TEXT'}" if self.default != "???" else f"{self.key}=TEXT"
        if self.takes is bool:
            return f"{self.key}={str(self.default is True).lower()}"
        assert self.range is not None
        return f"{self.key}={self.range.instead_of(self.default)}"


def kind_of(key: str) -> Kind | None:
    """What a dotted key takes; None for one that no schema has."""
    owner: Any = Config
    found: Kind | None = None
    for name in key.split("."):
        if found is not None and found.is_map:
            inner = typing.get_args(found.takes)[1]
            return _kind(key, inner, found.range, dataclasses.MISSING) if inner is not Any else None
        if not dataclasses.is_dataclass(owner):
            return None
        field = next((one for one in dataclasses.fields(owner) if one.name == name), None)
        if field is None or not isinstance(owner, type):
            return None
        hint = _hints(owner)[name]
        found = _kind(key, hint, ranges.range_of(owner, name), field.default)
        owner = found.takes
    return found


def why_not(key: str, value: Any, typed: str) -> str | None:
    """One line about a key and a value that is not what the key takes; None where it is. ``typed`` is how the
    value was written."""
    kind = kind_of(key)
    if kind is None or kind.fits(value):
        return None
    shown = typed if typed.isprintable() and len(typed) <= _MOST_SHOWN else short(value)
    return f"{key}={shown}: takes {kind.words()}; write e.g. {kind.remedy(value)}"


def why_kept(key: str) -> str | None:
    """Why ``~KEY`` takes no key of the schema out; None for one that is of a map."""
    kind = kind_of(key)
    if kind is None or (("." not in key) and kind.is_section):
        return None
    instead = f"{key}=null" if kind.or_null else kind.remedy(None)
    return f"~{key}: a key of the schema always has a value; write {instead}"


def is_known(key: str) -> bool:
    """Whether the schema has a key, or a map in which it can be."""
    kind = None
    parts = key.split(".")
    for place in range(1, len(parts) + 1):
        kind = kind_of(".".join(parts[:place]))
        if kind is None or kind.is_map:
            break
    return kind is not None


def all_keys(owner: Any = Config, prefix: str = "") -> list[str]:
    """Every dotted key of the schema: sections, maps and what has a value."""
    found = []
    for field in dataclasses.fields(owner):
        key = f"{prefix}{field.name}"
        kind = kind_of(key)
        assert kind is not None
        found.append(key)
        if kind.is_section:
            found += all_keys(kind.takes, f"{key}.")
    return found


@functools.cache
def _hints(owner: Any) -> dict[str, Any]:
    """Worked out once: the annotations of a dataclass are read from text."""
    return typing.get_type_hints(owner)


def _kind(key: str, hint: Any, range_: ranges.Range | None, default: Any) -> Kind:
    takes, or_null = hint, False
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        takes = next(part for part in typing.get_args(hint) if part is not types.NoneType)
        or_null = True
    return Kind(key, takes, or_null, range_, None if default is dataclasses.MISSING else default)
