"""The calibration's file: what is written is what is read, and nothing else is taken for it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from orchestrator.config.schema import Config
from orchestrator.errors import ConfigError, RunDirectoryError
from orchestrator.plan.perf.calibration import (
    Calibration,
    Group,
)
from orchestrator.planner.calibration_file import calibrations_of, read_calibrations, write_calibrations

# ---- the file ------------------------------------------------------------------------------------

HERE = Group("local", "CPU core", "fp32", False)
THERE = Group("ours", "H100", "bf16", True)
FITTED = Calibration(2.5, 0.003, 1.5, 1.25, -5_000_000, 3, "3 runs of local, the last on 2026-11-22")


def test_what_is_written_is_what_is_read_and_twice_is_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "root" / "calibration.yaml"
    entries = {THERE: FITTED, HERE: dataclasses.replace(FITTED, runs=1)}
    write_calibrations(path, entries)
    once = path.read_bytes()
    assert read_calibrations(path) == entries
    write_calibrations(path, dict(reversed(read_calibrations(path).items())))
    assert path.read_bytes() == once
    assert list(path.parent.iterdir()) == [path], "nothing is left beside it"


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "calibration.yaml"
    write_calibrations(path, {HERE: FITTED})
    monkeypatch.setattr("os.fsync", lambda _fd: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(RunDirectoryError, match=r"cannot be written \(No space left on device\)"):
        write_calibrations(path, {THERE: FITTED})
    assert read_calibrations(path) == {HERE: FITTED}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("- 1", "has no list 'calibrations'"),
        ("", "has no list 'calibrations'"),
        ("calibrations: {a: 1}", "has no list 'calibrations'"),
        ("calibrations: [3]", "entry 1 is no mapping"),
        ("calibrations: [{cluster: local}]", "entry 1 has no gpu"),
        ("{", "cannot be read"),
    ],
)
def test_another_file_is_refused_in_one_line(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "calibration.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_calibrations(path)
    assert reason in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ("compute_factor: 2.5", "compute_factor: fast"),
        ("compute_factor: 2.5", "compute_factor: .nan"),
        ("compute_factor: 2.5", "compute_factor: 0"),
        ("overhead_s: 0.003", "overhead_s: -1"),
        ("several_nodes: false", "several_nodes: 0"),
        ("memory_offset_bytes: -5000000", "memory_offset_bytes: 1.5"),
        ("cluster: local", "cluster: 7"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused(tmp_path: Path, good: str, bad: str) -> None:
    path = tmp_path / "calibration.yaml"
    write_calibrations(path, {HERE: FITTED})
    assert good in path.read_text()
    path.write_text(path.read_text().replace(good, bad))
    with pytest.raises(ConfigError, match=f"{good.partition(':')[0]}|entry 1"):
        read_calibrations(path)


def test_a_file_that_was_named_has_to_be_there(tmp_path: Path) -> None:
    config = Config(run_root=str(tmp_path))
    assert calibrations_of(config) == {}
    write_calibrations(tmp_path / "calibration.yaml", {HERE: FITTED})
    assert calibrations_of(config) == {HERE: FITTED}
    with pytest.raises(ConfigError, match="no such file"):
        calibrations_of(Config(calibration=str(tmp_path / "other.yaml")))
