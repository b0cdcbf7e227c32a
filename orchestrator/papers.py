"""What others may have written, read within bounds: bytes of a plain file, JSON, YAML, dataclasses of plain
values.

Whoever writes a run directory chooses what lies in it: a pipe that never ends, a file larger than memory,
lists that nest without end, a text where a number belongs. Here each of them is a :class:`PaperError` of one
line, which is a ``ValueError``, and costs neither memory nor time; :mod:`json`, :mod:`yaml` and a bare
``open`` promise none of that.
"""

from __future__ import annotations

import dataclasses
import enum
import errno
import functools
import io
import json
import math
import os
import re
import stat
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

if TYPE_CHECKING:
    import yaml

# The largest paper that we write ourselves, a plan for twenty thousand ranks, has a few megabytes.
MOST_BYTES = 16 << 20
# A value takes some 100 bytes of memory, and may take two of the text.
MOST_VALUES = 1_000_000
# What walks through a value calls itself for each level.
MOST_DEPTH = 50
# As many as fit into 64 bits: beyond that no number of ours goes, and arithmetic with floats ends.
LARGEST = (1 << 63) - 1
# Where calendars of computers end, with the year 9999.
LATEST_UNIX_S = 253_402_300_799
# What YAML takes for a number may be a million digits to the base of 60, which takes minutes to work out.
_MOST_DIGITS = 500
# What constructors of YAML raise for texts behind a tag that they do not fit.
_YAML_RAISES = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError)
_SHOWN, _MOST_SAID = 80, 300
_TOO_DEEP = "it nests deeper than can be read"
# Of Linux, with the zero that ends a path.
_MOST_PATH_BYTES, _MOST_NAME_BYTES = 4096, 255

_DECODER = json.JSONDecoder()

_T = TypeVar("_T")


class PaperError(ValueError):
    """What was read is not what it should be; the message is one line that can follow a file's name."""


@dataclasses.dataclass(frozen=True)
class Within:
    """The bounds of a number, in the annotation of a field: ``Annotated[int, Within(0, 9)]``.

    NaN is not within any.
    """

    least: float
    most: float


Count = Annotated[int, Within(0, LARGEST)]
# A time, or how long something took.
Seconds = Annotated[float, Within(-LATEST_UNIX_S, LATEST_UNIX_S)]


class NotJsonError(PaperError):
    """What was read is no JSON at all: a file that is torn, perhaps."""


