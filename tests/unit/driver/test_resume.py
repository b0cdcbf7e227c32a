"""A run that is taken up again: what its next driver knows, and what its user types."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

import pytest

import orchestrator as orc
from orchestrator.cli.args import parse
from orchestrator.config.command_line import forms, words
from orchestrator.config.command_line.launch import LOCAL_RANK_FLAG, Launch
from orchestrator.config.composing import composed
from orchestrator.config.resume_changes import Wishes
from orchestrator.driver.preflight import plan_of
from orchestrator.driver.resume import how_to_go_on, remember, resumable, unfinished
from orchestrator.errors import ConfigError, RunDirectoryError
from orchestrator.events import (
    AttemptStarted,
    CheckpointSaved,
    LossRejected,
    Record,
    RunEnded,
    RunStarted,
    SnapshotCommitted,
    Status,
    StepDone,
)
from orchestrator.ledger.journal import Journal
from orchestrator.ledger.run_directory import RunDirectory, find_run
from orchestrator.vocabulary import ProgramKind


def test_what_another_driver_has_done_since_is_known_to_the_one_that_takes_the_run_up(tmp_path: Path) -> None:
    """Between the first look at a run and the moment its directory is held somebody else may have had it."""
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        journal.append(RunStarted("r", "j", "local", "cpu", 2, 0.1))
        journal.append(AttemptStarted(1, "127.0.0.1", 29500, 2))
        journal.append(StepDone(1, 1, 0.5, 2.0))
    found = unfinished(tmp_path)
    assert found is not None
    assert found.resumed.because == "its driver was lost after step 1"
    with Journal(path) as journal:
        journal.append(AttemptStarted(2, "127.0.0.1", 29500, 2))
        journal.append(StepDone(2, 2, 0.5, 9.0))
        journal.append(LossRejected(2, 2, 9.0, "a spike"))
        journal.append(RunEnded(Status.INTERRUPTED, "stopped"))
    past = found.folded().resume_state
    assert (past.attempts, past.history.reached) == (2, 2)
    assert [loss for _, loss in past.losses._accepted] == [2.0], "a rejected loss is none to compare with"
    assert found.resumed.because == "it had ended as interrupted at step 2"
    with Journal(path, after=found.fold.mark) as journal:
        journal.append(RunEnded(Status.FINISHED, "the job ended by itself"))
    with pytest.raises(RunDirectoryError, match="its run has finished meanwhile"):
        found.folded()
    assert unfinished(tmp_path) is None


@pytest.mark.parametrize(("steps", "is_refused"), [(3, True), (4, True), (5, False), (9, False)])
def test_fewer_steps_than_it_has_saved_are_refused_before_anything_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int, is_refused: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    config = orc.compose("gpu=cpu", "run_name=r", "job.steps=8")
    directory = RunDirectory(tmp_path / "runs" / "r")
    directory.hold()
    remember(config, directory)
    with Journal(directory.path / "journal.jsonl") as journal:
        journal.append(RunStarted("r", "j", "local", "cpu", 2, 0.1))
        journal.append(AttemptStarted(1, "127.0.0.1", 29500, 2))
        for step in range(1, 7):
            journal.append(StepDone(1, step, 0.5, 2.0))
        journal.append(CheckpointSaved(1, 4, "step-4", "step-4", 0.1, staged=True))
        journal.append(SnapshotCommitted(1, 4, "step-4", "step-4", 10, 0.1))
        journal.append(INTERRUPTED.event)
    directory.release()
    words = ["gpu=cpu", f"job.steps={steps}"]
    wishes = Wishes(words[1:], composed(words).config, by_name=True)
    if not is_refused:
        assert resumable(directory.path, wishes)[0].job.steps == steps
        return
    with pytest.raises(ConfigError, match=f"job.steps={steps}: the run has saved step 4, so that nothing"):
        resumable(directory.path, wishes)


INTERRUPTED = Record(3, 1.0, 1.0, RunEnded(Status.INTERRUPTED, "stopped by Ctrl-C"))
OF_LAUNCHERS = Launch(
    ProgramKind.SCRIPT, "train.py", (LOCAL_RANK_FLAG, "--x={run_dir}", "${y}"), ranks_per_node=2,
    ranks_were_given=True, environment={"ACCELERATE_A": "${c},d"}, keys={"recovery.max_restarts": 7},
)  # fmt: skip
FORMS = {
    "torchrun": ["torchrun", "--nproc_per_node=2", "train.py", "${y}"],
    "deepspeed": ["deepspeed", "--num_gpus=2", "train.py"],
    "accelerate": ["accelerate", "launch", "--cpu", "train.py"],
    "python": ["python", "-O", "train.py", "a b", "--x", "null", "1.10", "True"],
    "module": ["python", "-m", "pkg.train", "+a=[1,2]"],
    "variables": ["env", "A=${b},1", "python", "train.py"],
    "shell": ["bash", "train.sh", "$1"],
    "program": ["./train.sh", "--local_rank={local_rank}"],
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_a_command_as_it_was_typed_is_gone_on_with_by_what_the_end_of_its_run_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        words, "launch_of", lambda command, cwd: forms.launch_of(command, cwd, lambda *_: OF_LAUNCHERS)
    )
    (tmp_path / "pkg").mkdir()
    for name in ("train.py", "pkg/__init__.py", "pkg/train.py", "train.sh"):
        (tmp_path / name).write_text("")
    (tmp_path / "train.sh").chmod(0o755)
    config = orc.compose("gpu=cpu", "run_name=a run", "env.B=1,2", "--", *form)
    directory = RunDirectory(Path(config.run_root) / str(config.run_name))
    directory.hold()
    remember(config, directory)
    with Journal(directory.path / "journal.jsonl") as journal:
        journal.append(RunStarted("a run", "j", "local", "cpu", 2, 0.1))
        journal.append(INTERRUPTED.event)
    directory.release()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for cwd in (tmp_path, elsewhere):
        os.chdir(tmp_path)
        hint = how_to_go_on(INTERRUPTED, directory.path, cwd)
        assert hint is not None
        python, *typed = shlex.split(hint.partition(": ")[2])
        os.chdir(cwd)
        assert shutil.which(python) == sys.executable
        assert typed[:3] == ["-m", "orchestrator", "resume"]
        asked = parse(typed[2:])
        again, _found = resumable(find_run(asked.run, "runs"))
        assert Path.cwd() == tmp_path, "where the run was started"
        assert again.job == config.job
        before, after = plan_of(config, observed=False), plan_of(again, observed=False)
        assert (after.command(), after.args, after.environment, after.layout) == (
            before.command(), before.args, before.environment, before.layout,
        )  # fmt: skip


def test_nothing_is_to_be_typed_for_a_run_that_has_finished_or_has_said_nothing(tmp_path: Path) -> None:
    finished = Record(3, 1.0, 1.0, RunEnded(Status.FINISHED, "the job ended by itself"))
    assert how_to_go_on(finished, tmp_path, tmp_path) is None
    assert how_to_go_on(None, tmp_path, tmp_path) is None
    failed = Record(3, 1.0, 1.0, RunEnded(Status.FAILED, "the job's own fault"))
    assert str(how_to_go_on(failed, tmp_path, tmp_path)).endswith(f"resume {shlex.quote(str(tmp_path))}")
