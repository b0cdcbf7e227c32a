"""Faults of what stands between the driver and its ranks; of Ray and of what a run owns in a cluster of the
run's own.

==================================  =======================  =========================================================
fault                               time                     expected
==================================  =======================  =========================================================
agent SIGKILL                       after a commit           a new agent on the node, restart from the disk
agent SIGKILL, on a kept cluster    after a commit           the same, from memory that the node's keeper has
agent SIGSTOP, on a kept cluster    after a commit           given up after its silence, then the same
agent SIGKILL                       before the first commit  the same: nothing is lost, and it is written then
agent SIGKILL                       in a commit              the checkpoint is whole or not there; the same
agent SIGKILL                       while attempt 2 starts   the same, twice
rank and agent SIGKILL              at once                  one restart
zygote SIGKILL                      between two checkpoints  another zygote, restart from memory
writer SIGKILL                      in a write-out           another writer writes it; no restart
writer and rank SIGKILL             in a write-out           the same, and a restart from memory
raylet SIGKILL                      after a commit           the run ends with a diagnosis, exit code 3, without a
                                                             wait for a node; resume goes on
GCS SIGKILL                         after a commit           the same
==================================  =======================  =========================================================
"""

from __future__ import annotations

from signal import SIGKILL, SIGSTOP, SIGTERM

import pytest

from orchestrator.events import (
    AttemptStarted,
    CheckpointWriteBlocked,
    Decided,
    Fault,
    RankLost,
    RunEnded,
    RunResumed,
    SnapshotCommitted,
    Status,
    StepDone,
)
from tests.faults.faults import commit, committed_after, event, fail, recovery, the_phase, write_out
from tests.faults.invariants import finished_like, holds, nothing_left, redone_alike
from tests.faults.runs import EVERY, MARKS, Run, User

pytestmark = MARKS

COMMITTED = event(SnapshotCommitted, step=6)


def replaced(run: Run, source: str = "disk") -> RankLost:
    """The node was lost and there again, and the run went on from there; the fault as it was told."""
    (lost,) = run.of(RankLost)
    assert (lost.fault, lost.gpu) == (Fault.NODE, "the whole node")
    assert [e.action for e in run.of(Decided)] == ["replace"]
    _, second = run.of(AttemptStarted)
    assert (second.restore_step, second.restore_from) == (6, source)
    return lost


def test_agent_sigkill(user: User, whole: Run) -> None:
    run = user.start("agent-killed", fail(agent=0).during(COMMITTED).by(SIGKILL)).ended()
    finished_like(run, whole)
    replaced(run)


def test_agent_sigstop(keeper: User, whole: Run) -> None:
    fault = fail(agent=0).during(COMMITTED).by(SIGSTOP)
    run = keeper.start("agent-stopped", fault, "recovery.agent_timeout_s=4").ended()
    finished_like(run, whole)
    (lost,) = run.of(RankLost)
    assert lost.error == "its agent did not answer for 4 s"
    _, second = run.of(AttemptStarted)
    assert second.restore_step == 6, "what ranks saved when nobody heard them any more is not gone on from"


def test_agent_sigkill_before_the_first_commit(keeper: User, whole: Run) -> None:
    """All that there is lies in memory, and the agent with its writer is gone in the middle of writing it."""
    fault = fail(agent=0).during(write_out(6)).by(SIGKILL)
    run = keeper.start("agent-killed-first", fault).ended()
    assert committed_after(run, fault, 6), "it struck in time"
    finished_like(run, whole)
    assert replaced(run, "parked").fault is Fault.NODE
    assert [e.attempt for e in run.of(SnapshotCommitted) if e.step == 6] == [1], "written by the next agent"


def test_agent_sigkill_in_a_commit(keeper: User, whole: Run) -> None:
    fault = fail(agent=0).during(commit()).by(SIGKILL)
    run = keeper.start("agent-killed-in-commit", fault, "job.args.checkpoint_every=3").ended()
    finished_like(run, whole)
    (lost,) = run.of(RankLost)
    assert lost.fault is Fault.NODE
    committed = [e.step for e in run.of(SnapshotCommitted) if e.attempt == 1]
    _, second = run.of(AttemptStarted)
    on_disk = second.restore_step or 0
    last = max(committed, default=0)
    assert on_disk in (last, last + 3, last + 6), "the one before, or it was done, or what was in memory"


def test_agent_sigkill_while_the_next_attempt_starts(keeper: User, whole: Run) -> None:
    first = fail(agent=0).during(COMMITTED).by(SIGKILL)
    second = fail(agent=0).during(the_phase("import", attempt=2)).by(SIGKILL)
    run = keeper.start("agent-killed-again", first, second).ended()
    finished_like(run, whole)
    assert [lost.fault for lost in run.of(RankLost)] == [Fault.NODE, Fault.NODE]
    assert [e.restore_step for e in run.of(AttemptStarted)][1:] == [6, 6]


