"""What a rank says: its script may write to the same descriptor, and to the file of its stacks."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from orchestrator.agent.hang_stacks import groups_of
from orchestrator.agent.log_reader import line_part, metrics_of
from orchestrator.agent.messages import Gather, checkpoint_part, mean_loss, memory_part, step_part
from orchestrator.agent.watchdog import Watchdog
from orchestrator.cluster.attempt import Attempt
from orchestrator.events import Record
from orchestrator.rank.heard import MOST_LINE_BYTES, message_of
from orchestrator.rank.launch.process import AgentEnd
from orchestrator.rank.stacks import GROUPS_MARK
from orchestrator.records import record_from_json, record_to_json
from tests.fuzz.inputs import bounded, damaged, fuzzed, nearly, rough

STEP = {
    "step": 3,
    "loss": 2.0,
    "lr": 0.1,
    "grad_norm": 1.0,
    "step_time_s": 0.5,
    "own_s": 0.4,
    "tokens": None,
    "skipped": False,
}
SNAPSHOT = {"slot": 0, "files": [], "to": "/c/.attempts/x", "given_up": "", "attempt": 1, "save_latest": True}
SAVED = {"edge": "end", "ok": True, "step": 3, "dir": "/c", "tag": "t", "seconds": 0.1}
MESSAGES: list[dict[str, Any]] = [
    {"kind": "heartbeat", "phase": "step", "phase_s": 1.0, "step": 3, "progress": 7},
    {"kind": "phase", "phase": "initialize", "edge": "begin"},
    {"kind": "step", **STEP},
    {"kind": "memory", "step": 3, "peak_bytes": 10},
    {"kind": "save", **SAVED, "snapshot": SNAPSHOT},
    {"kind": "load", **SAVED},
    {"kind": "error", "type": "ValueError", "message": "boom", "fault": None, "step": 3},
]
LINES = (
    st.sampled_from(MESSAGES)
    .flatmap(lambda one: nearly(one) | st.just(one))
    .map(lambda m: json.dumps(m).encode())
)


def goes_on(message: dict[str, Any], gather: Gather, attempt: Attempt, watchdog: Watchdog) -> None:
    """What an agent and the driver make of a message, as `NodeRanks` and `Attempt` do."""
    watchdog.heard(0, message, 1.0)
    part = None
    match message:
        case {"kind": "step", "step": int()}:
            part = gather.add(step_part(message))
        case {"kind": "memory"}:
            part = gather.add(memory_part(message))
        case {"kind": "save" | "load", "edge": "end", "ok": True, "step": int()}:
            assert set(message.get("snapshot", SNAPSHOT)) >= set(SNAPSHOT)
            part = gather.add(checkpoint_part(message))
    for event in attempt.hear(0, part, 1.0) if part else ():
        line = record_to_json(Record(0, 0.0, 1.8e9, event))
        assert record_to_json(record_from_json(line)) == line, "what was written can be read"


@fuzzed(150)
@given(lines=st.lists(LINES | rough(), max_size=6), partial=st.binary(max_size=9))
@example(lines=[b"[" * 100_000, b"5", b"{}", b'{"kind": []}'], partial=b"")
@example(lines=[json.dumps(MESSAGES[2] | {"step_time_s": None}).encode()], partial=b"")
@example(lines=[json.dumps(MESSAGES[2] | {"loss": "x"}).encode()], partial=b"")
@example(lines=[json.dumps(MESSAGES[3] | {"peak_bytes": "x"}).encode()], partial=b"")
@example(lines=[b'{"kind": "memory", "step": 1}'], partial=b"")
@example(lines=[b'{"kind": "load", "edge": "end", "ok": false, "step": "x"}'], partial=b"")
@example(lines=[json.dumps(MESSAGES[4] | {"snapshot": 5}).encode()], partial=b"")
@example(
    lines=[json.dumps(MESSAGES[4] | {"snapshot": {"attempt": 1, "to": "/c", "files": []}}).encode()],
    partial=b"",
)
@example(lines=[json.dumps(MESSAGES[5] | {"seconds": float("nan")}).encode()], partial=b"")
def test_any_message(lines: list[bytes], partial: bytes) -> None:
    gather, attempt, watchdog = Gather(1), Attempt(1, ["n"], 1), Watchdog(3.0, 60.0, 90.0)
    with bounded():
        heard = [message for line in [*lines, partial] if (message := message_of(line)) is not None]
        for message in heard:
            goes_on({**message, "rank": 0}, gather, attempt, watchdog)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message["kind"])
def test_what_our_ranks_say_is_heard(message: dict[str, Any]) -> None:
    assert message_of(json.dumps(message).encode()) == message


@pytest.fixture
def ends() -> Iterator[AgentEnd]:
    end = AgentEnd()
    os.set_blocking(end.rank_fds[0], False)
    yield end
    end.close_rank_fds()
    end.close()


def said(end: AgentEnd, data: bytes) -> list[dict[str, Any]]:
    """What the agent hears while the rank writes all of it."""
    heard, view = [], memoryview(data)
    while view:
        try:
            view = view[os.write(end.rank_fds[0], view) :]
        except BlockingIOError:
            heard += end.messages()
    return heard + end.messages()


def test_a_line_without_end_is_left_out_and_the_next_one_heard(ends: AgentEnd) -> None:
    after = json.dumps(MESSAGES[1]).encode() + b"\n"
    with bounded():
        assert said(ends, b"x" * (3 * MOST_LINE_BYTES)) == []
        assert len(ends._partial) <= MOST_LINE_BYTES + 1
        assert said(ends, b"\n" + after) == [MESSAGES[1]]
    assert ends.garbled == 1


def test_a_rank_that_answers_for_others_leaves_no_pile() -> None:
    gather = Gather(2)
    for step in range(5000):
        assert gather.add(step_part({"rank": 0, **STEP, "step": step})) is None
    assert len(gather._waiting) <= 1001
    assert gather.add(step_part({"rank": 1, **STEP, "step": 4999})) is not None


@pytest.mark.parametrize("losses", [[float("inf"), float("-inf")], [1.7e308, 1.7e308], [float("nan"), 1.0]])
def test_losses_that_cannot_be_added_up_are_no_fault_of_the_driver(losses: list[float]) -> None:
    assert mean_loss({"losses": losses}) is not None


@fuzzed(80)
@given(line=nearly({"step": 1, "loss": 2.5, "metrics": {"a": [1]}}).map(json.dumps) | st.text())
def test_any_line_of_a_log(line: str) -> None:
    with bounded():
        part = line_part(line)
        assert part["kind"] in ("metric", "output")
        metrics_of(line)


GROUPS = {"default": {"entered": 3, "operation": "all_reduce", "peer": False}}


@fuzzed(80)
@given(text=(nearly(GROUPS).map(lambda one: json.dumps(one).encode()) | damaged(json.dumps(GROUPS).encode())))
@example(text=b"[" * 100_000)
@example(text=b'{"default": {"entered": "3", "operation": "x", "peer": false}}')
def test_any_stacks(text: bytes) -> None:
    with bounded():
        found = groups_of(GROUPS_MARK + text.decode(errors="replace") + "\n")
        assert all(
            {name: type(one[name]) for name in one} == {"entered": int, "operation": str, "peer": bool}
            for one in found.values()
        )
    assert groups_of(GROUPS_MARK + json.dumps(copy.deepcopy(GROUPS)) + "\n") == GROUPS
