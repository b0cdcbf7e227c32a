"""Faults of the run's own process, and what people do to it. Here `resume` is half of every row.

==================================  =======================  =========================================================
fault                               time                     expected
==================================  =======================  =========================================================
driver SIGKILL                      between two checkpoints  ranks gone within 30 s; resume: the same journal and
                                                             MLflow run, losses as if nothing had happened
driver SIGKILL                      around saves, write-outs the same, however often
                                    and commits
driver SIGKILL                      while attempt 2 starts   the same
driver SIGTERM                      in the training          saved, exit code 143; resume goes on at the next step
Ctrl-C                              in the training          the same with 130
TERM or USR1 to every process       in the training          the same with 143 and 138
Ctrl-C twice                        while the job saves      killed at once, 130; resume from the last commit
second driver                       on a live run            refused, exit code 4; the run does not notice
resume of a live run                                         the same
resume of a run that has finished                            refused, exit code 4
==================================  =======================  =========================================================
"""

from __future__ import annotations

import contextlib
import random
import time
from signal import SIGINT, SIGKILL, SIGTERM, SIGUSR1

import psutil
import pytest

from orchestrator.events import (
    AttemptStarted,
    Decided,
    RankLost,
    RunEnded,
    RunResumed,
    RunStarted,
    SnapshotCommitted,
    Status,
    StepDone,
    StopRequested,
)
from tests.faults.faults import Fault, Moment, both, commit, event, fail, the_phase, the_step, write_out
from tests.faults.invariants import GONE_S, finished_like, gone, holds, mlflow_agrees, nothing_left
from tests.faults.runs import MARKS, STEPS, Run, User
from tests.support.processes import title

pytestmark = MARKS

COMMITTED = event(SnapshotCommitted, step=6)


def killed(run: Run) -> Run:
    """Its driver was; within 30 s nothing else of it is there either."""
    assert run.ended().code == -SIGKILL, run.text
    died_s = run.faults[0].struck[0].monotonic_s
    gone(run, GONE_S - (time.monotonic() - died_s))
    return run


@pytest.fixture(scope="module")
def without_driver(user: User) -> Run:
    fault = fail(driver=True).during(both(the_step(9), COMMITTED)).by(SIGKILL)
    return killed(user.start("driver-killed", fault, tracked=True))


def test_driver_sigkill(without_driver: Run, user: User, whole: Run) -> None:
    again = user.resume(without_driver.name).ended()
    finished_like(again, whole)
    assert len(again.of(RunStarted)) == len(again.of(RunResumed)) == 1, "the same journal"
    assert [e.restore_step for e in again.of(AttemptStarted)] == [None, 6]
    assert [e.restore_from for e in again.of(AttemptStarted)] == [None, "disk"]
    mlflow_agrees(again, f"sqlite:///{user.folder}/runs/mlflow.db")


def test_driver_sigkill_again_and_again_around_saves(keeper: User, whole: Run) -> None:
    """Each driver is killed at another moment of a checkpoint's way to the disk; then one may finish."""
    chance = random.Random(4)
    moments: list[Moment] = [write_out(), commit(), event(SnapshotCommitted), the_step(12), the_step(18)]
    name = "driver-killed-often"
    run = killed(keeper.start(name, around(moments[0], chance), "job.args.checkpoint_every=3"))
    for moment in moments[1:]:
        run = killed(keeper.resume(name, around(moment, chance)))
        folder = run.folder / "checkpoints"
        assert all((tag / "manifest.json").is_file() for tag in folder.glob("step-*")), "whole or not there"
    last = keeper.resume(name).ended()
    finished_like(last, whole)
    assert len(last.of(RunResumed)) == len(moments)


def around(moment: Moment, chance: random.Random) -> Fault:
    return fail(driver=True).during(moment).later(chance.uniform(0, 0.05)).by(SIGKILL)


def test_driver_sigkill_in_a_recovery(keeper: User, whole: Run) -> None:
    rank = fail(rank=0).at(step=9).by(SIGKILL)
    driver = fail(driver=True).during(both(the_phase("import", 2), COMMITTED)).by(SIGKILL)
    killed(keeper.start("driver-in-recovery", driver, rank))
    again = keeper.resume("driver-in-recovery").ended()
    finished_like(again, whole)
    assert len(again.of(RankLost)) == 1
    assert [e.restore_step for e in again.of(AttemptStarted)] == [None, 6, 6]


