"""What the batch script of Slurm says; `tests/services/test_exported_slurm.py` submits one."""

from __future__ import annotations

import math
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import ConfigError
from orchestrator.export.formats import render
from orchestrator.export.slurm import p90_hours
from tests.unit.export.orders import order, rendered

ALONE = ("cluster=dgx_h100", "job=tiny_gpt", "cluster.nodes=1")
DGX = ("cluster=dgx_h100", "job=llama3_8b", "cluster.nodes=4")


def script(*words: str, **sections: Mapping[str, Any]) -> str:
    (text,) = rendered("slurm", *words, **sections).files.values()
    return text


def directives(*words: str, **sections: Mapping[str, Any]) -> dict[str, str]:
    lines = [
        line.removeprefix("#SBATCH --")
        for line in script(*words, **sections).splitlines()
        if line.startswith("#SBATCH")
    ]
    return {name: value for name, _, value in (line.partition("=") for line in lines)}


def test_the_job_has_the_plan_s_nodes_and_is_requeued_in_the_same_log() -> None:
    found = directives(*DGX)
    assert found.items() >= {
        "nodes": "4", "ntasks-per-node": "1", "gres": "gpu:8", "cpus-per-task": "64", "exclusive": "",
        "requeue": "", "open-mode": "append", "time": "1-00:00:00",
    }.items()  # fmt: skip
    assert list(rendered("slurm", *DGX).files) == ["llama3-8b-dgx-h100.sbatch"]


def test_the_signal_leaves_time_to_save_and_for_slurm_s_own_minute() -> None:
    # 30 s to stop; 112 GB in all, 28 a node at 0.28 GB/s: 100 s, after 1.2 s of staging; 30 s for Ray; 60 s
    assert directives(*DGX)["signal"] == f"B:USR1@{30 + 2 + 100 + 30 + 60}"
    slow = directives(*DGX, cluster={"storage_bytes_per_s": 1e8}, recovery={"stop_grace_s": 100})
    assert int(slow["signal"].partition("@")[2]) > 1000


def test_a_time_in_which_nothing_but_saving_is_done_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"slurm.time_hours=0.05: .* write e.g. slurm.time_hours=1$"):
        rendered("slurm", *DGX, slurm={"time_hours": 0.05})
    assert directives(*DGX, slurm={"time_hours": math.inf})["time"] == "UNLIMITED"


def test_sites_have_their_own_words() -> None:
    found = directives(
        *DGX,
        slurm={
            "partition": "gpu", "account": "lab", "qos": "high", "constraint": "h100", "switches": 1,
            "gpus": "gpu:h100:8", "directives": ["--reservation=llm"], "exclusive": False,
        },
    )  # fmt: skip
    assert found.items() >= {
        "partition": "gpu", "account": "lab", "qos": "high", "constraint": "h100", "switches": "1@0-12:00:00",
        "gres": "gpu:h100:8", "reservation": "llm",
    }.items()  # fmt: skip
    assert "\nmodule load cuda\npython=" in script(*DGX, slurm={"setup": ["module load cuda"]})
    assert "exclusive" not in found
    assert found["mem"] != "0", "what the plan asks of a node that others are on"


def test_it_goes_on_by_name_and_says_again_what_was_typed() -> None:
    text = script(*DGX, "++job.args.lr=1e-3", "slurm.partition=gpu")
    assert "    ++job.args.lr=1e-3\n" in text
    assert "    job.resume=auto\n" in text
    assert "slurm.partition" not in text, "what is said to Slurm is not said to the run"
    assert 'run_name="$SLURM_JOB_NAME-${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}"' in text
    (text,) = render(
        replace(order(*DGX), config=replace(order(*DGX).config, run_name="night")), "slurm"
    ).files.values()
    assert 'run_name="night"' in text


def test_one_node_needs_no_other_node_s_ray() -> None:
    assert "srun" not in script(*ALONE)
    assert "orchestrator.cluster.warm.join" in script(*DGX)


def test_a_sweep_is_a_job_array_with_the_words_of_each_task() -> None:
    swept = replace(order(*DGX), array=(("job.args.lr=1e-3",), ("job.args.lr=2e-3",), ("job.args.lr=a b",)))
    (text,) = render(swept, "slurm").files.values()
    assert "#SBATCH --array=0-2%1\n" in text
    assert "    1) words+=(job.args.lr=2e-3) ;;\n" in text
    assert "    2) words+=('job.args.lr=a b') ;;\n" in text
    assert '-$SLURM_ARRAY_TASK_ID"' in text


@pytest.mark.parametrize("words", [DGX, ALONE])
def test_bash_reads_it(words: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "job.sh").write_text(script(*words))
    bash = shutil.which("bash")
    assert bash is not None
    done = subprocess.run([bash, "-n", tmp_path / "job.sh"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def minutes_of(*words: str, **keys: Any) -> int:
    days, _, clock = directives(*words, slurm=keys)["time"].partition("-")
    hours, minutes, _ = clock.split(":")
    return int(days) * 1440 + int(hours) * 60 + int(minutes)


def test_a_short_job_asks_for_what_nine_of_ten_take_and_a_long_one_for_what_is_allowed() -> None:
    short = (*DGX, "job.steps=500")
    prediction, lead_s = order(*short).plan.prediction, 30 + 2 + 100 + 30 + 60
    needed = p90_hours(prediction)
    assert needed is not None
    assert prediction.hours is not None
    assert prediction.hours < needed < 12, "a range, and not the expected time"
    assert minutes_of(*short) == math.ceil(needed * 60 + lead_s / 60)
    assert any("nine of ten" in one for one in rendered("slurm", *short).remarks)
    assert minutes_of(*short, time_hours=3.0) == 180
    assert minutes_of(*DGX) == 24 * 60
    assert minutes_of(*DGX, most_time_hours=48.0) == 48 * 60
    assert not any("nine of ten" in one for one in rendered("slurm", *DGX).remarks)
    with pytest.raises(
        ConfigError, match=r"slurm.most_time_hours=0.05: .* write e.g. slurm.most_time_hours=1$"
    ):
        rendered("slurm", *DGX, slurm={"most_time_hours": 0.05})


def test_nine_of_ten_is_the_slower_of_what_steps_and_interruptions_make_it() -> None:
    known = replace(order(*DGX).plan.prediction, hours=10.0, step_time_s=1.0, step_time_high_s=1.5, costs=())
    assert p90_hours(known) == 15.0
    (cost, *_) = order(*DGX).plan.prediction.costs
    assert p90_hours(replace(known, costs=(replace(cost, usd=100.0, high_usd=180.0),))) == 18.0
    assert p90_hours(replace(known, step_time_high_s=None)) == 10.0
    assert p90_hours(replace(known, hours=None)) is None
