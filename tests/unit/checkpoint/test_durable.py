"""A directory of committed checkpoints: how one gets there, and what counts as one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from orchestrator.checkpoint.store import Manifest, attempt_dir, publish, scan, verify
from orchestrator.errors import ManifestError
from tests.support.crashes import committed, contents, tree, written

MODEL = "mp_rank_00_model_states.pt"


def tags(save_dir: Path) -> list[str]:
    return [manifest.tag for manifest in scan(save_dir).committed]


def test_a_commit_moves_the_folder_names_it_and_takes_the_recovery_script_along(tmp_path: Path) -> None:
    manifest = written(tmp_path, 20, attempt=2)
    attempt = tmp_path / ".attempts/attempt-0002-step-000020"
    (attempt / "zero_to_fp32.py").write_text("print()")
    assert publish(tmp_path, manifest, save_latest=True) == tmp_path / "step-20"
    assert (tmp_path / "latest").read_text() == "step-20"
    assert (tmp_path / "zero_to_fp32.py").read_text() == "print()"
    assert not (attempt / "step-20").exists()
    assert Manifest.from_json((tmp_path / "step-20/manifest.json").read_text()) == manifest
    assert manifest.total_bytes == sum(map(len, contents(20, 2).values()))
    assert scan(tmp_path).committed == [manifest]
    assert verify(tmp_path, manifest) == {}
    before = tree(tmp_path)
    publish(tmp_path, manifest, save_latest=True)
    assert tree(tmp_path) == before


def test_a_commit_without_save_latest_leaves_latest_alone(tmp_path: Path) -> None:
    committed(tmp_path, 5)
    manifest = written(tmp_path, 6, tag="best")
    (tmp_path / ".attempts/attempt-0001-step-000006/latest").write_text("best")
    publish(tmp_path, manifest, save_latest=False)
    assert (tmp_path / "latest").read_text() == "step-5"
    assert tags(tmp_path) == ["step-5", "best"]


def test_a_commit_refuses_files_that_are_missing_or_of_another_size(tmp_path: Path) -> None:
    manifest = written(tmp_path, 5)
    folder = attempt_dir(tmp_path, 1, 5, "step-5")
    os.truncate(folder / MODEL, 17)
    with pytest.raises(
        ManifestError, match=rf"step-5 cannot be committed: {MODEL} has 17 bytes instead of \d+;"
    ):
        publish(tmp_path, manifest, save_latest=True)
    (folder / MODEL).unlink()
    (folder / "extra/position.json").unlink()
    with pytest.raises(ManifestError, match=rf"{MODEL} is missing, and 1 more of 3 files"):
        publish(tmp_path, manifest, save_latest=True)
    assert not (folder / "manifest.json").exists()
    assert scan(tmp_path) == scan(tmp_path / "nowhere")


def test_a_stale_attempt_cannot_replace_what_a_later_one_committed(tmp_path: Path) -> None:
    stale = written(tmp_path, 5, attempt=1)
    newer = committed(tmp_path, 5, attempt=2)
    with pytest.raises(ManifestError, match="committed by attempt 2: attempt 1 is stale"):
        publish(tmp_path, stale, save_latest=True)
    assert scan(tmp_path).committed == [newer]


def test_a_replaced_checkpoint_leaves_what_the_script_put_beside_it_but_no_shard(tmp_path: Path) -> None:
    committed(tmp_path, 5)
    old = tmp_path / "step-5"
    (old / "tokenizer.json").write_text("the script's")
    (old / "zero_pp_rank_7_mp_rank_00_optim_states.pt").write_bytes(b"of a larger world")
    newer = committed(tmp_path, 5, attempt=2)
    assert {path.name for path in old.iterdir()} == {
        *(Path(path).parts[0] for path in newer.files),
        "manifest.json",
        "tokenizer.json",
    }
    assert (old / "tokenizer.json").read_text() == "the script's"
    assert verify(tmp_path, newer) == {}
    by_deepspeed = tmp_path / "step-6"
    shutil.copytree(old, by_deepspeed)
    (by_deepspeed / "manifest.json").unlink()
    assert verify(tmp_path, committed(tmp_path, 6)) == {}, "no old file takes the place of a new one"
    assert (by_deepspeed / "tokenizer.json").read_text() == "the script's"


def test_scan_tells_committed_odd_and_unmanifested_folders_apart(tmp_path: Path) -> None:
    for step in (100, 20, 3):
        committed(tmp_path, step)
    committed(tmp_path, 50, tag="cut")
    os.truncate(tmp_path / "cut/manifest.json", 40)
    shutil.copytree(tmp_path / "step-3", tmp_path / "copy")
    (tmp_path / "global_step7").mkdir()
    (tmp_path / "global_step7" / MODEL).write_bytes(b"by DeepSpeed alone")
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / MODEL).write_bytes(b"hidden")
    (tmp_path / "tensorboard").mkdir()
    (tmp_path / "folder/manifest.json").mkdir(parents=True)
    found = scan(tmp_path)
    assert [manifest.step for manifest in found.committed] == [3, 20, 100]
    assert found.unmanifested == ["global_step7"]
    assert sorted(found.odd) == ["copy", "cut", "folder"]
    assert "not JSON" in found.odd["cut"]
    assert "that of step-3" in found.odd["copy"]
    assert found.odd["folder"] == "Is a directory"
