"""What the launchers' own parsers read, and what becomes of each flag here."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config.command_line.launch import Launch
from orchestrator.errors import ConfigError
from orchestrator.rank.launchers import deepspeed, read, torchrun
from orchestrator.vocabulary import ProgramKind

SCRIPT, MODULE, COMMAND = ProgramKind.SCRIPT, ProgramKind.MODULE, ProgramKind.COMMAND
LOCAL_RANK = "--local_rank={local_rank}"


def launch(kind: ProgramKind = SCRIPT, program: str = "train.py", *argv: str, **about: Any) -> Launch:
    return Launch(kind, program, argv, **{"ranks_were_given": "ranks_per_node" in about, **about})


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--nproc_per_node=8 train.py 50 10", launch(SCRIPT, "train.py", "50", "10", ranks_per_node=8)),
        ("--nproc-per-node 4 --nnodes 2 train.py", launch(ranks_per_node=4, nodes=2)),
        ("train.py --nnodes=3", launch(SCRIPT, "train.py", "--nnodes=3", ranks_per_node=1, ranks_were_given=False)),
        ("--nproc_per_node=1 train.py", launch(ranks_per_node=1)),
        ("--nproc_per_node=gpu --nnodes=2:2 train.py", launch(ranks_were_given=True, nodes=2)),
        ("--nproc-per-node=2 -m pkg.train -v", launch(MODULE, "pkg.train", "-v", ranks_per_node=2)),
        ("--nproc-per-node=2 --no-python ./train.sh -m", launch(COMMAND, "./train.sh", "-m", ranks_per_node=2)),
        ("--nproc-per-node=2 --standalone --rdzv-backend=c10d --master_port=29501 --node_rank=0 --tee=3 train.py",
         launch(ranks_per_node=2, left_out=("--rdzv_backend", "--standalone", "--master_port", "--tee"))),
        ("--nproc-per-node=2 --max-restarts=5 --shutdown-timeout=9 --role=x --rdzv-id=77 train.py",
         launch(ranks_per_node=2, keys={"recovery.max_restarts": 5, "recovery.stop_grace_s": 9},
                environment={"ROLE_NAME": "x", "TORCHELASTIC_RUN_ID": "77"})),
    ],
)  # fmt: skip
def test_torchrun(words: str, expected: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["torchrun", *words.split()])
    assert torchrun.read(words.split()) == expected


def test_torchrun_takes_flags_from_variables_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PET_NPROC_PER_NODE", "3")
    assert torchrun.read(["train.py"]) == launch(ranks_per_node=3)


def test_the_launcher_before_torchrun_tells_the_local_rank_by_a_flag() -> None:
    assert torchrun.read_legacy(["--nproc_per_node=2", "train.py", "a"]).argv == (
        "--local-rank={local_rank}",
        "a",
    )
    assert torchrun.read_legacy(["--nproc_per_node=2", "--use_env", "train.py", "a"]).argv == ("a",)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--nnodes=1:4 train.py", "--nnodes=1:4 lets the number of nodes change .* --nnodes=4"),
        ("--node-rank=1 --nnodes=2 train.py", "--node_rank=1 starts the ranks of one node"),
        ("--no-python -m train", "leave one of them out"),
        ("--virtual-local-rank train.py", "--virtual_local_rank numbers the devices anew"),
        ("--numa-binding=node train.py", "--numa_binding binds"),
        ("--signals-to-handle=SIGUSR2 train.py", r"set recovery.stop_signals="),
    ],
)
def test_flags_of_torchrun_that_mean_nothing_here_are_refused_by_name(words: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        torchrun.read(words.split())


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--num_gpus=2 train.py --deepspeed ds.json",
         launch(SCRIPT, "train.py", LOCAL_RANK, "--deepspeed", "ds.json", ranks_per_node=2)),
        ("train.py a", launch(SCRIPT, "train.py", LOCAL_RANK, "a")),
        ("--no_local_rank --num_nodes 2 --num_gpus 4 --module pkg.train",
         launch(MODULE, "pkg.train", nodes=2, ranks_per_node=4)),
        ("--no_local_rank --no_python ./train.sh", launch(COMMAND, "./train.sh")),
        ("--include localhost:0,1 train.py", launch(SCRIPT, "train.py", LOCAL_RANK, nodes=1, ranks_per_node=2)),
        ("--hostfile {hosts} --master_port 1 --launcher openmpi train.py",
         launch(SCRIPT, "train.py", LOCAL_RANK, nodes=3, ranks_per_node=4,
                left_out=("--hostfile", "--master_port", "--launcher"))),
        ("-H {hosts} --include a@c:0,1,2,3 train.py",
         launch(SCRIPT, "train.py", LOCAL_RANK, nodes=2, ranks_per_node=4, left_out=("--hostfile",))),
        ("-H {hosts} --exclude b train.py",
         launch(SCRIPT, "train.py", LOCAL_RANK, nodes=2, ranks_per_node=4, left_out=("--hostfile",))),
    ],
)  # fmt: skip
def test_deepspeed(words: str, expected: Launch, hosts: Path) -> None:
    assert deepspeed.read(words.format(hosts=hosts).split()) == expected


@pytest.fixture
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hosts").write_text("a slots=4\nb slots=4\n# none\nc slots=4\n")
    (tmp_path / "uneven").write_text("a slots=4\nb slots=2\n")
    return tmp_path / "hosts"


def test_the_launchers_own_file_of_variables_counts_with_several_nodes(hosts: Path) -> None:
    (hosts.parent / ".deepspeed_env").write_text("NCCL_DEBUG=INFO\nA=b=c\n")
    assert deepspeed.read(["-H", str(hosts), "train.py"]).environment == {"NCCL_DEBUG": "INFO", "A": "b=c"}
    assert deepspeed.read(["--num_gpus=2", "train.py"]).environment == {}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--hostfile nowhere train.py", "--hostfile=nowhere: no such file"),
        ("--hostfile uneven train.py", r"hosts of different sizes \(a 4, b 2\)"),
        ("--include localhost:2,3 train.py", "names devices 2,3; .*CUDA_VISIBLE_DEVICES"),
        ("--node_rank=1 --no_ssh train.py", "--node_rank=1 starts the ranks of one node"),
        ("--autotuning=run train.py", "--autotuning runs a script many times"),
        ("--launcher_args=-x train.py", "--launcher_args is for ssh"),
        ("--bind_cores_to_rank train.py", "--bind_cores_to_rank binds ranks"),
        ("--module --no_python train", "leave one of them out"),
    ],
)
def test_flags_of_deepspeed_that_mean_nothing_here_are_refused_by_name(
    words: str, told: str, hosts: Path
) -> None:
    with pytest.raises(ConfigError, match=told):
        deepspeed.read(words.split())


def test_a_launchers_own_words_say_what_is_wrong_with_its_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(argparse.ArgumentParser, "error", read.refuse)
    monkeypatch.setattr("sys.argv", ["torchrun"])
    with pytest.raises(
        ConfigError, match=r"^torchrun: argument --max-restarts.*: invalid int value: 'x'; see"
    ):
        torchrun.read(["--max-restarts=x", "train.py"])
    with pytest.raises(
        ConfigError, match=r"^torchrun: the following arguments are required: training_script"
    ):
        torchrun.read(["--nproc_per_node=2"])
