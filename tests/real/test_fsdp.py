"""FSDP with torch's distributed checkpoints, unchanged: seen, told to go on, and led past what cannot be
loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.events import AttemptStarted, Decided, RankLost, SnapshotQuarantined, StepDone
from orchestrator.script_events import ScriptSaveCompleted, ScriptSaved, StepsWithoutEngine
from tests.faults.runs import UNTRACKED, Run, User
from tests.real.conftest import CPU
from tests.support.folders import SCRIPTS

pytestmark = pytest.mark.real

STEPS = list(range(1, 13))


def run(folder: Path, kept: dict[str, str], name: str, *words: str) -> Run:
    user = User(folder)
    user.environment = kept
    script = ["job=script", f"job.script={SCRIPTS / 'fsdp_saves.py'}", "+job.args.out={checkpoint_dir}"]
    return user._begin(name, [f"run_name={name}", *CPU, UNTRACKED, *script, *words], []).ended()


def test_both_kinds_of_fsdp_are_seen_and_one_goes_on_from_what_can_be_loaded(
    tmp_path: Path, kept: dict[str, str]
) -> None:
    whole = run(tmp_path, kept, "fsdp1", "+job.args.fsdp=1")
    assert whole.code == 0, whole.text
    assert [one.step for one in whole.of(StepDone)] == STEPS
    assert whole.of(StepsWithoutEngine) == [StepsWithoutEngine(1, "AdamW")]
    for kind in (ScriptSaved, ScriptSaveCompleted):
        saved = [(one.step, Path(one.path).name) for one in whole.of(kind)]
        assert sorted(saved) == [(step, f"step_{step}") for step in (3, 6, 9, 12)]

    struck = run(tmp_path, kept, "fsdp2", "+job.args.die_at=10", "+job.args.unloadable=9")
    assert struck.code == 0, struck.text
    starts = [Path(one.restore_path).name for one in struck.of(AttemptStarted)]
    assert starts == ["", "step_9", "step_6"]
    killed, failed = struck.of(RankLost)
    assert (killed.exit_status, failed.exit_status, failed.step) == (-9, 1, 0)
    _, passed_over = struck.of(Decided)
    assert "step_9 is put aside, from which nothing could be begun" in passed_over.reason
    (aside,) = struck.of(SnapshotQuarantined)
    assert (Path(aside.path) / ".metadata").is_file(), "put aside as a whole, and not removed"
    assert struck.losses() == pytest.approx(whole.losses(), rel=1e-5), "as if nothing had happened"
    assert sorted(struck.losses()) == STEPS
