"""The processes that measure, two on this machine as if on two nodes, and a check of this machine alone."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from orchestrator.agent.check.programs import Program, ProgramError, at_once
from orchestrator.events import NodeChecked
from orchestrator.ledger.journal import replay
from orchestrator.ledger.ledger import Ledger
from orchestrator.rank.check.messages import Exchange, Exchanged, Measure, Measured
from tests.support.typed_runs import OWN_SCRIPT

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
    assert [words for words in begun_in(tmp_path) if "orchestrator.rank.check.program" in words] == []


def begun_in(folder: Path) -> list[list[str]]:
    """The command lines of all processes in whose environment a folder is named."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):  # it has ended since
            if str(folder) in str(process.environ()):
                found.append(process.cmdline())
    return found


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


def test_a_node_on_which_a_rank_was_lost_is_checked_before_the_run_goes_on(
    kept: dict[str, str], tmp_path: Path
) -> None:
    script = tmp_path / "dies_once.py"
    script.write_text(
        "import os, signal\n"
        "if os.environ['RANK'] == '1' and os.environ['TORCHELASTIC_RESTART_COUNT'] == '0':\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    words = [*OWN_SCRIPT, f"job.script={script}", "run_name=again", "preflight=quick"]
    words += ["check.least_disk_bytes_per_s=1"]
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator", *words], cwd=tmp_path, env={**os.environ, **kept},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    records = list(replay(tmp_path / "runs" / "again" / "journal.jsonl"))
    (checked,) = [record.event for record in records if isinstance(record.event, NodeChecked)]
    assert (checked.attempt, checked.well, checked.found) == (1, True, "")
    ledger = Ledger()
    for record in records:
        ledger.fold(record)
    (incident,) = ledger.incidents()
    assert (incident.checked, incident.verdict) == ("well", "unknown")
