"""Faults of ranks.

==================================  =======================  =========================================================
fault                               time                     expected
==================================  =======================  =========================================================
rank SIGKILL                        between two checkpoints  restart from memory; losses as if nothing had happened
rank SIGKILL                        between two files of a   the save before it is gone on from
                                    save
rank SIGSTOP                        between two checkpoints  found as a hang, the stopped rank named; restart
exception, once                     between two checkpoints  restart
exception at the same step, twice   the same                 stop with its diagnosis, exit code 6
exit with status 0                  too early                restart; it is named, not those who waited for it
out of host memory                  between two checkpoints  restart, told from a kill
NaN loss                            a batch                  rewind, batch skipped; losses before it as before, and
                                                             after it within a tenth of those of the whole run
slow rank                           from step 3 on           named, no restart
both ranks SIGKILL                  at once                  one restart
rank SIGKILL                        while the next attempt   another restart
                                    initialises
rank SIGKILL                        while the run stops      the run is interrupted all the same
==================================  =======================  =========================================================
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from signal import SIGKILL, SIGSTOP, SIGTERM

import pytest

from orchestrator.events import (
    AttemptStarted,
    BatchesSkipped,
    CheckpointLoaded,
    Decided,
    Fault,
    LossRejected,
    PhaseEntered,
    RankLost,
    RunEnded,
    Status,
    StepDone,
    StopRequested,
    StragglerNamed,
)
from tests.faults.faults import event, fail, recovery
from tests.faults.invariants import finished_like, holds
from tests.faults.runs import MARKS, STEPS, Run, User

pytestmark = MARKS


def test_rank_sigkill(keeper: User, whole: Run) -> None:
    run = keeper.start("rank-killed", fail(rank=1).at(step=9).by(SIGKILL)).ended()
    finished_like(run, whole)
    (lost,) = run.of(RankLost)
    assert (lost.rank, lost.reason, lost.fault) == (1, "killed by SIGKILL", Fault.EXIT)
    _, second = run.of(AttemptStarted)
    assert (second.restore_step, second.restore_from) == (6, "memory")
    (loaded,) = run.of(CheckpointLoaded)
    assert loaded.step == 6


def test_rank_sigkill_in_a_save(keeper: User, whole: Run) -> None:
    run = keeper.start("killed-in-save", fail(rank=0).at(step=12).by("kill in save")).ended()
    finished_like(run, whole)
    (lost,) = run.of(RankLost)
    assert (lost.rank, lost.reason, lost.step) == (0, "killed by SIGKILL", 12)
    assert [e.restore_step for e in run.of(AttemptStarted)] == [None, 6], "half a generation is none"


def test_rank_sigstop(keeper: User, whole: Run) -> None:
    run = keeper.start(
        "rank-stopped",
        fail(rank=1).at(step=9).by(SIGSTOP),
        "recovery.hang_floor_s=5",
        "recovery.hang_evidence_s=3",
    ).ended()
    finished_like(run, whole)
    (lost,) = run.of(RankLost)
    assert (lost.fault, lost.rank) == (Fault.HANG, 1), lost
    assert lost.detected_s is not None
    assert 4 <= lost.detected_s < 60
    assert [e.restore_step for e in run.of(AttemptStarted)] == [None, 6]


def test_exception_once(keeper: User, whole: Run) -> None:
    run = keeper.start("exception-once", fail(rank=1).at(step=9).by("exception")).ended()
    finished_like(run, whole)
    (lost,) = run.of(RankLost)
    assert (lost.rank, lost.error) == (1, "ArithmeticError: a fault of the test's own")
    assert lost.log_tail[-1].endswith(lost.error)


def test_exception_twice_at_the_same_step(keeper: User) -> None:
    fault = fail(rank=1).at(step=9).by("exception", times=3)
    run = keeper.start("exception-twice", fault).ended()
    assert run.code == 6, run.text
    holds(run)
    assert len(run.marks()) == len(run.of(RankLost)) == 2, "not a third time"
    ended = run.events()[-1]
    assert isinstance(ended, RunEnded)
    assert "the same failure came back at the same step" in ended.reason
    assert [e.action for e in run.of(Decided)] == ["restart", "stop"]


def test_rank_exits_0_too_early(keeper: User, whole: Run) -> None:
    run = keeper.start("left", fail(rank=1).at(step=9).by("leave")).ended()
    finished_like(run, whole)
    (lost,) = run.of(RankLost)
    assert (lost.rank, lost.exit_status) == (1, 0)
    assert lost.error == "it ended by itself while the other ranks went on"


@pytest.fixture
def memory_group() -> Iterator[Path | None]:
    """A control group that rank 1 can fill without taking anybody else's memory; None where we may make
    none."""
    group = Path("/sys/fs/cgroup/memory", f"orchestrator-faults-{os.getpid()}")
    limit = "memory.limit_in_bytes"
    if not group.parent.is_dir():  # version 2
        group, limit = Path("/sys/fs/cgroup", group.name), "memory.max"
    try:
        group.mkdir()
        (group / limit).write_text(str(1 << 30))
    except OSError:
        with contextlib.suppress(OSError):
            group.rmdir()
        yield None
        return
    yield group
    while group.exists():
        with contextlib.suppress(OSError):
            group.rmdir()
        time.sleep(0.1)


def test_out_of_host_memory(keeper: User, whole: Run, memory_group: Path | None) -> None:
    """The kernel kills where there is a control group for that, else memory is refused: told alike."""
    about = {"group": str(memory_group)} if memory_group else {}
    run = keeper.start("no-memory", fail(rank=1).at(step=9).by("memory", **about)).ended()
    finished_like(run, whole)
    (lost,) = run.of(RankLost)
    assert (lost.rank, lost.fault) == (1, Fault.MEMORY), lost
    assert lost.exit_status == (-9 if memory_group else 1)
    (decided,) = run.of(Decided)
    assert "out of host memory" in decided.reason


def test_nan_loss(keeper: User, whole: Run) -> None:
    """Batch 8 is that of step 9. Left out, every step from there on trains on the next batch of the whole
    run."""
    run = keeper.start("nan", fail(rank=1).at(step=9).by("nan", times=9, batch=8)).ended()
    assert run.code == 0, run.text
    holds(run)
    assert len(run.marks()) == 1, "the batch was trained on once"
    (rejected,) = run.of(LossRejected)
    assert rejected.step == 9
    assert math.isnan(rejected.loss)
    (skipped,) = run.of(BatchesSkipped)
    assert skipped.batches == [8]
    assert [e.action for e in run.of(Decided)] == ["rewind"]
    assert [e.restore_step for e in run.of(AttemptStarted)] == [None, 6]
    losses, expected = run.losses(), whole.losses()
    assert list(losses) == list(range(1, STEPS + 1))
    for step in range(1, 9):
        assert losses[step] == expected[step]
    for step in range(9, STEPS):
        assert losses[step] == pytest.approx(expected[step + 1], rel=0.1), (
            f"the same batch, one step later: {step}"
        )


def test_slow_rank(keeper: User, whole: Run) -> None:
    settings = ["recovery.straggler_steps=6", "recovery.straggler_after_s=0"]
    run = keeper.start(
        "slow", fail(rank=1).at(step=3).by("slow", times=STEPS, seconds=0.3), *settings
    ).ended()
    finished_like(run, whole)
    (named,) = run.of(StragglerNamed)
    assert named.rank == 1
    assert named.ratio > 1.5
    assert not run.of(RankLost)


def test_both_ranks_sigkill(keeper: User, whole: Run) -> None:
    run = keeper.start("both-killed", fail(rank=0).and_(rank=1).at(step=9).by(SIGKILL)).ended()
    finished_like(run, whole)
    assert len(run.faults[0].struck) == 2
    (lost,) = run.of(RankLost)
    assert lost.reason == "killed by SIGKILL"


def test_rank_sigkill_again_while_the_next_attempt_initialises(keeper: User, whole: Run) -> None:
    first = fail(rank=1).at(step=9).by(SIGKILL)
    second = fail(rank=0).during(event(PhaseEntered, attempt=2, phase="import")).by(SIGKILL)
    run = keeper.start("killed-again", first, second).ended()
    finished_like(run, whole)
    assert [lost.rank for lost in run.of(RankLost)] == [1, 0]
    assert [e.restore_step for e in run.of(AttemptStarted)] == [None, 6, 6]
    started = [n for n, r in enumerate(run.records()) if isinstance(r.event, AttemptStarted)]
    between = run.records()[started[1] : started[2]]
    assert not any(isinstance(record.event, StepDone) for record in between), (
        "it struck before a step was done"
    )


def test_rank_sigkill_while_the_run_stops(keeper: User) -> None:
    driver = fail(driver=True).at(step=9).by(SIGTERM)
    rank = fail(rank=1).during(event(StopRequested)).by(SIGKILL)
    run = keeper.start("killed-at-stop", driver, rank).ended()
    assert run.code == 143, run.text
    holds(run)
    ended = run.events()[-1]
    assert isinstance(ended, RunEnded)
    assert ended.status is Status.INTERRUPTED
    assert not run.of(RankLost), "what ends after somebody asked for it is no failure"
    assert recovery().come(run) is False
