"""Journals of others: one is refused in a line, or all that is derived from it can be worked out and
shown."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import pickle
import typing
from pathlib import Path
from types import NoneType, UnionType
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from orchestrator.cli.incidents import incidents
from orchestrator.cli.show.screen import Screen
from orchestrator.driver import journal_fold
from orchestrator.driver.cluster_status import other_runs
from orchestrator.driver.folded import Folded
from orchestrator.driver.journal_fold import NAME, JournalFold
from orchestrator.driver.resume import unfinished
from orchestrator.errors import JournalError
from orchestrator.events import Event, Record, RunStarted, StepDone
from orchestrator.ledger.journal import replay
from orchestrator.ledger.mlflow.projection import Projection
from orchestrator.planner.measured_run import Unusable, measured_run
from orchestrator.records import EVENT_TYPES, record_to_json
from tests.fuzz.inputs import NUMBERS, TEXTS, bounded, damaged, fuzzed, is_one_line, nearly, rough
from tests.fuzz.test_papers import config

WHOLE = st.sampled_from(
    [number for number in NUMBERS if type(number) is int and abs(number) < 2**63]
) | st.integers(0, 9)
REAL = st.sampled_from([float(n) for n in NUMBERS if isinstance(n, float) or abs(n) < 2**63]) | st.floats()
TEXT = st.sampled_from(TEXTS) | st.text(max_size=4)
PLAIN: dict[Any, st.SearchStrategy[Any]] = {
    int: WHOLE,
    float: REAL | WHOLE,
    str: TEXT,
    bool: st.booleans(),
    NoneType: st.none(),
}


def values_of(hint: Any) -> st.SearchStrategy[Any]:
    """All that a field may hold, the odd ones first."""
    if hint in PLAIN:
        return PLAIN[hint]
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (UnionType, typing.Union):
        return st.one_of(*map(values_of, arguments))
    if origin is list:
        return st.lists(values_of(arguments[0]), max_size=3)
    if origin is dict:
        return st.dictionaries(TEXT, values_of(arguments[1]), max_size=3)
    return st.sampled_from(list(hint))


def events_of(kind: type[Event]) -> st.SearchStrategy[Event]:
    hints = typing.get_type_hints(kind)
    return st.builds(kind, **{field.name: values_of(hints[field.name]) for field in dataclasses.fields(kind)})


KINDS = [kind for kind in EVENT_TYPES.values() if kind.durable]
EVENTS = st.lists(st.one_of(*map(events_of, [*KINDS, StepDone, StepDone])), max_size=12)
STARTED = RunStarted("r", "j", "local", "cpu", 2, 0.1, "CPU core", 9, 100, 1e9, 1e12, "a:1")


def write(path: Path, events: list[Event], elapsed_s: list[float]) -> None:
    """A journal of these events, with the times that one has."""
    lines, now_s = [], 0.0
    for seq, event in enumerate([STARTED, *events]):
        now_s += elapsed_s[seq % len(elapsed_s)]
        lines.append(record_to_json(Record(seq, now_s, 1.8e9, event)) + "\n")
    path.write_text("".join(lines))


def looked_at(folder: Path) -> None:
    """All that is read from a journal, as `incidents`, `sync`, `resume`, `calibrate` and `status` do."""
    for as_json in (True, False):
        out = Screen(file=io.TextIOWrapper(io.BytesIO(), errors="backslashreplace"), width=100)
        incidents("run", str(folder.parent), as_json, out, trust=True)
    other_runs(folder.parent, "a:1", 0.0, set())
    found = unfinished(folder)
    if found is not None:
        assert found.resumed.because
        found.fold.copy().ledger.bill(1e9)
    projection = Projection(2.0)
    for record in replay(folder / "journal.jsonl"):
        projection.fold(record)
    projection.final_points("unknown", "driver lost")
    json.dumps([dataclasses.asdict(one) for one in projection.incidents()])
    try:
        measured_run(folder, config().planner, unfinished=True)
    except Unusable as error:
        is_one_line(error)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


@fuzzed(60)
@given(
    events=EVENTS,
    elapsed_s=st.lists(st.sampled_from([0.0, 0.001, 1.0, 86_400.0, 1e8]), min_size=1, max_size=4),
)
@example(events=[StepDone(1, 1, 1e308)], elapsed_s=[1.0])
def test_any_events(run: Path, events: list[Event], elapsed_s: list[float]) -> None:
    write(run / "journal.jsonl", events, elapsed_s)
    (run / NAME).unlink(missing_ok=True)
    with bounded():
        looked_at(run)


LINES = [STARTED, StepDone(1, 1, 0.5, 2.0), STARTED]
BODY: list[Any] = [
    json.loads(record_to_json(Record(seq, 1.0 * seq, 1.8e9, event))) for seq, event in enumerate(LINES)
]
BODY[1] = {"type": "StepDone", "t": 1.0, "step": 1, "s": 0.5, "loss": 2.0, "try": 1, "at": 1.8e9}


def as_lines(body: Any) -> bytes:
    return b"".join(json.dumps(one).encode() + b"\n" for one in (body if isinstance(body, list) else [body]))


@fuzzed(100)
@given(data=nearly(BODY).map(as_lines) | damaged(as_lines(BODY)) | rough().map(lambda one: one + b"\n{}\n"))
@example(data=as_lines([BODY[0] | {"elapsed_s": "1"}, BODY[1]]))
@example(data=as_lines([BODY[0] | {"elapsed_s": float("nan")}, BODY[1]]))
@example(data=as_lines([BODY[0] | {"gpus": "2"}, BODY[1]]))
@example(data=as_lines([BODY[0] | {"time_unix_s": 1e300}, BODY[1]]))
@example(data=as_lines([BODY[0], BODY[1] | {"s": 10**400}]))
@example(data=as_lines([BODY[0], BODY[1] | {"step": [1]}]))
@example(data=as_lines([BODY[0], BODY[1] | {"at": "x"}]))
@example(data=as_lines([BODY[0] | {"gpus": 0}, BODY[1]]))
@example(data=b"[" * 100_000 + b"\n{}\n")
@example(data=b"5\n{}\n")
@example(data=b"x" * (40 << 20))
def test_any_lines(run: Path, data: bytes) -> None:
    (run / "journal.jsonl").write_bytes(data)
    (run / NAME).unlink(missing_ok=True)
    with bounded():
        other_runs(run.parent, "a:1", 0.0, set())  # `status` passes over what is damaged
        try:
            looked_at(run)
        except JournalError as error:
            is_one_line(error)


def forged(folder: Path, body: bytes, key: bytes) -> None:
    """A fold by somebody who knows all but our key."""
    data = (folder / "journal.jsonl").read_bytes()
    head = {"code": journal_fold.code_hash(), "bytes": len(data), "stamp": None}
    head["blake2b"] = hashlib.blake2b(data).hexdigest()
    head["signed"] = journal_fold._signature(key, head, body)
    (folder / NAME).write_bytes(json.dumps(head).encode() + b"\n" + body)


EMPTY = pickle.dumps(Folded())
# A memo for two thousand million objects; a fold of another kind; copies of copies.
BOMBS = [b"\x80\x04N\x72\xff\xff\xff\x7f.", pickle.dumps(Folded(ledger=5, last=Record(0, 0.0, 0.0, STARTED)))]  # type: ignore[arg-type]


@fuzzed(60)
@given(body=damaged(EMPTY) | st.sampled_from(BOMBS))
@example(body=BOMBS[0])
@example(body=BOMBS[1])
def test_any_fold(run: Path, body: bytes) -> None:
    write(run / "journal.jsonl", [StepDone(1, 1, 0.5, 2.0)], [1.0])
    forged(run, body, b"k" * 32)
    with bounded():
        folded = JournalFold(run).catch_up()
        assert folded.last is not None
        assert folded.last.seq == 1
        looked_at(run)
