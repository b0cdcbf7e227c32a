"""The clock of a rank's thread, and what of its time is the rank's own."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import Any

import pytest

from orchestrator.rank.messages import (
    StepTaken,
)
from orchestrator.rank.probes.deepspeed import Probes
from orchestrator.rank.probes.own_time import OwnTime, ThreadClock
from orchestrator.rank.probes.rank_probes import RankProbes
from tests.unit.rank.test_probes import FakeLink, Loss, fake_deepspeed


@pytest.fixture
def link() -> FakeLink:
    return FakeLink()


def clocks_open() -> int:
    found = 0
    for fd in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            found += os.readlink(f"/proc/self/fd/{fd}").endswith("/schedstat")
    return found


def test_all_probes_of_a_rank_read_one_clock() -> None:
    before = clocks_open()
    RankProbes(FakeLink())  # type: ignore[arg-type]
    assert clocks_open() == before + 1


def test_a_clock_that_the_script_has_closed_goes_on_without_what_it_cannot_read() -> None:
    clock = ThreadClock()
    assert clock._schedstat is not None
    os.close(clock._schedstat)
    long_waited = os.memfd_create("schedstat")
    os.write(long_waited, b"1 900000000000 1")
    clock._schedstat = long_waited
    own, other = OwnTime(clock), OwnTime(clock)
    os.close(long_waited)
    assert own.take() >= 0.0
    with other.pause():
        pass
    assert 0.0 <= other.take() < 60.0


class Clock:
    """Stands still but for `pass_by`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 100.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now_s)
        monkeypatch.setattr(ThreadClock, "_queued_s", lambda _clock: 0.0)

    def pass_by(self, seconds: float) -> None:
        self.now_s += seconds

    def slow(self, owner: Any, name: str, seconds: float) -> None:
        """Have a method take so long."""
        original = getattr(owner, name)

        def method(*args: Any, **kwargs: Any) -> Any:
            self.pass_by(seconds)
            return original(*args, **kwargs)

        setattr(owner, name, method)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def slow_deepspeed(clock: Clock, link: FakeLink) -> Any:
    """Methods take different powers of ten, so that a sum of seconds says what is in it."""
    deepspeed = fake_deepspeed()
    for name, seconds in (("forward", 1.0), ("backward", 10.0), ("step", 100.0)):
        clock.slow(deepspeed.DeepSpeedEngine, name, seconds)
    for name in ("save_checkpoint", "load_checkpoint"):
        clock.slow(deepspeed.DeepSpeedEngine, name, 1000.0)
    Probes(link).attach(deepspeed)  # type: ignore[arg-type]
    return deepspeed


def test_a_ranks_own_time_is_what_passes_outside_of_what_all_do_together(
    link: FakeLink, clock: Clock
) -> None:
    deepspeed = slow_deepspeed(clock, link)
    clock.pass_by(5000.0)
    engine, *_ = deepspeed.initialize(deepspeed.DeepSpeedEngine(micro_batches=2))
    for _ in range(2):
        for _ in range(2):
            clock.pass_by(0.25)  # loading data
            engine.backward(engine(Loss(1.0)))
            engine.step()
        engine.save_checkpoint("/ckpt")
    steps = link.of(StepTaken)
    assert [step.local_time_s for step in steps] == [2.5, 2.5]
    assert [step.step_time_s for step in steps] == [222.5, 222.5]


def test_validation_is_a_phase_and_no_ranks_own_time(link: FakeLink, clock: Clock) -> None:
    deepspeed = slow_deepspeed(clock, link)
    engine, *_ = deepspeed.initialize(deepspeed.DeepSpeedEngine())

    def validate() -> None:
        assert engine.eval() == "eval"
        clock.pass_by(0.5)
        before = link.progress
        engine(Loss(1.0))
        assert link.progress > before
        assert link.phase == "validation"

    validate()  # before the first step, as some do
    engine.train(False)
    engine.save_checkpoint("/best")
    assert link.phase == "validation"
    assert engine.train() == "train"
    assert link.phase == "first_step"
    engine.backward(engine(Loss(1.0)))
    engine.step()
    validate()
    engine.backward(Loss(1.0))  # a script may forget to go back
    assert link.phase == "step"
    engine.train()
    assert link.phase == "step"
    clock.pass_by(0.25)
    engine.step()
    assert [step.local_time_s for step in link.of(StepTaken)] == [1.0, 0.25]


def test_an_engine_made_during_validation_stops_no_clock(link: FakeLink, clock: Clock) -> None:
    deepspeed = slow_deepspeed(clock, link)
    engine, *_ = deepspeed.initialize(deepspeed.DeepSpeedEngine())
    engine.eval()
    deepspeed.initialize(deepspeed.DeepSpeedEngine())
    assert link.phase == "first_step"
    clock.pass_by(0.5)
    engine.train()
    assert link.phase == "first_step"
    engine.backward(engine(Loss(1.0)))
    engine.step()
    assert link.of(StepTaken)[0].local_time_s == 1.0


def test_a_pipelines_own_time_is_what_passes_between_its_batches(link: FakeLink, clock: Clock) -> None:
    engine = slow_deepspeed(clock, link).PipelineEngine()
    for _ in range(2):
        clock.pass_by(0.25)
        engine.train_batch()
        engine.eval_batch(iter([Loss(1.0)]))
    assert [step.local_time_s for step in link.of(StepTaken)] == [0.25, 0.25]
    assert link.phases[-2:] == ["validation", "step"]
