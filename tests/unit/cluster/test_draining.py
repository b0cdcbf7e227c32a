"""What Ray tells of nodes that it has been told to empty, and the thread that asks."""

from __future__ import annotations

import threading
import time

import ray

from orchestrator.cluster.draining import DrainWatch, draining_nodes
from tests.support.rank_harness import wait_until


class PlacementRequest:
    """Answers as told: with nodes, with an error, or not before it is let go."""

    def __init__(self) -> None:
        self.answer: dict[str, float | None] | Exception = {}
        self.times = 0
        self.go = threading.Event()
        self.go.set()

    def __call__(self) -> dict[str, float | None]:
        self.go.wait(60)
        answer = self.answer
        self.times += 1
        if isinstance(answer, Exception):
            raise answer
        return answer

    def again(self) -> bool:
        """Whether one more question that began after now was answered."""
        times = self.times + 2
        return wait_until(lambda: self.times >= times)


def test_ray_still_has_the_name_that_it_is_asked_by() -> None:
    assert callable(ray._private.state.state.get_draining_nodes), "no public API tells it"


def test_milliseconds_are_a_time_and_zero_is_none(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    told = {"a": 1_700_000_000_500, "b": 0}
    monkeypatch.setattr(ray._private.state.state, "get_draining_nodes", lambda: told)
    assert draining_nodes() == {"a": 1_700_000_000.5, "b": None}


def test_the_last_answer_holds_until_the_next() -> None:
    ask = PlacementRequest()
    watch = DrainWatch(ask, ask_s=0.005)
    assert not watch.draining("a")
    watch.start()
    watch.start()
    ask.answer = {"a": time.time() + 40, "b": None}
    assert wait_until(lambda: watch.draining("a") and watch.draining("b"))
    left_s = watch.left_s("a")
    assert left_s is not None
    assert -25 < left_s <= 40
    assert watch.left_s("b") is watch.left_s("c") is None
    ask.answer = RuntimeError("the control store does not answer")
    assert ask.again()
    assert watch.draining("a")
    ask.answer = {}
    assert wait_until(lambda: not watch.draining("a"))
    watch.close()


def test_it_asks_no_more_when_it_is_closed_and_waits_for_nobody_for_long() -> None:
    ask = PlacementRequest()
    watch = DrainWatch(ask, ask_s=0.005)
    watch.close()
    never = DrainWatch(ask, ask_s=0.005)
    never.start()
    assert ask.again()
    never.close()
    assert wait_until(lambda: all(thread.name != "drain watch" for thread in threading.enumerate()))
    ask.go.clear()
    stuck = DrainWatch(ask, ask_s=0.005)
    stuck.start()
    began_s = time.monotonic()
    stuck.close()
    assert time.monotonic() - began_s < 30
    ask.go.set()
