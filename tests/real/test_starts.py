"""A run starts from the oddest of shells, and leaves nothing on the machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.real

NOBODY = 54_321  # has no entry in passwd
# DeepSpeed takes a rank for one of mpirun's where it finds a variable of these.
SCRIPT = """
import contextlib, ipaddress, json, os
import deepspeed, psutil, torch
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)  # DeepSpeed's own would be compiled first
engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config={"train_micro_batch_size_per_gpu": 1})
engine.backward(engine(torch.ones(1, 4)).sum())
engine.step()
heard = set()
for each in psutil.net_connections("tcp"):
    with contextlib.suppress(psutil.NoSuchProcess):  # somebody else's that ends meanwhile
        if each.status == "LISTEN" and each.pid is not None and psutil.Process(each.pid).uids().real == os.getuid():
            heard.add(ipaddress.ip_address(each.laddr.ip))
heard = {ip.ipv4_mapped if ip.version == 6 and ip.ipv4_mapped else ip for ip in heard}
print("HEARD", json.dumps(sorted(str(ip) for ip in heard if not ip.is_loopback)), flush=True)
print("TRAINED", json.dumps({"uid": os.getuid(), **os.environ}), flush=True)
"""


def as_nobody() -> list[str]:
    """A command's beginning: another user, who may read what we may, and owns nothing. None but root can."""
    if os.getuid() != 0 or shutil.which("setpriv") is None:
        return []
    may_read = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    return ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *may_read]


@pytest.fixture
def odd() -> Iterator[Path]:
    """A folder that nobody owns, not below pytest's, which is for its user alone."""
    with tempfile.TemporaryDirectory(prefix="orchestrator-odd-", dir="/tmp") as folder:
        if as_nobody():
            os.chown(folder, NOBODY, NOBODY)
        yield Path(folder)


def test_no_home_no_name_a_long_tmpdir_what_mpirun_left_and_ascii(odd: Path) -> None:
    """One start for all of them: it costs a Ray."""
    nobody, long = as_nobody(), odd / ("d" * 100)
    long.mkdir(mode=0o777)
    (odd / "train.py").write_text(SCRIPT)
    left = {
        "OMPI_COMM_WORLD_LOCAL_RANK": "1",
        "OMPI_COMM_WORLD_RANK": "1",
        "OMPI_COMM_WORLD_SIZE": "2",
        "RANK": "7",
    }
    environment = {
        "PATH": os.environ["PATH"],
        "TMPDIR": str(long),
        "PYTHONIOENCODING": "ascii",
        "MY_TOKEN": "1",
        **left,
    }
    done = subprocess.run(
        [
            *nobody, sys.executable, "-m", "orchestrator", "job=script", f"job.script={odd}/train.py",
            "job.ranks=2", f"run_root={odd}/runs", f"tracking.uri=sqlite:///{odd}/mlflow.db", "run_name=odd",
            "ray_address=local", "launch.dashboard=false", f"job.cwd={odd}",
        ],
        env=environment, cwd=odd, capture_output=True, timeout=300, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert done.returncode == 0, said.decode()
    assert said.isascii()
    assert b"too long for sockets; /tmp is used instead" in done.stderr
    assert b"MLflow could not" not in said
    assert b"going on without it" not in said, said.decode()
    assert (odd / "mlflow.db").is_file()
    log = (odd / "runs" / "odd" / "logs" / "attempt-1.rank-1.log").read_text()
    rank = json.loads(log.split("TRAINED ")[1].splitlines()[0])
    if nobody:  # whose processes are those of this run
        assert json.loads(log.split("HEARD ")[1].splitlines()[0]) == [], (
            "nothing of it listens but on loopback"
        )
    assert not (set(left) - {"RANK"}) & set(rank)
    assert (rank["RANK"], rank["MY_TOKEN"], rank["TMPDIR"]) == ("1", "1", "/tmp")
    if nobody:
        assert (rank["uid"], rank["HOME"]) == (NOBODY, f"/tmp/orchestrator-home-{NOBODY}")
        shutil.rmtree(rank["HOME"])
    assert not [each for each in Path("/tmp").glob("orc-ray-*") if (each / "owner").exists() and owned(each)]


def owned(folder: Path) -> bool:
    """Whether a folder is of the user of this test's run."""
    try:
        return folder.stat().st_uid == (NOBODY if as_nobody() else os.getuid())
    except FileNotFoundError:
        return False
