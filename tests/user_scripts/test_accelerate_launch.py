"""What ``accelerate launch`` reads from flags and its file, and what it tells a script."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from orchestrator.config.command_line import child
from orchestrator.errors import ConfigError
from orchestrator.vocabulary import ProgramKind
from tests.user_scripts.runs import JOBS

DEEPSPEED = """
compute_environment: LOCAL_MACHINE
distributed_type: DEEPSPEED
num_machines: 2
num_processes: 8
machine_rank: 0
main_process_ip: 10.0.0.1
main_process_port: 29500
mixed_precision: bf16
deepspeed_config:
  zero_stage: 3
  gradient_accumulation_steps: 4
  zero3_init_flag: true
"""
ASK = "accelerate launch"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    if find_spec("accelerate") is None:
        job = next(job for job in JOBS if job.library == "accelerate")
        pytest.skip(str(job.missing()))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    (tmp_path / "acc.yaml").write_text(DEEPSPEED)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_its_file_with_a_deepspeed_section_becomes_cluster_stage_and_variables() -> None:
    launch = child.ask(ASK, ["--config_file", "acc.yaml", "train.py", "--bf16"])
    assert (launch.kind, launch.program, launch.argv) == (ProgramKind.SCRIPT, "train.py", ("--bf16",))
    assert (launch.nodes, launch.ranks_per_node, launch.ranks_were_given) == (2, 4, True)
    assert launch.keys == {"deepspeed": "zero3"}
    said = launch.environment
    assert said["ACCELERATE_USE_DEEPSPEED"] == "true"
    assert (said["ACCELERATE_DEEPSPEED_ZERO_STAGE"], said["ACCELERATE_MIXED_PRECISION"]) == ("3", "bf16")
    assert said["ACCELERATE_GRADIENT_ACCUMULATION_STEPS"] == "4"
    assert "zero_stage" in said["ACCELERATE_CONFIG_DS_FIELDS"]
    assert not {"MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS"} & set(said)


def test_its_flags_become_ranks_and_variables() -> None:
    flags = [
        "--cpu",
        "--num_processes=2",
        "--num_machines=1",
        "--mixed_precision=no",
        "--main_process_port=1",
    ]
    launch = child.ask(ASK, [*flags, "-m", "pkg.train", "--main_process_port"])
    assert (launch.kind, launch.program, launch.argv) == (
        ProgramKind.MODULE,
        "pkg.train",
        ("--main_process_port",),
    )
    assert (launch.nodes, launch.ranks_per_node, launch.keys) == (1, 2, {"gpu": "cpu"})
    assert launch.environment["ACCELERATE_USE_CPU"] == "True"
    assert launch.left_out == ("--main_process_port",)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--config_file", "nowhere.yaml", "train.py"], "--config_file=nowhere.yaml: no such file"),
        (["--num_machines=2", "--num_processes=3", "train.py"], "every node has as many ranks"),
        (
            ["--machine_rank=1", "--num_machines=2", "--num_processes=4", "train.py"],
            "starts the ranks of one node",
        ),
        (["--mixed_precision=odd", "train.py"], "invalid choice"),
        (["--tpu", "train.py"], "--tpu is for TPUs"),
    ],
)
def test_what_means_nothing_here_is_refused_by_name(words: list[str], told: str) -> None:
    with pytest.raises(ConfigError, match=f"^accelerate launch: .*{told}"):
        child.ask(ASK, words)
