"""A script in Trainer's manner, unchanged: told by an argument to go on, with a half-written folder in its
way, and with a DeepSpeed file of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.events import (
    AttemptStarted,
    CheckpointLoaded,
    EngineConfigured,
    RankLost,
    RunEnded,
    SnapshotQuarantined,
    Status,
    StepDone,
)
from orchestrator.ledger.journal import replay
from tests.faults.runs import UNTRACKED
from tests.real.conftest import CPU
from tests.support.folders import SCRIPTS

pytestmark = pytest.mark.real


def test_a_rank_that_dies_within_a_save_costs_the_steps_since_the_one_before(
    kept: dict[str, str], tmp_path: Path
) -> None:
    words = ["run_name=half", f"run_root={tmp_path}/runs", *CPU, UNTRACKED, "job=script"]
    words += [f"job.script={SCRIPTS / 'trainer_like.py'}", "+job.args.output_dir={checkpoint_dir}"]
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator", *words], cwd=tmp_path, env=kept, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    text = done.stdout + done.stderr
    assert done.returncode == 0, text
    events = [record.event for record in replay(tmp_path / "runs" / "half" / "journal.jsonl")]
    kept_there = tmp_path / "runs" / "half" / "checkpoints"

    starts = [event for event in events if isinstance(event, AttemptStarted)]
    assert [(one.restore_step, one.restore_alone) for one in starts] == [
        (None, False),
        (15, True),
        (10, True),
    ]
    killed, failed = (event for event in events if isinstance(event, RankLost))
    assert (killed.exit_status, failed.exit_status) == (-9, 1)
    assert "trainer_state.json" in (failed.error or "")
    (aside,) = (event for event in events if isinstance(event, SnapshotQuarantined))
    assert aside.path == str(kept_there / ".quarantine" / "checkpoint-15.1")
    assert (Path(aside.path) / "global_step15" / "manifest.json").is_file(), (
        "put aside as a whole, not removed"
    )
    loaded = [event.step for event in events if isinstance(event, CheckpointLoaded)]
    assert loaded == [10]
    assert {event.step for event in events if isinstance(event, StepDone)} == set(range(1, 21))
    assert events[-1] == RunEnded(Status.FINISHED, "the job ended by itself")
    for step in (5, 10, 15, 20):
        assert json.loads((kept_there / f"checkpoint-{step}" / "trainer_state.json").read_text()) == step

    made = [event for event in events if isinstance(event, EngineConfigured)]
    assert [one.attempt for one in made] == [1, 2, 3]
    assert {(one.global_batch, one.micro_batch, one.accumulation, one.world_size) for one in made} == {
        (32, 8, 2, 2)
    }
    assert made[0].planned["global_batch"] == 2
    assert "batch 32 instead of 2" in text
    plan = (tmp_path / "runs" / "half" / "plan.txt").read_text()
    assert "resume      with --resume_from_checkpoint={checkpoint} from the second attempt on" in plan
