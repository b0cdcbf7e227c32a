"""A program that is a module of a package, with words that differ by rank and a library that its zygote has imported;
and words after ``--`` that are typed again as a run says when it is stopped."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.faults.runs import UNTRACKED, User
from tests.real.conftest import CPU
from tests.support.rank_harness import TIMEOUT_S
from tests.support.texts import text_so_far

pytestmark = pytest.mark.real

TRAIN = """
import argparse, json, os, sys
from .near import VALUE
there = "slow" in sys.modules
import slow, torch
import torch.distributed as dist

parser = argparse.ArgumentParser()
parser.add_argument("total", type=int)
parser.add_argument("every", type=int)
parser.add_argument("--local_rank", type=int)
args = parser.parse_args()
dist.init_process_group("gloo")
ones = torch.ones(1)
dist.all_reduce(ones)
parameter = torch.nn.Parameter(torch.ones(1))
optimizer = torch.optim.SGD([parameter], lr=0.1)
parameter.sum().backward()
optimizer.step()
print("SAW", json.dumps([vars(args), ones.item(), VALUE, __name__, __package__]), flush=True)
print("THERE", there, slow.IMPORTED_BY != os.getpid(), flush=True)
dist.destroy_process_group()
"""


SLOW = "import os, time\ntime.sleep(0.3)\nIMPORTED_BY = os.getpid()\n"


def test_a_module_with_relative_imports_and_a_library_that_its_zygote_has_imported(
    tmp_path: Path, kept: dict[str, str]
) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "slow.py").write_text(SLOW)
    for name, text in {"__init__": "", "near": "VALUE = 4", "train": TRAIN}.items():
        (tmp_path / "pkg").mkdir(exist_ok=True)
        (tmp_path / "pkg" / f"{name}.py").write_text(text)
    user = User(tmp_path)
    user.environment = kept
    argv = ["job.argv=['7','1','--local_rank={local_rank}']", "job.module=pkg.train"]
    argv += [f"env.PYTHONPATH={tmp_path}/lib", "launch.preload=[slow]"]
    run = user._begin("module", ["run_name=module", *CPU, UNTRACKED, "job=script", *argv], []).ended()
    assert run.code == 0, run.text
    assert run.text.count("the zygote has imported slow (") == 1, run.text
    for rank in (0, 1):
        log = (run.folder / "logs" / f"attempt-1.rank-{rank}.log").read_text()
        (saw,) = [line.removeprefix("SAW ") for line in log.splitlines() if line.startswith("SAW ")]
        words = {"total": 7, "every": 1, "local_rank": rank}
        assert json.loads(saw) == [words, 2.0, 4, "__main__", "pkg"]
        assert "THERE True True" in log.splitlines()


WAITS = """
import os, sys, time
print("SAW", sys.argv[1:], flush=True)
while not os.path.exists("go"):
    time.sleep(0.01)
"""


def test_after_ctrl_c_what_the_end_says_is_typed_and_the_same_command_goes_on(
    tmp_path: Path, kept: dict[str, str]
) -> None:
    (tmp_path / "waits.py").write_text(WAITS)
    words = [UNTRACKED, *CPU, "job.ranks=1", "--", "python", "waits.py", "a b", "True", "${x}"]
    with subprocess.Popen(
        [sys.executable, "-m", "orchestrator", "run_name=a-wait", *words],
        cwd=tmp_path, env=kept, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True,
    ) as process:  # fmt: skip
        try:
            log = tmp_path / "runs" / "a-wait" / "logs" / "attempt-1.rank-0.log"
            deadline = time.monotonic() + TIMEOUT_S
            while "SAW" not in text_so_far(log) and time.monotonic() < deadline:
                assert process.poll() is None, process.communicate()[0]
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            said = process.communicate(timeout=TIMEOUT_S)[0]
        finally:
            process.kill()
    assert process.returncode == 130, said
    (told,) = [line.partition(": ")[2] for line in said.splitlines() if "to go on with it: " in line]
    (tmp_path / "go").touch()
    again = subprocess.run(
        shlex.split(told), cwd=tmp_path, env=kept, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=TIMEOUT_S, check=False,
    )  # fmt: skip
    assert again.returncode == 0, again.stdout + again.stderr
    assert "to go on with it" not in again.stdout
    logs = [log.with_name(f"attempt-{attempt}.rank-0.log").read_text() for attempt in (1, 2)]
    assert logs == ["SAW ['a b', 'True', '${x}']\n"] * 2
