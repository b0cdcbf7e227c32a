"""The process that tells MLflow is kept going; a fake stands for it, and the test says what time it is."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

import pytest

from orchestrator.ledger.mlflow.outage import Outage
from orchestrator.ledger.mlflow.sink_process import GONE, MAX_BACKOFF_S, WELL_AFTER_S, SinkSupervisor
from tests.support.fakes import FakeClock

DOWN = "MLflow at http://mlflow:5000 does not answer within 3 s: timed out"


class FakeProcess:
    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.code: int | None = None

    def poll(self) -> int | None:
        return self.code

    def kill(self) -> None:
        self.code = -signal.SIGKILL


class World:
    """MLflow as it answers, the processes as they were started, and what the user reads."""

    def __init__(self, problem: str | None = None) -> None:
        self.problem = problem
        self.asked = 0
        self.last = False
        self.while_asked: Callable[[], None] = lambda: None
        self.started: list[FakeProcess] = []
        self.said: list[str] = []
        self.cannot_start: OSError | None = None
        self.keeper = SinkSupervisor(self.start, self.check, problem)
        self.keeper._keep = lambda: None  # type: ignore[method-assign]  # the test is the thread
        self.keeper.begin(self.said.append)
        self.now_s = time.monotonic()

    def start(self) -> FakeProcess:
        if self.cannot_start:
            raise self.cannot_start
        self.started.append(FakeProcess(len(self.started)))
        return self.started[-1]

    def check(self, last: bool) -> str | None:
        self.asked += 1
        self.last = last
        self.while_asked()
        return self.problem

    def after(self, seconds: float) -> None:
        """Time goes on, with ten looks a second."""
        for _ in range(round(seconds * 10)):
            self.now_s += 0.1
            self.keeper.look(self.now_s)

    def ends(self, code: int) -> None:
        self.started[-1].code = code
        self.after(0.1)


def test_it_starts_at_once_where_mlflow_answers_and_ends_with_the_run() -> None:
    world = World()
    assert len(world.started) == 1
    world.keeper.run_ended()
    world.ends(0)
    assert world.keeper.wait(lambda: False)
    assert (world.said, len(world.started)) == ([], 1)


def test_one_slow_answer_before_the_start_costs_nothing_but_the_time() -> None:
    world = World(problem=DOWN)
    assert not world.keeper.ever_started
    world.problem = None
    world.after(2)
    assert len(world.started) == 1
    assert world.keeper.ever_started
    assert world.said == ["MLflow answers now: the run is recorded, from its start"]


def test_a_server_that_is_away_is_asked_less_and_less_often_and_once_more_at_the_end() -> None:
    world = World(problem=DOWN)
    world.after(600)
    assert 10 <= world.asked <= 6 + 600 / MAX_BACKOFF_S
    assert world.said == [], "the user has been told before"
    world.keeper.run_ended()
    before = world.asked
    world.after(0.1)
    assert (world.asked, world.last) == (before + 1, True)
    assert not world.keeper.wait(lambda: False), "it does not wait for a server that is away"
    assert world.started == []


def test_a_server_that_is_back_when_the_run_has_ended_gets_all_of_it() -> None:
    world = World(problem=DOWN)
    world.after(100)
    world.problem = None
    world.keeper.run_ended()
    world.after(0.1)
    world.ends(0)
    assert world.keeper.wait(lambda: False)


def test_an_answer_that_was_asked_for_before_the_end_is_not_the_last_one() -> None:
    world = World(problem=DOWN)
    world.while_asked = world.keeper.run_ended
    world.after(1.2)
    assert (world.asked, world.last) == (2, True)


@pytest.mark.parametrize(
    ("code", "how"),
    [
        (-9, "was killed by SIGKILL"),
        (1, "ended with status 1"),
        (0, "ended with status 0"),
        (GONE, "is gone"),
    ],
)
def test_a_process_that_ends_before_the_run_is_started_again_and_that_is_said(code: int, how: str) -> None:
    world = World()
    world.ends(code)
    assert world.said == [
        f"MLflow: the process that tells it {how}; another is started in 1 s, the journal keeps everything"
    ]
    world.after(1.1)
    assert len(world.started) == 2
    world.keeper.run_ended()
    world.ends(0)
    assert world.keeper.wait(lambda: False)


def test_one_that_ends_whenever_it_is_started_is_started_less_and_less_often_and_named_a_few_times() -> None:
    world = World()
    for _ in range(60):
        if world.started[-1].code is None:
            world.ends(1)
        world.after(20)
    assert 12 < len(world.started) < 30
    assert 3 < len(world.said) < 10
    world.after(WELL_AFTER_S + 60)
    world.ends(-9)
    assert world.said[-1].startswith(
        "MLflow: the process that tells it was killed by SIGKILL; another is started in 1 s"
    )


@pytest.mark.parametrize("code", [-9, GONE])
def test_one_that_is_killed_after_the_run_is_started_again_and_one_that_gave_up_is_not(code: int) -> None:
    world = World()
    world.after(5)
    world.keeper.run_ended()
    world.ends(code)
    world.after(1.1)
    assert len(world.started) == 2
    world.ends(1)
    assert not world.keeper.wait(lambda: False)
    world.after(100)
    assert len(world.started) == 2


def test_the_end_does_not_wait_for_a_turn_that_was_put_off() -> None:
    world = World()
    for _ in range(8):
        world.ends(-9)
        world.after(MAX_BACKOFF_S)
    world.ends(-9)
    count = len(world.started)
    world.keeper.run_ended()
    world.after(0.1)
    assert len(world.started) == count + 1


def test_mlflow_gone_while_the_process_is_gone_is_said_and_tried_again() -> None:
    world = World()
    world.problem = DOWN
    world.ends(-9)
    world.after(200)
    assert world.said[1:] == [f"MLflow: {DOWN}; it is tried again, the journal keeps everything"]
    world.problem = None
    world.after(MAX_BACKOFF_S + 1)
    assert len(world.started) == 2
    assert world.said[2:] == ["MLflow answers now: the run is recorded, from its start"]


def test_a_machine_that_cannot_start_another_process_is_no_end_either() -> None:
    world = World(problem=DOWN)
    world.problem, world.cannot_start = None, OSError(11, "Resource temporarily unavailable")
    world.after(10)
    assert world.started == []
    assert "cannot be started (Resource temporarily unavailable)" in world.said[0]
    world.cannot_start = None
    world.after(MAX_BACKOFF_S)
    assert len(world.started) == 1


def test_nothing_is_started_once_it_is_closed() -> None:
    world = World(problem=DOWN)

    def closed_meanwhile() -> None:
        world.problem = None
        world.keeper.close()

    world.while_asked = closed_meanwhile
    world.after(2)
    assert world.asked == 1
    assert world.started == []


def test_an_outage_is_said_when_it_lasts_and_when_it_is_over() -> None:
    said: list[str] = []
    clock = FakeClock()
    outage = Outage(said.append, 15.0, clock.now_s)
    for _ in range(10):
        outage.failed(OSError("a\n  long   way away"))
        clock.sleep(1)
    assert (said, outage.last_error) == ([], "a long way away")
    outage.over()
    assert said == [], "what nobody was told of is not over either"
    for _ in range(40):
        outage.failed(OSError("away"))
        clock.sleep(1)
    assert said == ["away; tried again until it works, the journal keeps everything"]
    outage.over()
    assert said[1:] == ["written again after 40 s"]
    outage.failed(ValueError(), at_once=True)
    assert said[2].startswith("ValueError; ")
