"""A corpus, and ranks that are forked from one import, for all tests of the main job."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.real.pretrain.runs import (
    OTHER_SCRIPTS,
    Result,
    Runner,
)
from tests.support.ports import free_port
from tests.support.processes import end


@pytest.fixture(scope="package")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small English-like corpus and a token cache that the module shares."""
    place = tmp_path_factory.mktemp("pretrain")
    shelf = place / "text"
    shelf.mkdir()
    for name in ("first", "second"):
        lines = [f"{name} line {number}: the quick brown fox counts {number * 7}\n" for number in range(900)]
        (shelf / f"{name}.txt").write_text("".join(lines))
    return place


@pytest.fixture(scope="package")
def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    scripts = str(Path(sys.executable).parent)
    return {
        **kept,
        "PATH": scripts + os.pathsep + kept.get("PATH", ""),
        "OMP_NUM_THREADS": "1",
        "DS_ACCELERATOR": "cpu",
        "CUDA_VISIBLE_DEVICES": "",
    }


@pytest.fixture(scope="package")
def run(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    """Run pretrain.py, or another script, with the given flags on `ranks` ranks; see fork_ranks.py."""
    logs = tmp_path_factory.mktemp("logs")
    command = [sys.executable, str(Path(__file__).with_name("fork_ranks.py"))]
    server = subprocess.Popen(
        command, env=environment, cwd=logs, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    while (greeting := server.stdout.readline()) != "ready\n":
        assert greeting, "the fork server ended before it was ready"

    def run_once(flags: list[str], ranks: int = 2, script: str = "") -> Result:
        log = logs / str(time.monotonic_ns())
        request = {"argv": flags, "ranks": ranks, "port": free_port(), "log": str(log), "timeout_s": 60}
        if script:
            request["script"] = str(OTHER_SCRIPTS / script)
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        codes = json.loads(server.stdout.readline())["codes"]
        out, err = (
            [Path(f"{log}.{rank}.{name}").read_text() for rank in range(ranks)] for name in ("out", "err")
        )
        return Result(codes, out, err)

    yield run_once
    children = psutil.Process(server.pid).children(recursive=True)
    server.stdin.close()
    server.stdout.close()
    end(*children)
    server.wait(timeout=60)
