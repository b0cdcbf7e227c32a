"""A checkpoint directory after any crash: what is loaded, what is pruned, what is refused."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.folders import JOBS

sys.path.insert(0, str(JOBS))
checkpoints = importlib.import_module("checkpoints")

IDENTITY = {"layers": 2, "seed": 1}


def write_tensors(directory: Path, step: int) -> str:
    """What DeepSpeed leaves before the job commits it."""
    tag = checkpoints.tag_of(step)
    (directory / tag).mkdir(parents=True)
    (directory / tag / "model.pt").write_bytes(b"weights")
    return tag


def save(directory: Path, step: int, keep: int = 0) -> None:
    checkpoints.commit(directory, write_tensors(directory, step), IDENTITY, keep)


def folders(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if path.is_dir())


def test_nothing_there_is_a_fresh_start_without_remark(tmp_path: Path) -> None:
    assert checkpoints.find(tmp_path) == (None, "")
    assert checkpoints.find(tmp_path / "absent") == (None, "")


def test_latest_is_found_with_what_the_job_wrote_about_itself(tmp_path: Path) -> None:
    save(tmp_path, 5)
    save(tmp_path, 10)
    assert checkpoints.find(tmp_path) == ("step-000010", "")
    assert checkpoints.saved_identity(tmp_path, "step-000010") == IDENTITY
    assert checkpoints.step_of("step-000010") == 10


def test_what_a_launcher_completed_counts_without_our_own_mark(tmp_path: Path) -> None:
    save(tmp_path, 5)
    tag = write_tensors(tmp_path, 10)
    (tmp_path / tag / "manifest.json").write_text("{}")
    write_tensors(tmp_path, 15)
    (tmp_path / "latest").unlink()
    found, remark = checkpoints.find(tmp_path)
    assert found == "step-000010"
    assert "taking step-000010, the newest complete one" in remark
    assert checkpoints.saved_identity(tmp_path, "step-000010") is None
    save(tmp_path, 20, keep=3)
    assert folders(tmp_path) == ["step-000005", "step-000010", "step-000020"]


def test_death_while_the_first_checkpoint_is_written_starts_over_and_says_so(tmp_path: Path) -> None:
    write_tensors(tmp_path, 5)
    tag, remark = checkpoints.find(tmp_path)
    assert tag is None
    assert "only an unfinished step-000005: starting at step 0" in remark


def test_death_while_a_later_checkpoint_is_written_leaves_latest_alone(tmp_path: Path) -> None:
    save(tmp_path, 5)
    write_tensors(tmp_path, 10)
    assert checkpoints.find(tmp_path) == ("step-000005", "")


@pytest.mark.parametrize("name", ["step-000007", "", "..", "model"])
def test_a_latest_that_names_no_checkpoint_is_refused(tmp_path: Path, name: str) -> None:
    save(tmp_path, 5)
    (tmp_path / "latest").write_text(name)
    with pytest.raises(checkpoints.CheckpointError, match=r"which is not there.*complete: step-000005"):
        checkpoints.find(tmp_path)


def test_a_crash_in_the_middle_of_writing_latest_keeps_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 5)
    tag = write_tensors(tmp_path, 10)
    replace = checkpoints.os.replace

    def die_at_latest(source: Path, target: Path) -> None:
        if target.name == "latest":
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(checkpoints.os, "replace", die_at_latest)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.commit(tmp_path, tag, IDENTITY, keep=1)
    assert checkpoints.find(tmp_path) == ("step-000005", "")
    assert folders(tmp_path) == ["step-000005", "step-000010"]


@given(steps=st.lists(st.integers(1, 10**7), min_size=1, max_size=8, unique=True), keep=st.integers(0, 4))
def test_pruning_keeps_the_newest_and_always_the_one_latest_names(
    tmp_path_factory: pytest.TempPathFactory, steps: list[int], keep: int
) -> None:
    directory = tmp_path_factory.mktemp("prune")
    for step in steps:
        save(directory, step)
    torn = write_tensors(directory, 10**7 + 1)
    (directory / "notes").mkdir()
    checkpoints.commit(directory, checkpoints.tag_of(steps[0]), IDENTITY, keep)
    others = sorted(steps[1:])
    kept = others if keep == 0 else others[len(others) - min(len(others), keep - 1) :]
    expected = {checkpoints.tag_of(step) for step in [steps[0], *kept]}
    assert set(folders(directory)) == expected | {"notes"}
    assert torn not in folders(directory)
    assert (directory / "latest").read_text() == checkpoints.tag_of(steps[0])


def test_a_leftover_of_the_same_name_does_not_lend_its_files(tmp_path: Path) -> None:
    save(tmp_path, 5)
    checkpoints.discard_leftover(tmp_path, "step-000005")
    assert folders(tmp_path) == []
    checkpoints.discard_leftover(tmp_path, "step-000005")


def test_a_removal_cut_short_does_not_leave_a_checkpoint_that_looks_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 5)
    (tmp_path / "step-000005" / "manifest.json").write_text("{}")

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints.shutil, "rmtree", die)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.discard_leftover(tmp_path, "step-000005")
    (tmp_path / "latest").unlink()
    assert checkpoints.find(tmp_path)[0] is None


def test_another_job_is_refused_with_both_values() -> None:
    checkpoints.refuse_other_job({**IDENTITY, "step": 3}, IDENTITY, "here")
    with pytest.raises(checkpoints.CheckpointError, match=r"here has layers=2 but this job has layers=3"):
        checkpoints.refuse_other_job(IDENTITY, {**IDENTITY, "layers": 3}, "here")
    with pytest.raises(checkpoints.CheckpointError, match=r"here has seed=None but this job has seed=1"):
        checkpoints.refuse_other_job({"layers": 2}, IDENTITY, "here")


def test_a_universal_checkpoint_is_taken_unless_a_newer_one_would_be_lost(tmp_path: Path) -> None:
    assert checkpoints.find_universal(tmp_path) is None
    save(tmp_path, 5)
    with pytest.raises(
        checkpoints.CheckpointError, match=r"step-000005, but its universal checkpoint is missing"
    ):
        checkpoints.find_universal(tmp_path)
    (tmp_path / "latest_universal").write_text("step-000005_universal")
    assert checkpoints.find_universal(tmp_path) == "step-000005_universal"
    save(tmp_path, 10)
    with pytest.raises(
        checkpoints.CheckpointError, match=r"has step-000010, but .* is step-000005_universal"
    ):
        checkpoints.find_universal(tmp_path)