@pytest.mark.parametrize(("how", "code"), [(SIGTERM, 143), (SIGINT, 130)])
def test_a_stop_saves_and_is_gone_on_from(how: int, code: int, keeper: User, whole: Run) -> None:
    name = f"stopped-{code}"
    run = keeper.start(name, fail(driver=True).at(step=9).by(how)).ended()
    assert run.code == code, run.text
    holds(run)
    ended = run.events()[-1]
    assert isinstance(ended, RunEnded)
    assert ended.status is Status.INTERRUPTED
    last = max(run.losses())
    assert 9 <= last < STEPS
    assert (run.folder / "checkpoints" / "latest").read_text() == f"step-{last:06d}", "where it stopped"
    assert list((run.folder / "checkpoints" / ".attempts").glob("*")) == []
    again = keeper.resume(name).ended()
    finished_like(again, whole)
    assert [e.restore_step for e in again.of(AttemptStarted)] == [None, last]
    assert [e.restore_from for e in again.of(AttemptStarted)] == [None, "parked"], (
        "nothing was read from a disk"
    )
    assert not again.of(RankLost)
    assert not again.of(Decided), "nothing failed"
    assert len(again.of(StepDone)) == STEPS, "no step twice"


@pytest.mark.parametrize(("how", "code"), [(SIGTERM, 143), (SIGUSR1, 138)])
def test_a_signal_for_every_process_saves_too(
    how: int, code: int, user: User, keeper: User, whole: Run
) -> None:
    """As `scancel`, systemd and a closed terminal send it: driver, Ray, agents, zygotes, ranks and MLflow's
    process."""
    owner, name = user if how == SIGTERM else keeper, f"all-{code}"
    run = owner.start(name, tracked=True)
    run.wait_for(StepDone, step=9)
    told = [run.driver, *run.family()]
    for process in told:
        with contextlib.suppress(psutil.Error):
            process.send_signal(how)
    if how == SIGTERM:
        titles = " ".join(map(title, told))
        assert all(
            one in titles
            for one in ("raylet", "gcs_server", "NodeAgent", "zygote", "rank 1/2", "mlflow.sink")
        )
    assert run.ended().code == code, run.text
    ended = run.events()[-1]
    assert isinstance(ended, RunEnded)
    assert ended.status is Status.INTERRUPTED
    stopped = max(run.losses())
    assert (run.folder / "checkpoints" / "latest").read_text() == f"step-{stopped:06d}", "where it stopped"
    nothing_left(run)
    again = owner.resume(name).ended()
    finished_like(again, whole)
    assert [e.restore_step for e in again.of(AttemptStarted)] == [None, stopped]


def test_ctrl_c_twice(keeper: User, whole: Run) -> None:
    first, second = (
        fail(driver=True).at(step=9).by(SIGINT),
        fail(driver=True).during(event(StopRequested)).by(SIGINT),
    )
    run = keeper.start("impatient", first, second, "recovery.stop_grace_s=120").ended()
    assert run.code == 130, run.text
    holds(run)
    assert time.monotonic() - second.struck[0].monotonic_s < 60, "far less than the grace period"
    ended = run.events()[-1]
    assert isinstance(ended, RunEnded)
    assert ended.status is Status.INTERRUPTED
    again = keeper.resume("impatient").ended()
    finished_like(again, whole)


def test_a_second_driver_and_a_resume_of_a_live_run_are_refused(keeper: User, whole: Run) -> None:
    name = "held"
    slow = 10.0  # so that it outlives all three, however busy the machine
    run = keeper.start(name, pace_s=slow)
    run.wait_for(StepDone)
    before = len(run.records())
    for begin in (
        lambda: keeper.start(name, pace_s=slow),
        lambda: keeper.resume(name, hurry=False),
        lambda: keeper.start(name, "job.resume=auto", pace_s=slow),
    ):
        second = begin()
        assert second.ended().code == 4, second.text
        assert "held by another live run" in second.text
        assert f"process {run.process.pid}" in second.text
        assert "Traceback" not in second.text
    run.hurry()
    run.ended()
    assert len(run.records()) > before
    finished_like(run, whole)
    assert len(run.of(RunStarted)) == 1
    assert not run.of(RunResumed)
    late = keeper.resume(name).ended()
    assert late.code == 4, late.text
    assert "its run has finished" in late.text


def test_of_a_run_without_driver_nothing_is_left_in_the_end(without_driver: Run) -> None:
    """The last one here: Ray takes a minute to notice that its head has gone, and the other tests can use
    it."""
    nothing_left(without_driver)