def short(value: object) -> str:
    """A value for a message: in ASCII, and no longer than a line has room for, however large it is."""
    if isinstance(value, dict | list | tuple | set):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, int) and not -LARGEST <= value <= LARGEST:
        return "a number of more than 19 digits"
    text = ascii(value[: _SHOWN + 1] if isinstance(value, str | bytes) else value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def one_line(text: str) -> str:
    """What an error says, for a message: without line breaks, and cut where it quotes pages."""
    text = " ".join(text.split())
    return text if len(text) <= _MOST_SAID else f"{text[: _MOST_SAID - 3]}..."


def why_no_path(text: str) -> str | None:
    """Why no file can have this path, which most calls that look for one raise for; None where one can."""
    data = text.encode(errors="surrogatepass")
    if "\0" in text:
        return "it holds a zero character"
    if len(data) >= _MOST_PATH_BYTES or any(len(name) > _MOST_NAME_BYTES for name in data.split(b"/")):
        return (
            f"no name in a path has more than {_MOST_NAME_BYTES} bytes, and no path {_MOST_PATH_BYTES - 1:,}"
        )
    return None


def read_bytes(path: Path | str, most_bytes: int = MOST_BYTES) -> bytes:
    """A plain file's bytes. Raises OSError, and PaperError for a pipe, a device and for more than
    ``most_bytes``."""
    with open_plain(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most_bytes:
            raise PaperError(f"it has {size:,} bytes, and at most {most_bytes:,} are read")
        return file.read(most_bytes)


def open_plain(path: Path | str) -> io.BufferedReader:
    """A plain file to be read. Raises OSError, and PaperError for a pipe, at which a bare ``open`` would wait
    for ever, or a device."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    mode = os.fstat(fd).st_mode
    if not stat.S_ISREG(mode):
        os.close(fd)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        raise PaperError("it is not a plain file")
    return os.fdopen(fd, "rb")


def read_text(path: Path | str, most_bytes: int = MOST_BYTES) -> str:
    """The same as text; a UnicodeDecodeError is a ValueError as well."""
    return read_bytes(path, most_bytes).decode("utf-8")


def json_of(text: bytes | str, most_values: int = MOST_VALUES) -> Any:
    """A value of JSON. Raises PaperError."""
    data = text if isinstance(text, bytes) else text.encode(errors="surrogatepass")
    if len(data) > most_values and sum(map(data.count, (b",", b"[", b"{"))) > most_values:
        raise PaperError(f"it has more than {most_values:,} values")
    try:
        # Found to be ASCII it need not be looked at for how else it may be encoded, which takes as long as to
        # read it.
        plain = data.isascii() and b"\0" not in data
        value = _DECODER.decode(data.decode("ascii")) if plain else json.loads(data)
    except RecursionError:
        raise PaperError(_TOO_DEEP) from None
    except ValueError as error:
        raise NotJsonError(f"it is not JSON ({error})") from None
    if data.count(b"[") + data.count(b"{") > MOST_DEPTH and _is_deep(value):
        raise PaperError(_TOO_DEEP)
    return value


def _is_deep(value: Any) -> bool:
    level, depth = [value], 0
    while level and depth <= MOST_DEPTH:
        depth += 1
        level = [one for each in level for one in _inner(each)]
    return bool(level)


def _inner(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def read_object(path: Path | str, most_bytes: int = MOST_BYTES) -> dict[str, Any]:
    """The JSON object in a file. Raises OSError and PaperError."""
    body = json_of(read_bytes(path, most_bytes))
    if not isinstance(body, dict):
        raise PaperError("it is not a JSON object")
    return body


def yaml_of(text: str, most_values: int = MOST_VALUES) -> Any:
    """A value of YAML's plain types; 1e9 is a number, as Hydra has it. Raises PaperError, also for what
    stands for more than ``most_values``."""
    import yaml

    loader = _yaml_loader()(text)
    try:
        node = loader.get_single_node()
        if values_in(node) > most_values:
            raise PaperError(
                f"with its aliases it stands for more than {most_values:,} values; write them out"
            )
        return None if node is None else loader.construct_document(node)
    except PaperError:
        raise
    except RecursionError:
        raise PaperError(_TOO_DEEP) from None
    except (yaml.YAMLError, *_YAML_RAISES) as error:
        raise PaperError(f"it is not YAML that can be read ({one_line(str(error))})") from None
    finally:
        loader.dispose()


@functools.cache
def _yaml_loader() -> type[yaml.CSafeLoader]:
    """YAML 1.1 has no number without a point before its exponent, and takes that for text."""
    import yaml

    class Loader(yaml.CSafeLoader):  # type: ignore[misc]
        pass

    number = re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+0123456789"))
    return Loader


def values_in(node: yaml.Node | None) -> float:
    """How many values a document of YAML stands for: a few lines of aliases may stand for more than memory
    holds, and infinitely many where one contains itself. Raises PaperError for a number that would take
    minutes to work out, and for what nests deeper than what is read next can go."""
    return _expanded(node, {})


def _expanded(node: Any, known: dict[int, float], depth: int = 0) -> float:
    if depth > MOST_DEPTH:
        raise PaperError(_TOO_DEEP)
    if node is None or isinstance(node.value, str):
        if node is not None and len(node.value) > _MOST_DIGITS and node.tag.endswith((":int", ":float")):
            raise PaperError(f"it has a number of {len(node.value):,} digits")
        return 1
    if id(node) not in known:
        known[id(node)] = math.inf  # until it is known: met again within itself
        inner = [each for pair in node.value for each in (pair if isinstance(pair, tuple) else (pair,))]
        known[id(node)] = 1 + sum(_expanded(each, known, depth + 1) for each in inner)
    return known[id(node)]


def made(kind: Callable[..., _T], body: Mapping[str, Any]) -> _T:
    """A dataclass from its fields, each of the type that it is declared with. Raises PaperError, which names
    the field.

    A number of a float may be whole, and NaN; no number has more than 64 bits.
    """
    checks = _checks(kind)
    for name, value in body.items():
        check = checks.get(name)
        if check is not None and type(value) not in check.at_once and not check.holds(value):
            raise PaperError(f"{name} is {short(value)} and has to be {check.words}")
    try:
        return kind(**body)
    except TypeError as error:  # a field too many, or too few
        raise PaperError(one_line(str(error).partition(" ")[2])) from None


@dataclasses.dataclass(frozen=True, slots=True)
class _Check:
    """A test of a value, and what it tests for in words. A value whose very type is one of ``at_once`` passes
    without it, as nearly every one of a journal of millions does."""

    holds: Callable[[Any], bool]
    words: str
    at_once: frozenset[type] = frozenset()


@functools.cache
def _checks(kind: Any) -> dict[str, _Check]:
    hints = typing.get_type_hints(kind, include_extras=True)
    return {field.name: _check_of(hints[field.name]) for field in dataclasses.fields(kind)}


def _check_of(hint: Any) -> _Check:
    if hint in _PLAIN:
        return _PLAIN[hint]
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _within(arguments[0], arguments[1])
    if origin in (types.UnionType, typing.Union):
        checks = [_check_of(each) for each in arguments]
        words = " or ".join(check.words for check in checks)
        at_once = frozenset[type]().union(*(check.at_once for check in checks))
        if len(arguments) == 2 and arguments[1] is type(None):  # what ranks say is full of these
            first = checks[0].holds
            return _Check(lambda value: value is None or first(value), words, at_once)
        return _Check(lambda value: any(check.holds(value) for check in checks), words, at_once)
    if origin is list:
        inner = _check_of(arguments[0])
        return _Check(
            lambda value: type(value) is list and all(map(inner.holds, value)),
            f"a list, each of it {inner.words}",
        )
    if origin is dict:
        inner = _check_of(arguments[1])
        return _Check(
            lambda value: type(value) is dict and all(map(inner.holds, value.values())),
            f"a map, each value {inner.words}",
        )
    assert isinstance(hint, type), hint
    if dataclasses.is_dataclass(hint):  # made by whoever reads it, from what is within
        return _Check(lambda value: type(value) is hint, f"a {hint.__name__}", frozenset({hint}))
    assert issubclass(hint, enum.Enum), hint
    words = f"one of {', '.join(str(each.value) for each in hint)}"
    return _Check(lambda value: isinstance(value, hint), words, frozenset({hint}))


def _within(hint: Any, bounds: Within) -> _Check:
    inner = _check_of(hint)
    least, most = bounds.least, bounds.most
    return _Check(
        lambda value: inner.holds(value) and least <= value <= most,
        f"{inner.words} from {least:,} to {most:,}",
    )


def _is_whole(value: Any) -> bool:
    return type(value) is int and -LARGEST <= value <= LARGEST


_PLAIN: dict[Any, _Check] = {
    Any: _Check(lambda value: True, "anything"),
    str: _Check(lambda value: isinstance(value, str), "a text", frozenset({str})),
    bool: _Check(lambda value: type(value) is bool, "true or false", frozenset({bool})),
    int: _Check(_is_whole, "a whole number"),
    float: _Check(lambda value: type(value) is float or _is_whole(value), "a number", frozenset({float})),
    type(None): _Check(lambda value: value is None, "null", frozenset({type(None)})),
}
