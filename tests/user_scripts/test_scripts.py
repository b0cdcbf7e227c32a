"""Training scripts as people write them with other libraries, run unchanged.

============  ==========================  =====================================  =======================================
library       how it brings DeepSpeed     what is particular                     how it goes on after a fault
============  ==========================  =====================================  =======================================
transformers  Trainer, ``deepspeed=``     ZeRO-2, "auto" in the file, two        ``resume_from_checkpoint``: the newest
                                          checkpoints kept by the script         folder of its own
accelerate    DeepSpeedPlugin             ZeRO-1, two micro-batches a step       ``load_state``, batches skipped
lightning     DeepSpeedStrategy           ZeRO-2, two saves of the same step     ``ckpt_path="last"``
trl           SFTTrainer, ``deepspeed=``  ZeRO-3                                 as transformers
============  ==========================  =====================================  =======================================
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.events import (
    AttemptStarted,
    CheckpointLoaded,
    CheckpointSaved,
    Decided,
    EngineConfigured,
    LossRejected,
    RankLost,
    RunEnded,
    SnapshotQuarantined,
    Status,
    StepDone,
)
from orchestrator.ledger.meter import Meter
from orchestrator.script_events import ScriptSaveCompleted, ScriptSaved, StepsWithoutEngine, TokensSeen
from tests.faults.runs import MARKS, Run
from tests.user_scripts.runs import (
    EVERY,
    JOBS,
    KILLED_AT,
    STEPS,
    TRANSFORMERS,
    WITHOUT_DEEPSPEED,
    Job,
    ScriptUser,
)

pytestmark = MARKS

EVERY_JOB = pytest.mark.parametrize("job", JOBS, ids=str)
# The journal has the mean over ranks in double precision, and the libraries take theirs in single precision.
SINGLE = 1e-6


@EVERY_JOB
def test_it_trains_to_its_end(job: Job, user: ScriptUser) -> None:
    run = user.whole(job)
    assert run.code == 0, run.text
    steps = run.of(StepDone)
    assert [one.step for one in steps] == list(range(1, STEPS + 1)), "one for each step of the optimizer"
    assert all(one.loss is not None and math.isfinite(one.loss) for one in steps)
    assert steps[-1].loss < steps[0].loss, "it learns"
    assert {one.step for one in run.of(CheckpointSaved)} == set(range(EVERY, STEPS + 1, EVERY))


@EVERY_JOB
def test_it_is_billed_and_nothing_is_called_a_failure(job: Job, user: ScriptUser) -> None:
    run = user.whole(job)
    assert run.events()[-1] == RunEnded(Status.FINISHED, "the job ended by itself")
    assert not run.of(RankLost) + run.of(Decided) + run.of(LossRejected)
    bill = Meter().fold_all(run.records()).bill()
    assert bill.cost_usd > 0
    assert bill.cost_usd == pytest.approx(bill.gpu_hours * 0.048)
    assert (bill.restarts, bill.steps) == (0, STEPS)
    summary = run.text.rpartition(f"{run.name} finished")[2]
    assert "cost" in summary
    for word in ("failed", "incidents", "Traceback", "probe"):
        assert word not in summary + run.text.partition("[rank 0]")[0], run.text


@EVERY_JOB
def test_its_losses_are_those_of_torchrun(job: Job, user: ScriptUser) -> None:
    run, plain = user.whole(job), job.logged(user.under_torchrun(job))
    assert list(plain) == list(range(1, STEPS + 1))
    assert job.logged(run.folder / "checkpoints") == plain, (
        "to the last digit, as the library writes them down"
    )
    assert run.losses() == pytest.approx(plain, rel=SINGLE), "and as the journal has them"


@pytest.mark.parametrize("job", [WITHOUT_DEEPSPEED], ids=str)
def test_without_deepspeed_its_steps_and_losses_are_seen_as_well(job: Job, user: ScriptUser) -> None:
    run = user.whole(job)
    assert run.code == 0, run.text
    assert [one.optimizer for one in run.of(StepsWithoutEngine)] == ["AdamW"]
    assert run.losses() == pytest.approx(job.logged(run.folder / "checkpoints"), rel=SINGLE)
    assert {one.step for one in run.of(ScriptSaved)} == set(range(EVERY, STEPS + 1, EVERY))
    bill = Meter().fold_all(run.records()).bill()
    assert bill.goodput > 0
    assert run.of(TokensSeen) == [TokensSeen(1, 1, 2 * 2 * 4 * 64)], "ranks, micro-batches, sequences, tokens"
    assert bill.tokens == STEPS * 1024
    whole = [(one.step, Path(one.path).name) for one in run.of(ScriptSaveCompleted)]
    assert (STEPS, f"checkpoint-{STEPS}") in whole, "it keeps two, so others may be gone before they are seen"
    assert "every rank holds all states (Trainer of transformers)" in (run.folder / "plan.txt").read_text()


@EVERY_JOB
def test_a_killed_rank_costs_no_step(job: Job, user: ScriptUser) -> None:
    run = user.killed(job)
    assert run.code == 0, run.text
    (lost,) = run.of(RankLost)
    assert (lost.rank, lost.reason) == (1, "killed by SIGKILL")
    assert [one.action for one in run.of(Decided)] == ["restart"]
    first, second = run.of(AttemptStarted)
    (loaded,) = run.of(CheckpointLoaded)
    assert first.restore_step is None
    assert loaded.step == second.restore_step == newest_save_before(run, lost)
    assert sorted(run.losses()) == list(range(1, STEPS + 1))
    assert run.events()[-1] == RunEnded(Status.FINISHED, "the job ended by itself")
    assert max(job.logged(run.folder / "checkpoints")) == STEPS, "and the library counts as many"


@EVERY_JOB
def test_after_a_kill_it_goes_on_where_it_was(job: Job, user: ScriptUser) -> None:
    whole, killed = user.whole(job), user.killed(job)
    if job.goes_on_exactly:
        assert killed.losses() == whole.losses(), "to the last digit"
    else:
        assert killed.losses() == pytest.approx(whole.losses(), rel=0.1), "batches are drawn anew"


@pytest.mark.parametrize(
    "job",
    [replace(JOBS[0], script="transformers_half_saved.py", args={**TRANSFORMERS, "save_total_limit": 3})],
    ids=str,
)
def test_a_trainer_that_dies_within_a_save_goes_on_from_the_one_before(job: Job, user: ScriptUser) -> None:
    run = user.run("half", job)
    assert run.code == 0, run.text
    starts = [(one.restore_step, Path(one.restore_path).name) for one in run.of(AttemptStarted)]
    assert starts == [(None, ""), (15, "checkpoint-15"), (10, "checkpoint-10")]
    (aside,) = run.of(SnapshotQuarantined)
    assert Path(aside.path).parent == run.folder / "checkpoints" / ".quarantine"
    assert (Path(aside.path) / "global_step15").is_dir()
    assert sorted(run.losses()) == list(range(1, STEPS + 1))
    plan = (run.folder / "plan.txt").read_text()
    assert (
        "with --resume_from_checkpoint={checkpoint} from the second attempt on, which the script knows"
        in plan
    )
    made = run.of(EngineConfigured)
    assert {(one.global_batch, one.micro_batch, one.zero_stage) for one in made} == {(16, 8, 2)}


def newest_save_before(run: Run, lost: RankLost) -> int:
    """Of the attempt that the rank was lost from; the kill comes some steps after it was asked for."""
    assert KILLED_AT <= lost.step < STEPS
    return max(one.step for one in run.of(CheckpointSaved) if one.attempt == lost.attempt)
