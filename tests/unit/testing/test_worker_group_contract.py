"""The published contract fails a group that breaks it, each test for its own reason."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from orchestrator.events import AttemptEnded, AttemptStarted, Event, Outcome, RankLost, ResourcesGranted
from orchestrator.supervise.worker_group import WorkerGroup
from orchestrator.testing.worker_group import Behaviour, WorkerGroupContract
from tests.support.fakes import FakeGroup, fail

NAMES = [name for name in vars(WorkerGroupContract) if name.startswith("test_")]


def as_asked(behaviour: Behaviour, kind: type[FakeGroup] = FakeGroup) -> FakeGroup:
    match behaviour:
        case Behaviour.FINISH:
            return kind(steps=3)
        case Behaviour.WAIT:
            return kind(steps=10**9, save_every=0)
        case Behaviour.DEAF:
            return kind(steps=10**9, save_every=0, ignores_stop=True)
        case Behaviour.RAISE:
            return kind(faults=[fail(rank=1).at(2).by("ValueError: bad luck on rank 1")] * 2)
        case Behaviour.SIGKILL:
            return kind(faults=[fail(rank=1).at(2).by("", -9)] * 2)


class Losing(FakeGroup):
    """Says nothing of the rank that was lost."""

    def poll(self) -> list[Event]:
        return [event for event in super().poll() if not isinstance(event, RankLost)]


class Talking(FakeGroup):
    """Goes on after the end."""

    def poll(self) -> list[Event]:
        events = super().poll()
        return events if self._alive else [*events, AttemptEnded(1, Outcome.FINISHED, 3)]


class Endless(FakeGroup):
    """Does not hear what it is asked, and cannot be killed."""

    def stop(self, grace_s: float) -> None: ...

    def kill(self) -> None: ...


class Forgetful(FakeGroup):
    """Cannot be closed twice."""

    def close(self) -> None:
        assert "close" not in self.calls
        super().close()


class Poor(FakeGroup):
    """Holds fewer accelerators than were asked for."""

    def acquire(self, cancelled: Callable[[], bool]) -> ResourcesGranted:
        return ResourcesGranted(["node-a"], 1)


class Numberless(FakeGroup):
    """Does not say which attempt it has started."""

    def start(self, attempt: int, *_others: object) -> AttemptStarted:  # type: ignore[override]
        return AttemptStarted(attempt + 1, "127.0.0.1", 1, 2, None, None)


def broken_tests(kind: type[FakeGroup]) -> set[str]:
    class Contract(WorkerGroupContract):
        timeout_s = 1.0

        def make(self, behaviour: Behaviour) -> WorkerGroup:
            return as_asked(behaviour, kind)

        def stop_the_deaf(self, group: WorkerGroup) -> None:
            group.kill()

    broken = set()
    for name in NAMES:
        contract = Contract()
        contract.setup_method()
        try:
            getattr(contract, name)()
        except AssertionError:
            broken.add(name)
        for group in contract._made:
            group.calls.clear()  # type: ignore[attr-defined]
        contract.teardown_method()
    return broken


def test_a_group_that_keeps_the_contract_passes_and_each_made_one_is_closed() -> None:
    assert len(NAMES) == 7
    assert broken_tests(FakeGroup) == set()
    contract = WorkerGroupContract()
    contract.setup_method()
    contract.make = as_asked  # type: ignore[method-assign, assignment]
    group = contract._group(Behaviour.WAIT)
    contract.teardown_method()
    assert group.calls == ["close"]  # type: ignore[attr-defined]
    with pytest.raises(NotImplementedError):
        WorkerGroupContract().make(Behaviour.WAIT)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Losing, ("raises", "killed")),
        (Talking, ("finishes", "raises")),
        (Endless, ("stop_gives", "kill_does_not_ask", "do_not_listen")),
        (Forgetful, ("close",)),
        (Poor, ("finishes", "stop_gives", "close")),
        (Numberless, ("finishes", "stop_gives", "close")),
    ],
)
def test_a_group_that_breaks_it_is_found_out(kind: type[FakeGroup], words: tuple[str, ...]) -> None:
    broken = broken_tests(kind)
    for each in words:
        assert any(each in name for name in broken), (each, broken)
