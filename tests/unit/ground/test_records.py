from __future__ import annotations

import json
from typing import Any

import pytest

from orchestrator.events import (
    Action,
    AttemptStarted,
    Decided,
    Fault,
    Phase,
    PhaseEntered,
    RankLost,
    Record,
    RestoreSource,
    StepDone,
)
from orchestrator.papers import LARGEST, PaperError
from orchestrator.records import record_from_json, record_to_json

LOST = RankLost(1, 2, "n0", "GPU 2", -9, 3, "killed by SIGKILL", fault=Fault.HANG)


def body(event: Any) -> dict[str, Any]:
    return dict(json.loads(record_to_json(Record(0, 0.0, 1.8e9, event))))


@pytest.mark.parametrize(
    ("event", "field", "kind"),
    [
        (AttemptStarted(2, "10.0.0.1", 29500, 4, 8, RestoreSource.DISK), "restore_from", RestoreSource),
        (PhaseEntered(1, Phase.FIRST_STEP), "phase", Phase),
        (Decided(Action.REWIND, "again"), "action", Action),
        (LOST, "fault", Fault),
    ],
)
def test_a_word_of_a_vocabulary_comes_back_as_the_word_that_code_compares_with(
    event: Any, field: str, kind: type
) -> None:
    told = record_from_json(record_to_json(Record(0, 0.0, 1.8e9, event))).event
    assert told == event
    assert type(getattr(told, field)) is kind


def test_a_word_that_an_older_version_wrote_stays_text_and_an_unknown_fault_is_refused() -> None:
    told = record_from_json(json.dumps(body(Decided(Action.STOP, "")) | {"action": "pray"})).event
    assert told == Decided("pray", "")
    with pytest.raises(PaperError, match=r"^fault is 'gremlins' and has to be one of exit, memory, hang"):
        record_from_json(json.dumps(body(LOST) | {"fault": "gremlins"}))


@pytest.mark.parametrize(
    ("field", "value", "fits"),
    [
        ("loss", None, True),
        ("loss", 2, True),
        ("loss", LARGEST, True),
        ("loss", LARGEST + 1, False),
        ("loss", True, False),
        ("loss", "2", False),
        ("step", 2.0, False),
        ("step", LARGEST + 1, False),
        ("step", True, False),
        ("step_time_s", None, False),
        ("skipped", 1, False),
        ("skipped", None, False),
    ],
)
def test_a_value_is_of_the_type_that_its_field_is_declared_with(
    field: str, value: object, fits: bool
) -> None:
    line = json.dumps(body(StepDone(1, 1, 0.5)) | {field: value})
    if fits:
        assert getattr(record_from_json(line).event, field) == value
    else:
        with pytest.raises(PaperError, match=f"^{field} is "):
            record_from_json(line)


def test_a_line_in_another_alphabet_or_encoding_is_read_like_one_in_ascii() -> None:
    line = json.dumps(body(Decided(Action.STOP, "größer → 大")), ensure_ascii=False)
    assert record_from_json(line) == record_from_json(json.dumps(json.loads(line)))
