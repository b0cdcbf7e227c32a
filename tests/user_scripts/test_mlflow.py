"""transformers' Trainer with ``--report_to=mlflow``, and a rank that is killed: what it logs is in the run."""

from __future__ import annotations

from signal import SIGKILL

import pytest

from orchestrator.events import AttemptStarted, ScriptTracked
from orchestrator.ledger.mlflow.projection import Projection
from tests.faults.faults import fail
from tests.faults.runs import MARKS
from tests.user_scripts.runs import KILLED_AT, STEPS, TRANSFORMERS, Job, ScriptUser, of_the_trainer

pytestmark = MARKS
JOB = Job("transformers", "transformers_trainer.py", of_the_trainer, {**TRANSFORMERS, "report_to": "mlflow"})


@pytest.mark.parametrize("job", [JOB], ids=str)
def test_the_trainers_figures_are_in_the_run_once(job: Job, user: ScriptUser) -> None:
    run = user.run("transformers-mlflow", job, fail(rank=1).at(step=KILLED_AT).by(SIGKILL))
    assert run.code == 0, run.text
    assert len(run.of(AttemptStarted)) == 2
    assert {one.rank for one in run.of(ScriptTracked)} == {0}
    projection = Projection(1e9)
    points = [point for record in run.records() for point in projection.fold(record)]
    losses = {point.step: point.value for point in points if point.key == "job/loss"}
    assert losses == of_the_trainer(run.folder / "checkpoints"), "every step, to the last digit"
    assert len([point for point in points if point.key == "learning_rate"]) == STEPS, "and none twice"
    assert projection.script.params["max_steps"] == str(STEPS)
    assert not (user.folder / "mlflow.db").exists()
    assert not (user.folder / "mlruns").exists()
