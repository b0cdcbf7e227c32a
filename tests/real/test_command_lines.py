"""Commands of other launchers, as a user types them after ``--``: two real ranks each."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.real.conftest import CPU

pytestmark = pytest.mark.real

TIMEOUT_S = 300
TRAIN = """
import argparse, json, os, sys
from {where} import VALUE
import torch
import torch.distributed as dist

parser = argparse.ArgumentParser()
parser.add_argument("total", type=int)
parser.add_argument("every", type=int)
parser.add_argument("--bf16", action="store_true")
parser.add_argument("--layers", nargs="+", type=int)
parser.add_argument("--local_rank", type=int)
args = parser.parse_args()
dist.init_process_group("gloo")
ones = torch.ones(1)
dist.all_reduce(ones)
names = ("RANK", "ROLE_RANK", "GROUP_WORLD_SIZE", "TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_USE_AGENT_STORE")
print("SAW", json.dumps({{
    "args": vars(args), "argv": sys.argv[1:], "sum": ones.item(), "value": VALUE, "name": __name__,
    "package": __package__, "elastic": dist.is_torchelastic_launched(), **{{n: os.environ[n] for n in names}},
}}), flush=True)
dist.destroy_process_group()
"""


SAYS = """
import json, os, sys
import torch

weight = torch.nn.Parameter(torch.full((1,), 3.0 + int(os.environ["RANK"])))
(weight * 1.0).sum().backward()
torch.optim.SGD([weight], lr=0.1).step()
print("SAW", json.dumps([os.environ["RANK"], sys.argv[1:]]))
"""


WAITS = """
import os, sys, time
print("SAW", sys.argv[1:], flush=True)
while not os.path.exists("go"):
    time.sleep(0.01)
"""


class Folder:
    """A user's folder with a script, a package and a shell script."""

    def __init__(self, path: Path, environment: dict[str, str]) -> None:
        self.path, self.environment = path, environment
        for name, text in {
            "train.py": TRAIN.format(where="near"), "near.py": "VALUE = 3", "pkg/__init__.py": "",
            "pkg/near.py": "VALUE = 4", "pkg/train.py": TRAIN.format(where=".near"),
            "train.sh": f'#!/bin/bash\nset -e\necho shell "$@"\n{sys.executable} says.py "$@"\n',
            "says.py": SAYS,
            "waits.py": WAITS,
        }.items():  # fmt: skip
            (path / name).parent.mkdir(exist_ok=True)
            (path / name).write_text(text)
        (path / "train.sh").chmod(0o755)

    def run(self, name: str, *words: str) -> tuple[str, list[Any]]:
        """What the terminal says, and what each rank saw."""
        done = subprocess.run(
            [sys.executable, "-m", "orchestrator", f"run_name={name}", "gpu=cpu", *words],
            cwd=self.path, env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=TIMEOUT_S, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        logs = [self.path / "runs" / name / "logs" / f"attempt-1.rank-{rank}.log" for rank in (0, 1)]
        lines = [line for log in logs for line in log.read_text().splitlines() if line.startswith("SAW ")]
        return done.stdout, [json.loads(line.removeprefix("SAW ")) for line in lines]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, kept: dict[str, str]) -> Folder:
    return Folder(tmp_path_factory.mktemp("commands"), kept)


UNTRACKED = "tracking.uri=http://127.0.0.1:9"


def test_torchruns_command_is_run_as_it_is(folder: Folder) -> None:
    said, ranks = folder.run(
        "torchrun", UNTRACKED, *CPU[2:], "--", "torchrun", "--nproc_per_node=2", "--standalone", "train.py",
        "50", "10", "--bf16", "--layers", "1", "2", "3",
    )  # fmt: skip
    assert "command taken over: script train.py; as cluster.gpus_per_node=2; --standalone left out" in said
    for rank, saw in enumerate(ranks):
        assert saw["args"] == {
            "total": 50,
            "every": 10,
            "bf16": True,
            "layers": [1, 2, 3],
            "local_rank": None,
        }
        assert saw["argv"] == ["50", "10", "--bf16", "--layers", "1", "2", "3"]
        assert (saw["sum"], saw["value"], saw["elastic"], saw["RANK"], saw["ROLE_RANK"]) == (
            2, 3, True, str(rank), str(rank),
        )  # fmt: skip
        assert saw["TORCHELASTIC_USE_AGENT_STORE"] == "False"
    assert len(ranks) == 2


def test_a_module_of_a_package_with_relative_imports(folder: Folder) -> None:
    argv = ("job.argv=['7','1','--local_rank={local_rank}']", "job.module=pkg.train")
    _, ranks = folder.run("module", UNTRACKED, *CPU[1:], "job=script", *argv)
    assert [(saw["value"], saw["name"], saw["package"]) for saw in ranks] == [(4, "__main__", "pkg")] * 2
    assert [saw["args"]["local_rank"] for saw in ranks] == [0, 1]


def test_a_shell_script_that_starts_python(folder: Folder) -> None:
    said, ranks = folder.run("shell", UNTRACKED, *CPU[1:], "--", "./train.sh", "5", "1")
    assert "of what runs inside, the Python process that trains is seen" in said
    assert ranks == [["0", ["5", "1"]], ["1", ["5", "1"]]]
    assert "step 1  loss 3.500 " in said, "the mean over both ranks' Python"
    assert "shell 5 1" in (folder.path / "runs/shell/logs/attempt-1.rank-0.log").read_text()


def test_after_ctrl_c_what_the_end_says_is_typed_and_the_same_command_goes_on(folder: Folder) -> None:
    words = [UNTRACKED, *CPU, "job.ranks=1", "--", "python", "waits.py", "a b", "True", "${x}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "orchestrator", "run_name=a-wait", *words],
        cwd=folder.path, env=folder.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    log = folder.path / "runs" / "a-wait" / "logs" / "attempt-1.rank-0.log"
    deadline = time.monotonic() + TIMEOUT_S
    while not (log.exists() and "SAW" in log.read_text()) and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=TIMEOUT_S)[0]
    assert process.returncode == 130, said
    (told,) = [line.partition(": ")[2] for line in said.splitlines() if "to go on with it: " in line]
    (folder.path / "go").touch()
    again = subprocess.run(
        shlex.split(told), cwd=folder.path, env=folder.environment, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
    )  # fmt: skip
    assert again.returncode == 0, again.stdout + again.stderr
    assert "to go on with it" not in again.stdout
    logs = [log.with_name(f"attempt-{attempt}.rank-0.log").read_text() for attempt in (1, 2)]
    assert logs == ["SAW ['a b', 'True', '${x}']\n"] * 2