def test_agent_sigkill_while_it_is_decided(keeper: User, whole: Run) -> None:
    """Between two attempts, when no rank is there to be missed."""
    first = fail(rank=0).during(COMMITTED).by(SIGKILL)
    run = keeper.start("agent-killed-between", first, fail(agent=0).during(recovery()).by(SIGKILL)).ended()
    finished_like(run, whole)
    assert [lost.fault for lost in run.of(RankLost)] == [Fault.EXIT, Fault.NODE]


def test_rank_and_agent_sigkill_at_once(keeper: User, whole: Run) -> None:
    run = keeper.start("rank-and-agent", fail(rank=1).and_(agent=0).during(COMMITTED).by(SIGKILL)).ended()
    finished_like(run, whole)
    assert len(run.faults[0].struck) == 2
    assert len(run.of(RankLost)) == len(run.of(Decided)) == 1


def test_zygote_sigkill(user: User, whole: Run) -> None:
    run = user.start("zygote-killed", fail(zygote=0).at(step=9).by(SIGKILL)).ended()
    finished_like(run, whole)
    (lost,) = run.of(RankLost)
    assert lost.fault is Fault.EXIT
    assert "zygote" in (lost.error or "")
    _, second = run.of(AttemptStarted)
    assert (second.restore_step, second.restore_from) == (6, "memory")


def test_writer_sigkill_in_a_write_out(keeper: User, whole: Run) -> None:
    fault = fail(writer=0).during(write_out(6)).by(SIGKILL)
    run = keeper.start("writer-killed", fault).ended()
    assert committed_after(run, fault, 6), "it struck in time"
    finished_like(run, whole)
    assert {e.step for e in run.of(SnapshotCommitted)} >= {6, 24}, "another writer wrote it"
    assert not run.of(RankLost)
    assert not run.of(CheckpointWriteBlocked)


def test_writer_and_rank_sigkill_in_a_write_out(keeper: User, whole: Run) -> None:
    fault = fail(writer=0).and_(rank=0).during(write_out(6)).by(SIGKILL)
    run = keeper.start("writer-and-rank", fault).ended()
    assert committed_after(run, fault, 6), "it struck in time"
    finished_like(run, whole)
    assert len(fault.struck) == 2
    _, second = run.of(AttemptStarted)
    assert (second.restore_step, second.restore_from) == (6, "memory")
    assert [e.attempt for e in run.of(SnapshotCommitted) if e.step == 6] == [1], "written all the same"


# Ray takes half a minute to notice, or a whole one; the job is not to be done before.
LONG = "job.steps=3000"


@pytest.fixture(scope="module")
def without_ray(user: User) -> dict[str, Run]:
    """Two runs beside each other, of which one lost its raylet and one the GCS: most of their time is Ray's
    waiting."""

    def begin(**part: int) -> Run:
        (name,) = part
        return user.start(f"{name}-killed", fail(**part).during(COMMITTED).by(SIGKILL).keeping_pace(), LONG)

    raylet, gcs = begin(raylet=0), begin(gcs=0)
    return {"raylet": raylet.ended(), "gcs": gcs.ended()}


@pytest.fixture(scope="module")
def without_raylet(without_ray: dict[str, Run]) -> Run:
    return without_ray["raylet"]


@pytest.fixture(scope="module")
def without_gcs(without_ray: dict[str, Run]) -> Run:
    return without_ray["gcs"]


def test_raylet_sigkill(without_raylet: Run) -> None:
    assert without_raylet.code == 3, without_raylet.text
    holds(without_raylet)
    ended = without_raylet.events()[-1]
    assert isinstance(ended, RunEnded)
    assert ended.status is Status.FAILED
    assert "left the cluster" in ended.reason
    assert "error: " in without_raylet.text
    assert "Traceback" not in without_raylet.text


def test_a_cluster_of_the_runs_own_that_is_gone_is_not_waited_for(without_raylet: Run) -> None:
    times = {type(record.event): record.elapsed_s for record in without_raylet.records()}
    assert times[RunEnded] - times[RankLost] < 20


@pytest.mark.xfail(
    strict=True, reason="after 60 s Ray ends the driver in native code: exit code 1, no last event"
)
def test_gcs_sigkill(without_gcs: Run) -> None:
    holds(without_gcs)
    assert isinstance(without_gcs.events()[-1], RunEnded)
    assert without_gcs.code == 3


@pytest.mark.parametrize("name", ["without_raylet", "without_gcs"])
def test_a_run_that_lost_its_own_ray_is_taken_up(
    name: str, user: User, request: pytest.FixtureRequest
) -> None:
    lost: Run = request.getfixturevalue(name)
    nothing_left(lost)
    again = user.resume(lost.name)
    again.wait_for(StepDone)
    again.tell(SIGTERM)
    again.ended()
    assert again.code == 143, again.text
    holds(again)
    redone_alike(again)
    assert len(again.of(RunResumed)) == 1
    first, *_ = [record.event for record in again.news() if isinstance(record.event, AttemptStarted)]
    before = [record.event for record in again.records()[: again.before]]
    committed = [e.step for e in before if isinstance(e, SnapshotCommitted)]
    # An agent goes on without its driver until it notices, and what it commits meanwhile nobody writes down.
    assert first.restore_step is not None
    assert first.restore_step >= max(committed)
    assert first.restore_step % EVERY == 0
