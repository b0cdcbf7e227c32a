"""Three of the twelve scripts of tests/user_scripts, with one kill each: a Trainer with DeepSpeed and "auto" in its
file, DDP with positional arguments, and a shell script that starts it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.cluster.warm.record import WarmCluster
from orchestrator.events import AttemptStarted, EngineConfigured, RankLost, RunEnded, Status
from orchestrator.script_events import StepsWithoutEngine
from tests.faults.runs import Run
from tests.support.script_forms import FORMS, Form, FormUser, hung_at_the_end

pytestmark = pytest.mark.real

TRAINER, DDP, SHELL = (
    next(form for form in FORMS if form.name == name) for name in ("trainer-deepspeed", "ddp", "shell")
)


@pytest.fixture(scope="module")
def user(kept: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[FormUser]:
    record = Path(kept["XDG_STATE_HOME"], "orchestrator", "cluster.json")
    one = FormUser(tmp_path_factory.mktemp("forms"), kept, WarmCluster(**json.loads(record.read_text())))
    yield one
    for run in one.runs:
        run.kill()


def killed_once(form: Form, user: FormUser, losses: dict[int, float]) -> Run:
    run, written = user.killed(form, 1)
    assert run.code == 0, run.text
    assert written.losses() == losses, "to the last digit"
    assert [{step} for step in written.begun_at()] == form.begins(1), run.text
    assert len(run.of(AttemptStarted)) == 2 + hung_at_the_end(run)
    lost = run.of(RankLost)[0]
    assert (lost.rank, lost.exit_status) == (1, -9)
    assert run.events()[-1] == RunEnded(Status.FINISHED, "the job ended by itself")
    assert f"resume      {form.resume}" in (run.folder / "plan.txt").read_text()
    return run


def test_a_trainer_with_deepspeed_and_auto_in_its_file(user: FormUser) -> None:
    run = killed_once(TRAINER, user, user.launched(TRAINER))
    assert {(one.global_batch, one.zero_stage) for one in run.of(EngineConfigured)} == {(16, 2)}


def test_a_script_with_positional_arguments_and_the_shell_script_that_starts_it(user: FormUser) -> None:
    losses = user.launched(SHELL)  # it starts the same training, with the same words
    run = killed_once(DDP, user, losses)
    assert {one.optimizer for one in run.of(StepsWithoutEngine)} == {"AdamW"}
    run = killed_once(SHELL, user, losses)
    assert "of what runs inside, the Python process that trains is seen" in run.text
    assert {one.optimizer for one in run.of(StepsWithoutEngine)} == {"AdamW"}
    assert "training for 20 epochs on Linux, rank 0 of 2" in run.text
