"""The processes that measure, two on this machine as if on two nodes, and a check of this machine alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from orchestrator.agent.check.programs import Program, ProgramError, at_once
from orchestrator.rank.check.messages import Exchange, Exchanged, Measure, Measured

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def programs() -> Iterator[list[Program]]:
    made = [Program("127.0.0.1", None) for _ in range(2)]
    yield made
    for program in made:
        program.close()


@pytest.fixture(scope="module")
def port(programs: list[Program]) -> int:
    return at_once(programs, lambda program: program.ready())[0].port


def exchanged(programs: list[Program], port: int, way: str, name: str) -> list[float]:
    def ask(program: Program) -> float:
        rank = programs.index(program)
        asked = Exchange(way, name, "127.0.0.1", port, rank, 2, 1, seconds=0.05, timeout_s=60)
        return program.ask(asked, Exchanged).bytes_per_s

    return at_once(programs, ask)


def test_a_core_is_measured(programs: list[Program], port: int) -> None:
    measured = programs[0].ask(Measure(0.05), Measured)
    assert measured.matmul_flops_per_s > 1e8
    assert measured.memory_bytes_per_s > 1e7
    assert 0 < measured.given <= 1


@pytest.mark.parametrize("way", ["all_gather", "all_to_all", "all_reduce"])
def test_two_exchange_and_do_so_again(programs: list[Program], port: int, way: str) -> None:
    for time in ("first", "second"):
        rates = exchanged(programs, port, way, f"{way} {time}")
        assert rates[0] > 1e5
        assert rates[0] == pytest.approx(rates[1], rel=0.01)


def test_one_that_waits_for_nobody_says_so_and_goes_on(programs: list[Program], port: int) -> None:
    alone = Exchange("all_gather", "alone", "127.0.0.1", port, 0, 2, 1, seconds=0.05, timeout_s=1)
    with pytest.raises(ProgramError):
        programs[0].ask(alone, Exchanged)
    assert min(exchanged(programs, port, "all_gather", "afterwards")) > 1e5


def test_one_that_cannot_start_says_why() -> None:
    program = Program("127.0.0.1", 99)  # a GPU that no machine has
    with pytest.raises(ProgramError, match=r"ended \(1\): .+"):
        program.ready()
    program.close()


def test_a_check_of_this_machine_ends_well_and_leaves_nothing(kept: dict[str, str], tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "orchestrator",
        "check",
        "--quick",
        "--json",
        "gpu=cpu",
        "check.least_disk_bytes_per_s=1",
    ]
    environment = {**os.environ, **kept, "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    seen = json.loads(done.stdout)
    assert (done.returncode, seen["findings"]) == (0, []), done.stderr
    assert {one["what"] for one in seen["measured"][0]["figures"]} >= {"matrix products", "disk", "clock"}
    left = [
        one.info["cmdline"]
        for one in psutil.process_iter(["cmdline", "environ"])
        if str(tmp_path) in str(one.info["environ"])
    ]
    assert [words for words in left if words and "orchestrator.rank.check.program" in words] == []


def test_a_node_that_is_not_there_is_named(kept: dict[str, str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "orchestrator", "check", "gpu=cpu", "check.nodes=[nowhere]"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, **kept},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "check.nodes: no node of the cluster that answers is called 'nowhere'" in line
