"""Training without DeepSpeed is seen as well: steps, losses, what is saved, and whose loss is none."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from orchestrator.errors import TrainingFailed
from orchestrator.events import MetricLogged, StepDone
from orchestrator.ledger.meter import Meter
from orchestrator.script_events import LossNotFinite, ScriptSaved, StepsWithoutEngine
from tests.faults.runs import UNTRACKED, Run, User
from tests.real.conftest import CPU
from tests.support.folders import SCRIPTS

pytestmark = pytest.mark.real

STEPS = 12


def run(folder: Path, kept: dict[str, str], name: str, *words: str) -> Run:
    user = User(folder)
    user.environment = kept
    script = ["job=script", f"job.script={SCRIPTS / 'plain_ddp.py'}", f"+job.args.out={folder}"]
    return user._begin(name, [f"run_name={name}", *CPU, UNTRACKED, *script, *words], []).ended()


def test_a_run_with_ddp_alone_is_seen_step_by_step(tmp_path: Path, kept: dict[str, str]) -> None:
    whole = run(tmp_path, kept, "plain", "job.tokens_per_step=64")
    assert whole.code == 0, whole.text
    steps = whole.of(StepDone)
    assert [one.step for one in steps] == list(range(1, STEPS + 1))
    theirs = json.loads((tmp_path / "losses.json").read_text())
    assert [one.loss for one in steps] == pytest.approx(theirs, rel=1e-5), "the mean over ranks"
    assert {one.lr for one in steps} == {1e-2}
    assert whole.of(StepsWithoutEngine) == [StepsWithoutEngine(1, "AdamW")]
    (saved,) = whole.of(ScriptSaved)
    assert (saved.rank, saved.step, saved.path) == (0, 6, str(tmp_path / "model.pt"))
    (metric,) = whole.of(MetricLogged)
    assert math.isnan(metric.metrics["val_loss"])
    bill = Meter().fold_all(whole.records()).bill()
    assert (bill.steps, bill.tokens) == (STEPS, 64 * STEPS)
    assert bill.goodput > 0
    shown = [line for line in whole.text.splitlines() if "training:" in line]
    assert len(shown) == 1, whole.text
    assert "12/12" in shown[0], "of a progress bar its last state"


def test_a_loss_that_is_none_names_its_rank(tmp_path: Path, kept: dict[str, str]) -> None:
    ended = run(tmp_path, kept, "nan", "+job.args.nan=7", "recovery.max_restarts=0")
    assert ended.code == TrainingFailed.exit_code, ended.text
    assert ended.of(LossNotFinite)[0] == LossNotFinite(1, 7, [1], 1, 2)
    assert "loss of step 7 rejected: the loss is nan on rank 1 alone" in ended.text
