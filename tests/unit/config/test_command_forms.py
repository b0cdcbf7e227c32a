"""A command as it is typed for another launcher, taken apart."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from orchestrator.config.command_line.forms import launch_of
from orchestrator.config.command_line.launch import Launch
from orchestrator.config.programs import find_module
from orchestrator.errors import ConfigError
from orchestrator.vocabulary import ProgramKind

SCRIPT, MODULE, COMMAND = ProgramKind.SCRIPT, ProgramKind.MODULE, ProgramKind.COMMAND


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in {
        "train.py": "", "train.sh": "#!/bin/bash\n", "console": f"#!{sys.executable}\n", "plain.sh": "#!/bin/bash\n",
        "long": "#!/bin/sh\n'''exec' /a/very/long/path/python \"$0\" \"$@\"\n", "pkg/__init__.py": "1 / 0",
        "pkg/train.py": "", "pkg/whole/__main__.py": "", "pkg/whole/__init__.py": "", "spaces/deep/job.py": "",
    }.items():  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
        if name != "plain.sh":
            (tmp_path / name).chmod(0o755)
    return tmp_path


def taken(folder: Path, *command: str) -> tuple[ProgramKind, str, tuple[str, ...], dict[str, str]]:
    launch = launch_of(command, folder, _nobody)
    return launch.kind, launch.program, launch.argv, launch.environment


def _nobody(launcher: str, words: Sequence[str]) -> Launch:
    raise AssertionError(f"{launcher} {words} is no launcher's command")


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("python train.py 50 10", (SCRIPT, "train.py", ("50", "10"), {})),
        ("python3 -u train.py --lr 1", (SCRIPT, "train.py", ("--lr", "1"), {})),
        ("python -m pkg.train trainer.max_epochs=3", (MODULE, "pkg.train", ("trainer.max_epochs=3",), {})),
        ("python -mpkg.train -m x", (MODULE, "pkg.train", ("-m", "x"), {})),
        ("python -O -W ignore -Werror train.py -O",
         (SCRIPT, "train.py", ("-O",), {"PYTHONOPTIMIZE": "1", "PYTHONWARNINGS": "ignore,error"})),
        ("python -X faulthandler -Xdev train.py",
         (SCRIPT, "train.py", (), {"PYTHONFAULTHANDLER": "1", "PYTHONDEVMODE": "1"})),
        ("train.py config/gpt2.py --compile=False", (SCRIPT, "train.py", ("config/gpt2.py", "--compile=False"), {})),
        ("./train.py -- -x", (SCRIPT, "./train.py", ("--", "-x"), {})),
        ("./train.sh a b", (COMMAND, "./train.sh", ("a", "b"), {})),
        ("bash plain.sh a", (COMMAND, "bash", ("plain.sh", "a"), {})),
        ("./console a", (SCRIPT, "./console", ("a",), {})),
        ("./long a", (SCRIPT, "./long", ("a",), {})),
        ("A=1 B=x=y python train.py C=2", (SCRIPT, "train.py", ("C=2",), {"A": "1", "B": "x=y"})),
        ("env A=1 ./train.sh", (COMMAND, "./train.sh", (), {"A": "1"})),
    ],
)  # fmt: skip
def test_a_command_is_taken_as_it_would_run(
    folder: Path, command: str, expected: tuple[ProgramKind, str, tuple[str, ...], dict[str, str]]
) -> None:
    assert taken(folder, *command.split(" ")) == expected


@pytest.mark.parametrize(
    ("command", "launcher", "words"),
    [
        ("torchrun --nproc_per_node=2 train.py a", "torchrun", "--nproc_per_node=2 train.py a"),
        ("/usr/local/bin/torchrun train.py", "torchrun", "train.py"),
        ("python -m torch.distributed.run train.py", "torchrun", "train.py"),
        ("python -u -m torch.distributed.launch train.py", "torch.distributed.launch", "train.py"),
        ("deepspeed --num_gpus=2 train.py", "deepspeed", "--num_gpus=2 train.py"),
        ("accelerate launch --cpu train.py", "accelerate launch", "--cpu train.py"),
        ("accelerate-launch train.py", "accelerate launch", "train.py"),
        ("OMP_NUM_THREADS=4 torchrun train.py", "torchrun", "train.py"),
    ],
)
def test_a_launchers_own_parser_is_asked(folder: Path, command: str, launcher: str, words: str) -> None:
    asked = []

    def ask(name: str, given: Sequence[str]) -> Launch:
        asked.append((name, " ".join(given)))
        return Launch(SCRIPT, "train.py", environment={"OMP_NUM_THREADS": "8"})

    launch = launch_of(command.split(" "), folder, ask)
    assert asked == [(launcher, words)]
    assert launch.environment == {"OMP_NUM_THREADS": "8"}, "which the launcher would set last"


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("", "a command has to follow, e.g. -- torchrun"),
        ("A=1", "a command has to follow"),
        ("--nproc=2 train.py", "a program has to come first"),
        ("python", "a script has to follow"),
        ("python -", "a script has to follow"),
        ("python -c pass", "python -c: cannot be asked of a rank"),
        ("python -i train.py", "python -i: cannot"),
        ("python -X nothing train.py", "python -X nothing: cannot"),
        ("/opt/other/bin/python train.py", "install orchestrator in that one"),
        ("srun python train.py", "srun …: starts other programs"),
        ("uv run train.py", "uv …: starts other programs"),
        ("accelerate config", "trains nothing; only accelerate launch does"),
        ("nowhere_at_all x", "job.command=nowhere_at_all: no such program"),
        ("plain.sh", "for the file here write ./plain.sh"),
        ("./plain.sh", "chmod +x"),
        ("./nowhere.sh", "no such file at"),
    ],
)
def test_what_is_no_command_of_a_rank_is_refused_with_the_remedy(
    folder: Path, command: str, told: str
) -> None:
    with pytest.raises(ConfigError, match=told.replace("+", r"\+").replace("(", r"\(")):
        taken(folder, *command.split())


def test_a_module_is_found_without_running_its_packages(folder: Path) -> None:
    assert find_module("pkg.train", folder) == folder / "pkg/train.py"
    assert find_module("pkg.whole", folder) == folder / "pkg/whole/__main__.py"
    assert find_module("deep.job", folder, python_path="spaces") == folder / "spaces/deep/job.py"
    assert find_module("json.tool", folder).name == "tool.py"
    for module, told in {
        "pkg.tarin": "pkg is there and has no tarin", "pkg": "without a module __main__", "nope.x": "no such module",
        "pkg.train.x": "no such module", "": "no such module", "a..b": "no such module", "sys": "no file",
    }.items():  # fmt: skip
        with pytest.raises(ConfigError, match=f"^job.module={module}: .*{told}"):
            find_module(module, folder)
