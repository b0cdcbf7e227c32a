"""A part of the GPU's check that fails costs no other, and what was found before it did is kept."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import pytest

from benchmarks.gpu_check import __main__ as gpu_check
from benchmarks.gpu_check.outcome import (
    Figure,
    Outcome,
    Status,
    figure_lines,
    from_json,
    rows,
    section,
    teller,
    to_json,
)
from infra import gpu_wheels

TELLS = """
import sys, time
from pathlib import Path
from benchmarks.gpu_check.outcome import Figure, teller
teller(Path(sys.argv[1]))(Figure("rate", 12.5, "GB/s", "above 1", True))
"""


def outcome_of(place: Path, ending: str, limit_s: float = 60.0) -> Outcome:
    return gpu_check.outcome(
        "step", [sys.executable, "-c", TELLS + ending, str(place / "figures")], place, limit_s
    )


@pytest.mark.parametrize(
    ("ending", "status", "why"),
    [
        ("", Status.PASSED, ""),
        ("print('no link here'); sys.exit(77)", Status.SKIPPED, "no link here"),
        ("raise RuntimeError('no room')", Status.FAILED, "no room"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", Status.FAILED, "exit code -11"),
    ],
)
def test_a_step_ends_in_one_of_four_ways(tmp_path: Path, ending: str, status: Status, why: str) -> None:
    found = outcome_of(tmp_path, ending)
    assert found.status is status
    assert why in found.why
    assert found.figures == (Figure("rate", 12.5, "GB/s", "above 1", True),)


def test_a_step_that_hangs_keeps_what_it_has_told(tmp_path: Path) -> None:
    hangs = "print('waits', flush=True); import signal; signal.signal(signal.SIGTERM, signal.SIG_DFL); time.sleep(600)"
    found = outcome_of(tmp_path, hangs, limit_s=5.0)
    assert found.status is Status.TIMED_OUT
    assert [figure.name for figure in found.figures] == ["rate"]


def test_no_time_left_is_said_of_each_step_that_it_costs(tmp_path: Path) -> None:
    found = gpu_check.check(["machine", "fork"], "cpu", gpu_check.GRACE_S, tmp_path / "check.json")
    assert [(one.step, one.status) for one in found] == [
        ("machine", Status.SKIPPED),
        ("fork", Status.SKIPPED),
    ]
    assert from_json((tmp_path / "check.json").read_text())[0] == found


def test_every_step_is_a_function_with_a_limit() -> None:
    for name, step in gpu_check.STEPS.items():
        source = Path(gpu_check.__file__).with_name(f"{step.module}.py").read_text()
        assert f"def {name}(setting: Setting, tell: Tell" in source
        assert gpu_check.LEAST_S < step.limit_s < gpu_check.WHOLE_LIMIT_S


def test_what_was_found_goes_to_a_file_and_back_and_into_a_section(tmp_path: Path) -> None:
    figures = (Figure("stall", 0.0123, "s", "at most 1", True), Figure("NCCL", "2.29", good=False))
    outcomes = [
        Outcome("fork", Status.PASSED, 3.0, figures),
        Outcome("launch", Status.TIMED_OUT, 90.0, figures[:1], "limit 90 s; it waited"),
    ]
    text = to_json(outcomes, ["- hardware: one GPU"])
    assert from_json(text) == (outcomes, ["- hardware: one GPU"])
    assert [row[1:] for row in rows(outcomes)] == [
        ["stall", "0.0123 s", "at most 1", "yes"],
        ["NCCL", "2.29", "", "NO"],
        ["stall", "0.0123 s", "at most 1", "yes"],
        ["TIMED OUT after 90 s", "limit 90 s; it waited", "", ""],
    ]
    made = section(outcomes, ["- hardware: one GPU"])
    assert "1 of 2 steps of `make gpu-check` passed." in made
    assert made.endswith("- hardware: one GPU")


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "figures"
    assert figure_lines(path) == []
    teller(path)(Figure("a", 1.0))
    with path.open("a") as file:
        file.write('{"name": "b", "val')
    assert figure_lines(path) == [Figure("a", 1.0)]


def test_what_the_machine_has_is_not_carried_and_what_is_needed_is() -> None:
    there = list(gpu_wheels.names_in(gpu_wheels.THERE))
    found = gpu_wheels.needed(there, "3.12")
    assert {"ray", "deepspeed", "mlflow", "hydra-core", "antlr4-python3-runtime"} <= set(found)
    assert not {"torch", "numpy", "orchestrator"} & set(found)
    assert set(gpu_wheels.needed([*there, "ray", "mlflow"], "3.12")) < set(found)


def test_a_wheel_is_packed_without_what_is_never_used(tmp_path: Path) -> None:
    wheel, packed = tmp_path / "ray-1-py3-none-any.whl", tmp_path / "packed.whl"
    with zipfile.ZipFile(wheel, "w") as made:
        made.writestr("ray/jars/all.jar", b"java" * 1000)
        made.writestr("ray/__init__.py", b"text" * 1000)
    gpu_wheels.pack(wheel, packed)
    with zipfile.ZipFile(packed) as read:
        assert read.namelist() == ["ray/__init__.py"]
        assert read.read("ray/__init__.py") == b"text" * 1000
    assert packed.stat().st_size < wheel.stat().st_size
