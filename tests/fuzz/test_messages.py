"""What a rank says: its script may write to the same descriptor, and to the file of its stacks."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from orchestrator.agent.gather import Gather, mean_loss, part_of
from orchestrator.agent.hang_stacks import groups_of
from orchestrator.agent.log_reader import line_part, metrics_of
from orchestrator.agent.messages import FiguresPrinted, LinePrinted
from orchestrator.agent.watchdog import Watchdog
from orchestrator.cluster.attempt import Attempt
from orchestrator.events import Record
from orchestrator.rank.launch.process import AgentEnd
from orchestrator.rank.messages import (
    KINDS,
    MOST_LINE_BYTES,
    EngineMade,
    FileSaved,
    GroupSeen,
    Heartbeat,
    LoadBegun,
    Loaded,
    LoadFailed,
    MemoryPeak,
    Message,
    OpBuildBegun,
    OpBuildEnded,
    OptimizerFollowed,
    PhaseBegun,
    PhaseEnded,
    ProbeFailed,
    SaveBegun,
    Saved,
    SaveFailed,
    ScriptFailed,
    StacksUnavailable,
    Staged,
    StepTaken,
    TokensCounted,
    Tracked,
    TrackedElsewhere,
    Unknown,
    decode,
    encode,
)
from orchestrator.rank.stacks import GROUPS_MARK
from orchestrator.records import record_from_json, record_to_json
from tests.fuzz.inputs import bounded, damaged, fuzzed, nearly, rough

STEP = StepTaken(3, step_time_s=0.5, local_time_s=0.4, loss=2.0, lr=0.1, grad_norm=1.0)
STAGED = Staged("/c", "t", 3, 0.1, 1, "/c/.attempts/x", 0, [], "", True)
SAID: list[Message] = [
    Heartbeat("step", 1.0, 3, 7),
    PhaseBegun("initialize"),
    PhaseEnded("initialize", 1.0),
    STEP,
    MemoryPeak(3, 10),
    TokensCounted(3, 1024),
    SaveBegun("/c", "t", 3),
    Saved("/c", "t", 3, 0.1),
    STAGED,
    SaveFailed("/c", "t", 3, 0.1),
    LoadBegun("/c", None),
    Loaded("/c", "t", 3, 0.1),
    LoadFailed("/c", None, 0.1),
    ScriptFailed("ValueError", "boom", ""),
    ProbeFailed("step", "boom"),
    StacksUnavailable("boom"),
    Tracked({"loss": [[1.0, 0.5, 3.0]]}, {"lr": "0.1"}, {"a": "b"}, 2),
    TrackedElsewhere("http://elsewhere:5000"),
    EngineMade(8, 2, 2, "bf16", 1, 2),
    OptimizerFollowed("AdamW"),
    FileSaved("/c/x.pt", 3, 0.1),
    OpBuildBegun("cpu_adam"),
    OpBuildEnded("cpu_adam", 20.0),
]
LINES = (
    st.sampled_from(SAID)
    .map(lambda one: json.loads(encode(one)))
    .flatmap(lambda body: nearly(body) | st.just(body))
    .map(lambda body: json.dumps(body).encode())
)


def line_of(message: Message, **changed: Any) -> bytes:
    """What says it, but for what was changed."""
    return json.dumps(json.loads(encode(message)) | changed).encode()


def goes_on(message: Message | Unknown, gather: Gather, attempt: Attempt, watchdog: Watchdog) -> None:
    """What an agent and the driver make of a message, as `NodeRanks` and `Attempt` do."""
    watchdog.heard(0, message, 1.0)
    part = None
    if isinstance(message, StepTaken | MemoryPeak | Saved | Staged | Loaded):
        part = gather.add(part_of(0, message))
    for event in attempt.receive(0, part, 1.0) if part else ():
        line = record_to_json(Record(0, 0.0, 1.8e9, event))
        assert record_to_json(record_from_json(line)) == line, "what was written can be read"


def test_each_kind_of_message_is_tried() -> None:
    assert {type(one) for one in SAID} == set(KINDS.values())


@fuzzed(150)
@given(lines=st.lists(LINES | rough(), max_size=6), partial=st.binary(max_size=9))
@example(lines=[b"[" * 100_000, b"5", b"{}", b'{"kind": []}'], partial=b"")
@example(lines=[line_of(STEP, step_time_s=None)], partial=b"")
@example(lines=[line_of(STEP, loss="x")], partial=b"")
@example(lines=[line_of(STEP, loss=float("nan"))], partial=b"")
@example(lines=[line_of(MemoryPeak(3, 10), peak_bytes="x")], partial=b"")
@example(lines=[b'{"kind": "memory", "step": 1}'], partial=b"")
@example(lines=[line_of(STAGED, slot=2)], partial=b"")
@example(lines=[line_of(STAGED, files=5)], partial=b"")
@example(lines=[line_of(STAGED, seconds=float("nan"))], partial=b"")
def test_any_message(lines: list[bytes], partial: bytes) -> None:
    gather, attempt, watchdog = Gather(1), Attempt(1, ["n"], 1), Watchdog(3.0, 60.0, 90.0)
    with bounded():
        heard = [message for line in [*lines, partial] if (message := decode(line)) is not None]
        for message in heard:
            goes_on(message, gather, attempt, watchdog)


@pytest.fixture
def ends() -> Iterator[AgentEnd]:
    end = AgentEnd()
    os.set_blocking(end.rank_fds[0], False)
    yield end
    end.close_rank_fds()
    end.close()


def said(end: AgentEnd, data: bytes) -> list[Message | Unknown]:
    """What the agent hears while the rank writes all of it."""
    heard: list[Message | Unknown] = []
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(end.rank_fds[0], view) :]
        except BlockingIOError:
            heard += end.messages()
    return heard + end.messages()


def test_a_line_without_end_is_left_out_and_the_next_one_heard(ends: AgentEnd) -> None:
    after = PhaseBegun("import")
    with bounded():
        assert said(ends, b"x" * (3 * MOST_LINE_BYTES)) == []
        assert len(ends._partial) <= MOST_LINE_BYTES + 1
        assert said(ends, b"\n" + encode(after)) == [after]
    assert ends.garbled == 1


def test_a_rank_that_answers_for_others_leaves_no_pile() -> None:
    gather = Gather(2)
    for step in range(5000):
        assert gather.add(part_of(0, replace(STEP, step=step))) is None
    assert len(gather._waiting) <= 1001
    assert gather.add(part_of(1, replace(STEP, step=4999))) is not None


@pytest.mark.parametrize("losses", [[float("inf"), float("-inf")], [1.7e308, 1.7e308], [float("nan"), 1.0]])
def test_losses_that_cannot_be_added_up_are_no_fault_of_the_driver(losses: list[float]) -> None:
    assert mean_loss(losses) is not None


@fuzzed(80)
@given(line=nearly({"step": 1, "loss": 2.5, "metrics": {"a": [1]}}).map(json.dumps) | st.text())
def test_any_line_of_a_log(line: str) -> None:
    with bounded():
        assert isinstance(line_part(line), FiguresPrinted | LinePrinted)
        metrics_of(line)


GROUPS = {"default": {"entered": 3, "operation": "all_reduce", "peer": False}}
SEEN = {"default": GroupSeen(3, "all_reduce")}


@fuzzed(80)
@given(text=(nearly(GROUPS).map(lambda one: json.dumps(one).encode()) | damaged(json.dumps(GROUPS).encode())))
@example(text=b"[" * 100_000)
@example(text=b'{"default": {"entered": "3", "operation": "x", "peer": false}}')
def test_any_stacks(text: bytes) -> None:
    with bounded():
        found = groups_of(GROUPS_MARK + text.decode(errors="replace") + "\n")
        assert all(
            (type(one.entered), type(one.operation), type(one.peer)) == (int, str, bool)
            for one in found.values()
        )
    assert groups_of(GROUPS_MARK + json.dumps(GROUPS) + "\n") == SEEN
