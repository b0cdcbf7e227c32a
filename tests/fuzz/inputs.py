"""What the fuzz tests feed: anything at all, and real inputs with a few things wrong. Bounds for what reads
it.

The same examples come every time, so that a change is what makes a test fail; under the profile "soak" there
are more of them, of the seed that pytest was given with ``--hypothesis-seed``.
"""

from __future__ import annotations

import contextlib
import copy
import json
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

SOAK = "soak"
SOAK_TIMES = 2
MOST_CPU_S = 20.0
MOST_BYTES = 1 << 30

# Of what programs trip over: numbers that no machine has room for, texts that no terminal or file takes,
# depth.
NUMBERS: list[Any] = [
    *(0, -1, 1, 3, 2**31, 2**63, -(2**63) - 1, 10**30, 10**400, 1e-320, 1e308, -1e308, 0.5),
    *(float("nan"), float("inf"), float("-inf"), True, False),
]
TEXTS = [
    *(
        "",
        "x",
        "\ud800",
        "a\x00b",
        "\x1b]52;c;QQ==\x07",
        "two\nlines",
        "é" * 300,
        "9" * 5000,
        "x" * 70_000,
        "${job.name}",
    ),
    *(
        "http://[",
        "http://h:99999999/",
        "sqlite:///",
        "postgresql://h:x/d",
        "[bold]",
        "nan",
        "???",
        "1e999",
        "${job.name}",
    ),
]


def _deep(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


PLAIN: st.SearchStrategy[Any] = (
    st.sampled_from(NUMBERS)
    | st.sampled_from(TEXTS)
    | st.none()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
)
ODD: st.SearchStrategy[Any] = PLAIN | st.recursive(
    PLAIN | st.just(_deep(300)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def fuzzed(examples: int) -> Callable[[Any], Any]:
    """The settings of a fuzz test: so many examples, and what is slow or large is for :func:`bounded` to
    judge."""
    soaking = settings.get_current_profile_name() == SOAK
    return settings(
        max_examples=examples * (SOAK_TIMES if soaking else 1),
        derandomize=not soaking,
        deadline=None,
        database=None,
        suppress_health_check=[
            HealthCheck.too_slow,
            HealthCheck.data_too_large,
            HealthCheck.function_scoped_fixture,
        ],
    )


def _places(body: Any) -> Iterator[tuple[Any, Any]]:
    """Every container within a document with each of its keys or indexes."""
    keys = list(body) if isinstance(body, dict) else range(len(body)) if isinstance(body, list) else ()
    for key in keys:
        yield body, key
        yield from _places(body[key])


@st.composite
def nearly(draw: st.DrawFn, body: Any, odd: st.SearchStrategy[Any] = ODD) -> Any:
    """A document with one to three things wrong: another value, a key that is missing, or one too many."""
    body = copy.deepcopy(body)
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(body))
        if not places:
            return draw(odd)
        container, key = places[draw(st.integers(0, len(places) - 1))]
        action = draw(st.sampled_from(("replace", "replace", "replace", "drop", "add")))
        if action == "replace":
            container[key] = copy.deepcopy(draw(odd))  # it may be changed in the next round
        elif action == "drop":
            del container[key]
        elif isinstance(container, dict):
            container[draw(st.text(max_size=5))] = copy.deepcopy(draw(odd))
        else:
            container.append(copy.deepcopy(draw(odd)))
    return body


@st.composite
def damaged(draw: st.DrawFn, text: bytes) -> bytes:
    """The bytes of a file as a crash, a bad disk or an editor leaves them."""
    match draw(st.integers(0, 3)):
        case 0:
            return text[: draw(st.integers(0, len(text)))]
        case 1:
            at = draw(st.integers(0, len(text)))
            return text[:at] + draw(st.binary(max_size=6)) + text[at + draw(st.integers(0, 6)) :]
        case 2:
            begin, end = sorted(draw(st.tuples(st.integers(0, len(text)), st.integers(0, len(text)))))
            return text[:end] + text[begin:]
        case _:
            return draw(st.binary(max_size=200))


def files_of(body: Any, odd: st.SearchStrategy[Any] = ODD) -> st.SearchStrategy[bytes]:
    """Files of JSON that are nearly this document."""
    text = json.dumps(body, indent=1).encode()
    return nearly(body, odd).map(lambda one: json.dumps(one).encode()) | damaged(text) | rough()


ALIASES = b"a0: &a0 [x]\n" + b"".join(
    b"a%d: &a%d [%s]\n" % (n, n, b", ".join([b"*a%d" % (n - 1)] * 9)) for n in range(1, 12)
)
# Files that no damage makes, and that somebody may have made on purpose.
ROUGH = [
    b"",
    b"null",
    b"5",
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b"[" + b"[]," * 1_500_000 + b"[]]",
    b"9" * 6000,
    b"\xff\xfe\x00",
    b'{"uri": 1, "uri": "x", "uri": null}',
    b"a: &a [*a]\n",
    ALIASES,
    b"x: " + b"1" + b":59" * 300_000,
    b"x: 2020-13-45\ny: !!int ''\n",
    b"x: !!timestamp no\n",
    b"? [a, b]\n: 1\n",
    b"<<: [{a: 1}, 2]\n",
]  # fmt: skip


def rough() -> st.SearchStrategy[bytes]:
    """One of them; by its number, since a strategy is printed with all that it holds."""
    return st.integers(0, len(ROUGH) - 1).map(ROUGH.__getitem__)


def as_yaml(body: Any) -> bytes:
    """A document as YAML; what YAML itself has no text for is written as JSON is."""
    try:
        return yaml.safe_dump(body, allow_unicode=False).encode()
    except (yaml.YAMLError, ValueError, RecursionError):
        return json.dumps(body).encode()


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """What is done within takes neither a gigabyte more than there was (it fails by MemoryError) nor many
    seconds of a processor, however busy the machine is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    began_s = time.process_time()
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MOST_BYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    taken_s = time.process_time() - began_s
    assert taken_s < MOST_CPU_S, f"{taken_s:.0f} s of a processor"


def is_one_line(error: BaseException) -> None:
    """A refusal can be shown: one line, of no more characters than a screen has."""
    text = str(error)
    assert "\n" not in text.strip(), text[:500]
    assert len(text) < 3000, f"{len(text)} characters: {text[:300]}"
    assert text.strip()
