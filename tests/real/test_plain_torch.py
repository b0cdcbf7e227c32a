"""Training without DeepSpeed, by torchrun's command as it is typed: what the ranks are given, and what is seen of
them: steps, losses, what is saved, and whose loss is none."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

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


def run(folder: Path, kept: dict[str, str], name: str, before: list[str], words: list[str]) -> Run:
    user = User(folder)
    user.environment = kept
    command = ["torchrun", "--nproc_per_node=2", "--standalone", str(SCRIPTS / "plain_ddp.py"), *words]
    told = [f"run_name={name}", "gpu=cpu", *CPU[2:], UNTRACKED, *before]
    return user._begin(name, [*told, "--", *command, f"--out={folder}"], []).ended()


def seen_by(run: Run, rank: int) -> dict[str, Any]:
    log = (run.folder / "logs" / f"attempt-1.rank-{rank}.log").read_text()
    (line,) = [one for one in log.splitlines() if one.startswith("SAW ")]
    saw: dict[str, Any] = json.loads(line.removeprefix("SAW "))
    return saw


def test_torchruns_command_with_ddp_alone_is_seen_step_by_step(tmp_path: Path, kept: dict[str, str]) -> None:
    typed = ["12", "6", "--bf16", "--layers", "1", "2", "3"]
    whole = run(tmp_path, kept, "plain", ["job.tokens_per_step=64"], typed)
    assert whole.code == 0, whole.text
    assert "as cluster.gpus_per_node=2; --standalone left out" in whole.text
    for rank in (0, 1):
        saw = seen_by(whole, rank)
        assert saw["argv"] == [*typed, f"--out={tmp_path}"]
        of_words = {name: saw["args"][name] for name in ("total", "every", "bf16", "layers", "local_rank")}
        assert of_words == {"total": 12, "every": 6, "bf16": True, "layers": [1, 2, 3], "local_rank": None}
        assert (saw["elastic"], saw["TORCHELASTIC_USE_AGENT_STORE"]) == (True, "False")
        assert (saw["RANK"], saw["ROLE_RANK"], saw["GROUP_WORLD_SIZE"]) == (str(rank), str(rank), "1")
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
    ended = run(tmp_path, kept, "nan", ["recovery.max_restarts=0"], ["--nan=7"])
    assert ended.code == TrainingFailed.exit_code, ended.text
    assert ended.of(LossNotFinite)[0] == LossNotFinite(1, 7, [1], 1, 2)
    assert "loss of step 7 rejected: the loss is nan on rank 1 alone" in ended.text
