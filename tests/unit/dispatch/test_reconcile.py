"""What is done about a job, one line for each thing that can be seen of its driver."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.dispatch import reconcile
from orchestrator.dispatch.entries import Entry
from orchestrator.dispatch.facts import (
    Began,
    CancelAsked,
    Ended,
    HeldBack,
    Left,
    Lost,
    NodesLeft,
    StopMeant,
    Tallied,
    Tally,
)
from orchestrator.dispatch.reconcile import AskToStop, Say, Signal, StartDriver, next_action
from orchestrator.dispatch.seen import DriverEnd, Presence, RunSeen
from orchestrator.fleet.decisions import StopCause
from orchestrator.fleet.jobs import Job, JobSpec, JobState, Placement, PoolPlan
from tests.support.dispatch_world import FakeCluster

NOW = 1_000_000.0
HERE = Placement("gpus", (0,), (8,))
TALLY = Tally(10, 8, True)
RUN = RunSeen(TALLY)
DONE = RunSeen(TALLY, finished=True)
AT_ITS_END = RunSeen(TALLY, nodes_left=True)
NOBODY = Presence(run=RUN)
THERE = Presence(2, 77, run=RUN)
SOMEBODY = Presence(run=RUN, held=True)  # nobody knows who


def entry(state: JobState, **more: object) -> Entry:
    job = Job(JobSpec("a", "nlp", (PoolPlan("gpus", 8, 1.0),)), state, NOW - 60.0, epoch=2, placement=HERE)
    return Entry(replace(job, started_at=NOW - 50.0, **more), "/", meant_at=NOW - 40.0)  # type: ignore[arg-type]


STARTING, RUNNING, STOPPING = (
    entry(state) for state in (JobState.STARTING, JobState.RUNNING, JobState.STOPPING)
)
MOVED = entry(JobState.STARTING, leaving=Placement("gpus", (1,), (8,)), waits_for=("a",))
WAITS = entry(JobState.STARTING, waits_for=("b",))


def ended(code: int, run: RunSeen = RUN) -> Presence:
    return Presence(ended=DriverEnd(2, code), run=run)


ROWS = [
    (STARTING, NOBODY, StartDriver(2)),
    (STARTING, Presence(run=RUN, starting=True), None),
    (STARTING, Presence(ended=DriverEnd(1, 6), run=RUN), StartDriver(2)),  # of the start before
    (STARTING, THERE, Say((Began("a", 2),))),
    (STARTING, Presence(1, 77), Signal(77, signal.SIGTERM)),
    (STARTING, Presence(run=DONE), Say((Ended("a", 2, JobState.FINISHED, TALLY),))),
    (WAITS, NOBODY, None),
    (MOVED, Presence(1, 77), AskToStop()),
    (MOVED, NOBODY, Say((Left("a", 1, TALLY),))),
    (RUNNING, THERE, None),
    (RUNNING, NOBODY, Say((Lost("a", 3, TALLY),))),
    (RUNNING, Presence(run=DONE), Say((Ended("a", 2, JobState.FINISHED, TALLY),))),
    (RUNNING, ended(0, DONE), Say((Ended("a", 2, JobState.FINISHED, TALLY),))),
    (RUNNING, ended(8), Say((Ended("a", 2, JobState.OVER_BUDGET, TALLY),))),
    (RUNNING, ended(6), Say((Ended("a", 2, JobState.FAILED, TALLY, "see its log"),))),
    (
        RUNNING,
        replace(ended(2), log="x.log"),
        Say(
            (
                HeldBack("a", "its driver ended with exit code 2; x.log says why"),
                Left("a", 2, TALLY, "its driver ended with exit code 2; x.log says why"),
            )
        ),
    ),
    (RUNNING, ended(143, replace(RUN, stopped_by="SIGTERM")), Say((Left("a", 2, TALLY),))),
    (
        RUNNING,
        ended(143, replace(RUN, stopped_by="'orchestrator stop' of ada")),
        Say((HeldBack("a", "it was stopped by 'orchestrator stop' of ada"), Left("a", 2, TALLY))),
    ),
    (
        RUNNING,
        ended(3),
        Say(
            (Left("a", 2, TALLY, "its driver ended with exit code 3, of the cluster or its folder", NOW + 1),)
        ),
    ),
    (STOPPING, THERE, AskToStop()),
    (STOPPING, replace(THERE, stop_asked=True), None),
    (STOPPING, replace(THERE, run=AT_ITS_END, stop_asked=True), Say((NodesLeft("a", 2),))),
    (entry(JobState.STOPPING, placement=None), replace(THERE, run=AT_ITS_END, stop_asked=True), None),
    (STOPPING, replace(THERE, run=DONE), Say((Ended("a", 2, JobState.FINISHED, TALLY),))),
    (RUNNING, replace(THERE, run=DONE), Say((Ended("a", 2, JobState.FINISHED, TALLY),))),
    (RUNNING, replace(THERE, run=AT_ITS_END), None),
    (STOPPING, NOBODY, Say((Left("a", 2, TALLY),))),
    (STOPPING, ended(143, replace(RUN, stopped_by="'orchestrator stop' of x")), Say((Left("a", 2, TALLY),))),
    (STOPPING, ended(0, DONE), Say((Ended("a", 2, JobState.FINISHED, TALLY),))),
    (entry(JobState.QUEUED), THERE, None),
    (STARTING, SOMEBODY, None),
    (MOVED, SOMEBODY, AskToStop()),
    (RUNNING, SOMEBODY, None),
    (STOPPING, SOMEBODY, AskToStop()),
    (STOPPING, replace(SOMEBODY, stop_asked=True), None),
    (STOPPING, replace(SOMEBODY, run=AT_ITS_END), Say((NodesLeft("a", 2),))),
    (STARTING, Presence(run=RUN, died=True), Say((Lost("a", 3, TALLY),))),
    (WAITS, Presence(run=RUN, died=True), None),
]


@pytest.mark.parametrize(("job", "seen", "action"), ROWS)
def test_a_row_of_the_table(job: Entry, seen: Presence, action: object) -> None:
    assert next_action(job, seen, True, NOW) == action


def test_nodes_that_are_gone_are_left() -> None:
    assert next_action(STARTING, NOBODY, False, NOW - 20.0) is None
    assert next_action(STARTING, NOBODY, False, NOW) == Say((Left("a", 2, TALLY, "its nodes were gone"),))
    assert next_action(RUNNING, THERE, False, NOW) == Say((StopMeant("a", 2, StopCause.NODE, 0.0, 0.0, ()),))
    assert next_action(RUNNING, NOBODY, False, NOW) == Say((Left("a", 2, TALLY, "its nodes were gone"),))


def test_a_driver_that_dies_before_it_has_begun_is_started_so_often_and_then_its_job_is_held() -> None:
    again = replace(STARTING, losses=reconcile.MOST_LOSSES, tally=TALLY)
    why = "its driver was lost 11 times in a row before it had begun; see x.log"
    died = Presence(run=RUN, died=True, log="x.log")
    assert next_action(again, died, True, NOW) == Say((HeldBack("a", why), Left("a", 2, TALLY, why)))
    assert next_action(again, died, False, NOW) == Say((Left("a", 2, TALLY, "its nodes were gone"),))


def test_nobody_kills_whom_nobody_knows_and_its_nodes_stay_taken() -> None:
    asked = replace(SOMEBODY, stop_asked=True)
    assert next_action(STOPPING, asked, True, NOW + 10 * reconcile.KILL_S) is None
    assert next_action(RUNNING, asked, False, NOW) == Say((StopMeant("a", 2, StopCause.NODE, 0.0, 0.0, ()),))


def test_while_nobody_knows_of_nodes_nobody_is_asked_to_leave_and_nothing_starts() -> None:
    assert next_action(RUNNING, THERE, None, NOW) is None
    assert next_action(RUNNING, NOBODY, None, NOW) is None
    assert next_action(STARTING, NOBODY, None, NOW) is None
    assert next_action(STARTING, NOBODY, False, NOW) == Say((Left("a", 2, TALLY, "its nodes were gone"),))


def test_who_does_not_leave_is_asked_again_and_killed_at_last() -> None:
    asked = replace(THERE, stop_asked=True)
    later = NOW + reconcile.ASK_AGAIN_S
    assert next_action(STOPPING, asked, True, later) == Signal(77, signal.SIGTERM)
    assert next_action(STOPPING, asked, True, NOW + reconcile.KILL_S) == Signal(77, signal.SIGKILL)


def test_nobody_is_killed_because_the_clock_was_set() -> None:
    asked = replace(THERE, stop_asked=True, asked_s=5.0)
    assert next_action(STOPPING, asked, True, NOW + 86400.0) is None
    late = replace(asked, asked_s=reconcile.KILL_S + 1.0)
    assert next_action(STOPPING, late, True, NOW + 86400.0) == Signal(77, signal.SIGKILL)


def test_what_a_long_run_has_used_is_written_down_now_and_then() -> None:
    tally = replace(TALLY, gpu_s=8 * reconcile.TALLY_S)
    assert next_action(RUNNING, Presence(2, 77, run=RunSeen(tally)), True, NOW) == Say((Tallied("a", tally),))
    less = replace(tally, gpu_s=tally.gpu_s - 1.0)
    assert next_action(RUNNING, Presence(2, 77, run=RunSeen(less)), True, NOW) is None


def test_what_somebody_changes_between_a_look_and_its_word_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = FakeCluster(tmp_path, nodes=1)
    cluster.submit("a", 8, 30)
    daemon = cluster.daemon()
    while cluster.state("a") is not JobState.RUNNING:
        daemon.step()
        cluster.tick()
    assert cluster.state("a") is JobState.RUNNING
    cluster.kill("a")
    look = cluster.seen

    def cancelled_meanwhile(of: Entry) -> Presence:
        seen = look(of)
        if of.job.state is JobState.RUNNING:
            cluster.say(CancelAsked("a"))
        return seen

    monkeypatch.setattr(cluster, "seen", cancelled_meanwhile)
    daemon.step()
    assert cluster.state("a") is JobState.CANCELLED
