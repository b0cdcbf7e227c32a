"""A node on which a rank was lost is measured before the run takes it again."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from orchestrator.config.schema import RecoveryConfig
from orchestrator.events import (
    AttemptStarted,
    Event,
    Fault,
    NodeChecked,
    NodeQuarantined,
    RunEnded,
    RunStarted,
    Status,
)
from orchestrator.supervise.loop import StopRequest, SupervisorOptions, supervise
from tests.support.fakes import FakeClock, FakeGroup, Struck, fail, names

STARTED = RunStarted("run", "job", "cluster", "GPU", 2, 1.0)
KILLED = fail(rank=1).at(step=3).by("killed", -9)


@dataclass
class Looks:
    """Who was measured, and when; ``found`` is what is bad."""

    found: str = ""
    asked: list[tuple[int, str]] = field(default_factory=list)
    came: list[str] = field(default_factory=list)
    bad_when_it_came: str = ""

    def __call__(self, attempt: int, node: str, came: bool = False) -> NodeChecked | None:
        if came:
            self.came.append(node)
            found = "disk, full" if node == self.bad_when_it_came else ""
            return NodeChecked(attempt, node, not found, found, 9.0, came)
        self.asked.append((attempt, node))
        return NodeChecked(attempt, node, not self.found, self.found, 9.0)


def run(
    looks: Looks | None, *faults: Struck, group: FakeGroup | None = None
) -> tuple[list[Event], FakeGroup]:
    group = group or FakeGroup(steps=5, save_every=1, faults=list(faults))
    options = SupervisorOptions(look=looks)
    return list(supervise(STARTED, group, RecoveryConfig(), FakeClock(), StopRequest(), options)), group


def test_one_that_is_well_is_taken_again_and_it_is_on_record_before_the_decision() -> None:
    looks = Looks()
    events, group = run(looks, KILLED)
    assert looks.asked == [(1, "node-a")]
    told = names(events)
    assert told.index("AttemptEnded") < told.index("NodeChecked") < told.index("Decided")
    assert "NodeQuarantined" not in told
    assert "quarantine node-a" not in group.calls


def test_a_bad_one_is_not_taken_again() -> None:
    events, group = run(Looks("matrix products, 400 TFLOP/s, expected 792 TFLOP/s"), KILLED)
    (quarantined,) = [event for event in events if isinstance(event, NodeQuarantined)]
    assert (quarantined.node, quarantined.reason.split(",")[0]) == ("node-a", "matrix products")
    assert group.calls.index("quarantine node-a") < group.calls.index("start 2")
    assert isinstance(events[-1], RunEnded)
    assert events[-1].status is Status.FINISHED


def test_nobody_is_measured_where_that_was_not_asked_for() -> None:
    events, _ = run(None, KILLED)
    assert "NodeChecked" not in names(events)


def test_a_node_that_does_not_answer_is_passed_over() -> None:
    class Gone(Looks):
        def __call__(self, attempt: int, node: str, came: bool = False) -> NodeChecked | None:
            super().__call__(attempt, node)
            return None

    looks = Gone()
    events, _ = run(looks, KILLED)
    assert looks.asked == [(1, "node-a")]
    assert "NodeChecked" not in names(events)


def test_nodes_that_come_in_place_of_lost_ones_are_measured_before_ranks_run_there() -> None:
    looks = Looks(bad_when_it_came="node-b")
    group = FakeGroup(
        steps=5, save_every=1, faults=[KILLED.as_fault(Fault.NODE)],
        comes=[["node-a", "node-b"], ["node-c"], []],
    )  # fmt: skip
    events, _ = run(looks, group=group)
    assert looks.came == ["node-a", "node-b", "node-c"]
    came = [event for event in events if isinstance(event, NodeChecked) and event.came]
    assert [(event.attempt, event.node, event.found) for event in came] == [
        (1, "node-a", ""), (1, "node-b", "disk, full"), (1, "node-c", ""),
    ]  # fmt: skip
    (quarantined,) = [event for event in events if isinstance(event, NodeQuarantined)]
    assert (quarantined.node, quarantined.reason) == ("node-b", "disk, full")
    told = [event for event in events if isinstance(event, NodeChecked | AttemptStarted)]
    assert isinstance(told[-1], AttemptStarted), "all are measured before"
    assert group.calls.index("quarantine node-b") < group.calls.index("start 2")


def test_where_nobody_asked_for_checks_nodes_that_come_are_not_asked_for_ahead() -> None:
    group = FakeGroup(steps=5, save_every=1, faults=[KILLED], comes=[["node-b"]])
    events, _ = run(None, group=group)
    assert "NodeChecked" not in names(events)
    assert group.comes == [["node-b"]]


@pytest.mark.parametrize("stop_at", ["RankLost", "AttemptEnded"])
def test_somebody_who_wants_it_to_stop_does_not_wait_for_a_check(stop_at: str) -> None:
    looks, stop = Looks(), StopRequest()
    group = FakeGroup(steps=5, save_every=1, faults=[KILLED])
    for event in supervise(
        STARTED, group, RecoveryConfig(), FakeClock(), stop, SupervisorOptions(look=looks)
    ):
        if type(event).__name__ == stop_at:
            stop.ask("SIGINT")
    assert looks.asked == []
