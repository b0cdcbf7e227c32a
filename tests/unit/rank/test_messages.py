"""What a rank says is what its agent hears, and a field that is not what it has to be is no message."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.installation import PACKAGE
from orchestrator.papers import LARGEST, Within
from orchestrator.rank.messages import (
    KINDS,
    MOST_LINE_BYTES,
    Heartbeat,
    MemoryPeak,
    Message,
    PhaseBegun,
    ScriptFailed,
    Staged,
    StepTaken,
    Unknown,
    decode,
    encode,
)

STAGED = Staged("/c", "t", 3, 0.1, 1, "/c/.attempts/x", 0, ["a.pt"], "", True)


def values_of(hint: Any) -> st.SearchStrategy[Any]:
    """Any value that a field's annotation allows."""
    if get_origin(hint) is Annotated:
        kind, bounds = get_args(hint)
        assert isinstance(bounds, Within)
        numbers = st.integers if kind is int else st.floats
        return numbers(bounds.least, bounds.most)
    points = st.lists(st.lists(st.floats(allow_nan=False), max_size=4), max_size=4)
    by_hint: dict[Any, st.SearchStrategy[Any]] = {
        str: st.text(),
        bool: st.booleans(),
        float: st.floats(),
        list[str]: st.lists(st.text()),
        dict[str, str]: st.dictionaries(st.text(), st.text()),
        dict[str, list[list[float]]]: st.dictionaries(st.text(), points, max_size=4),
    }
    return by_hint[hint]


def messages_of(kind: type[Any]) -> st.SearchStrategy[Any]:
    hints = get_type_hints(kind, include_extras=True)
    fields = {}
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        optional = type(None) in get_args(hint)
        values = values_of(get_args(hint)[0] if optional else hint)
        fields[field.name] = st.none() | values if optional else values
    return st.builds(kind, **fields)


def alike(one: Any) -> Any:
    """NaN is not equal to itself, and a loss may be that."""
    return "nan" if isinstance(one, float) and math.isnan(one) else one


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_every_message_comes_as_it_was_said(kind: type[Any], data: st.DataObject) -> None:
    message = data.draw(messages_of(kind))
    line = encode(message)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    heard = decode(line.rstrip(b"\n"))
    assert type(heard) is kind
    told, wanted = dataclasses.asdict(heard), dataclasses.asdict(message)  # type: ignore[call-overload]
    assert {name: alike(value) for name, value in told.items()} == {
        name: alike(value) for name, value in wanted.items()
    }


@pytest.mark.parametrize(
    ("message", "changed"),
    [
        (StepTaken(3, 0.5), {"step": -1}),
        (StepTaken(3, 0.5), {"step": 2**63}),
        (StepTaken(3, 0.5), {"step": True}),
        (StepTaken(3, 0.5), {"step": 3.0}),
        (StepTaken(3, 0.5), {"step_time_s": math.nan}),
        (StepTaken(3, 0.5), {"step_time_s": math.inf}),
        (StepTaken(3, 0.5), {"local_time_s": 1e300}),
        (StepTaken(3, 0.5), {"loss": 10**400}),
        (StepTaken(3, 0.5), {"loss": "2.0"}),
        (StepTaken(3, 0.5), {"skipped": None}),
        (StepTaken(3, 0.5), {"colour": "blue"}),
        (MemoryPeak(3, 10), {"peak_bytes": -1}),
        (STAGED, {"slot": 2}),
        (STAGED, {"slot": [0]}),
        (STAGED, {"files": ["a.pt", 5]}),
        (STAGED, {"to": None}),
        (PhaseBegun("import"), {"phase": 5}),
        (PhaseBegun("import"), {"kind": None}),
    ],
)
def test_a_field_that_is_not_what_it_has_to_be_is_no_message(
    message: Message, changed: dict[str, Any]
) -> None:
    body = json.loads(encode(message))
    assert decode(json.dumps(body).encode()) == message
    assert decode(json.dumps(body | changed).encode()) is None


@pytest.mark.parametrize("loss", [math.inf, -math.inf, 2, -LARGEST, None])
def test_a_loss_may_be_any_number(loss: float | None) -> None:
    assert decode(encode(StepTaken(3, 0.5, loss=loss))) == StepTaken(3, 0.5, loss=loss)


def test_a_message_that_lacks_a_field_is_none() -> None:
    assert decode(b'{"kind": "memory", "step": 1}') is None
    assert decode(b'{"kind": "step", "step": 1, "step_time_s": 0.5}') == StepTaken(1, 0.5), (
        "what is not known is left out"
    )


def test_what_this_version_does_not_know_is_told_by_its_kind_alone() -> None:
    assert decode(b'{"kind": "weather", "sky": "blue"}') == Unknown("weather")
    assert decode(json.dumps({"kind": "w" * 1_000_000}).encode()) == Unknown("w" * 80)


def test_a_line_without_measure_is_no_message() -> None:
    long = ScriptFailed("ValueError", "x" * MOST_LINE_BYTES, "")
    assert decode(encode(long)) is None
    assert decode(b'{"kind": "saved", "files": [' + b"1," * 200_000 + b"1]}") is None


def test_a_value_of_another_type_does_not_end_the_thread_that_tells_of_it() -> None:
    odd = Heartbeat("step", 0.0, object(), 1)  # type: ignore[arg-type]
    assert decode(encode(odd)) is None


def test_messages_need_the_standard_library_alone() -> None:
    """They are imported into the user's process."""
    asked = (
        "import sys; sys.path.insert(0, sys.argv[1]); import orchestrator.rank.messages; print(*sys.modules)"
    )
    command = [sys.executable, "-S", "-c", asked, str(PACKAGE.parent)]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    others = {name.partition(".")[0] for name in loaded} - {"__main__", "orchestrator"}
    assert others <= sys.stdlib_module_names
