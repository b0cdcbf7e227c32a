"""A script of transformers finds it imported when it begins, and trains what it trains under torchrun."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults.runs import MARKS
from tests.user_scripts.runs import JOBS, WITHOUT_DEEPSPEED, Job, ScriptUser

pytestmark = MARKS

TOLD = """
import os, sys
print("THERE", *(name for name in {names} if name in sys.modules), flush=True)
if "lightning.fabric" in sys.modules:
    from lightning.fabric.utilities.rank_zero import rank_zero_only
    from torchmetrics.utilities import prints
    told = rank_zero_only.rank, prints.rank_zero_only.rank
    print("RANK", told == (int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])), flush=True)
"""
MODULES = {
    "transformers_trainer.py": (
        "transformers.trainer",
        "accelerate",
        "transformers.models.gpt2.modeling_gpt2",
    ),
    "lightning_fit.py": ("lightning.pytorch.trainer.trainer",),
}


@pytest.mark.parametrize(
    "job", [JOBS[0], WITHOUT_DEEPSPEED, next(job for job in JOBS if job.library == "lightning")], ids=str
)
def test_it_finds_its_libraries_imported_and_trains_the_same(job: Job, user: ScriptUser) -> None:
    names = MODULES[job.script]
    source = (user.folder / job.script).read_text()
    future = "from __future__ import annotations\n"
    (user.folder / "told.py").write_text(source.replace(future, future + TOLD.format(names=names), 1))
    run = user.run(f"{job}-preloaded", replace(job, script="told.py"))
    assert run.code == 0, run.text
    for rank in range(2):
        log = (run.folder / "logs" / f"attempt-1.rank-{rank}.log").read_text()
        assert f"THERE {' '.join(names)}\n" in log, run.text + log
        assert "RANK False" not in log, "Lightning and torchmetrics read it when they are imported"
    assert f"{job.library}" in next(
        line for line in run.text.splitlines() if "the zygote has imported" in line
    )
    assert job.logged(_output(run.folder)) == job.logged(user.under_torchrun(job))


def _output(folder: Path) -> Path:
    return folder / "checkpoints"
