"""How many sinks of one process share its time, and what one that is stuck does not keep from the others."""

from __future__ import annotations

import threading

import pytest

from orchestrator.ledger.mlflow import pace
from orchestrator.ledger.mlflow.pace import Alone, Shared, Turns


def test_one_alone_is_not_held_up() -> None:
    alone = Alone()
    with alone.turn() as has_turn:
        assert has_turn
    assert (alone.poll_s(), alone.flush_s(2.0, 30.0)) == (0.1, 2.0)


@pytest.mark.parametrize(("runs", "poll_s", "flush_s"), [(1, 0.1, 2.0), (10, 0.1, 2.0), (100, 1.0, 5.0)])
def test_many_look_and_write_less_often(runs: int, poll_s: float, flush_s: float) -> None:
    shared = Shared(lambda: runs, Turns(1))
    assert shared.flush_s(2.0, 0.2) == 2.0, "the first makes the run, and takes longer than all others"
    assert (shared.poll_s(), shared.flush_s(2.0, 0.025)) == (poll_s, pytest.approx(flush_s))


def test_however_long_a_write_took_the_next_is_within_a_minute_or_when_it_was_asked_for() -> None:
    shared = Shared(lambda: 100, Turns(1))
    shared.flush_s(2.0, 10.0)
    assert (shared.flush_s(2.0, 10.0), shared.flush_s(300.0, 10.0)) == (60.0, 300.0)


def test_a_turn_is_had_by_one_at_a_time_and_by_others_once_it_is_abandoned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pace, "_WAIT_FOR_TURN_S", 0.01)
    turns = Turns(1)
    stuck, other = Shared(lambda: 2, turns), Shared(lambda: 2, turns)
    called, comes_back = threading.Event(), threading.Event()

    def call() -> None:
        with stuck.turn() as has_turn:
            assert has_turn
            called.set()
            comes_back.wait()

    thread = threading.Thread(target=call)
    thread.start()
    called.wait()
    with other.turn() as has_turn:
        assert not has_turn
    stuck.abandon()
    with other.turn() as has_turn:
        assert has_turn
        comes_back.set()
        thread.join()
        with stuck.turn() as has_two:
            assert not has_two, "what was abandoned is not given back a second time"
