"""Upkeep of a directory of committed checkpoints: quarantine, prune, tidy, repair."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.checkpoint.store import prune, quarantine, repair_latest, scan, tidy, verify
from orchestrator.errors import ManifestError
from tests.support.crashes import Machine, committed, manifest_of, tree, written

MODEL = "mp_rank_00_model_states.pt"


def tags(save_dir: Path) -> list[str]:
    return [manifest.tag for manifest in scan(save_dir).committed]


def test_quarantine_keeps_the_files_the_reason_and_every_earlier_one(tmp_path: Path) -> None:
    for step in (5, 10):
        committed(tmp_path, step)
    files = tree(tmp_path / "step-10")
    first = quarantine(tmp_path, "step-10", "shard 1: sha256 differs")
    assert first == tmp_path / ".quarantine/step-10.1"
    assert tree(first) == {**files, "reason.txt": b"shard 1: sha256 differs\n"}
    assert (tmp_path / "latest").read_text() == "step-5"
    assert quarantine(tmp_path, "step-10", "again") == first, "it is there already"
    committed(tmp_path, 10, attempt=2)
    assert quarantine(tmp_path, "step-10", "the loss of step 9 was nan") == tmp_path / ".quarantine/step-10.2"
    assert quarantine(tmp_path, "step-5", "follows it") == tmp_path / ".quarantine/step-5.1"
    assert not (tmp_path / "latest").exists()
    assert tags(tmp_path) == []
    with pytest.raises(ManifestError, match="step-7 is not there: there is nothing to quarantine"):
        quarantine(tmp_path, "step-7", "x")


def test_quarantine_works_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in (5, 10):
        committed(tmp_path, step)

    real_open = os.open

    def full(path: str, flags: int, *rest: Any, **more: Any) -> int:
        if flags & os.O_CREAT:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real_open(path, flags, *rest, **more)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", full)
        where = quarantine(tmp_path, "step-10", "cut off")
    assert where.is_dir()
    assert not (tmp_path / "latest").exists()
    said = repair_latest(tmp_path)
    assert said == f"{tmp_path}: 'latest' was missing: it names step-5 now, the newest committed checkpoint"


@settings(max_examples=60)
@given(data=st.data())
def test_prune_removes_what_is_surplus_and_old_and_never_the_last_good_one(data: st.DataObject) -> None:
    steps = data.draw(st.lists(st.integers(0, 9), min_size=1, max_size=6, unique=True).map(sorted))
    damaged = data.draw(st.sets(st.sampled_from(steps)))
    keep, latest = data.draw(st.integers(0, 4)), data.draw(st.sampled_from([*steps, None]))
    keep_hours = data.draw(st.none() | st.integers(0, 6).map(float))
    protect = data.draw(st.sets(st.sampled_from(steps)))
    now_hours = data.draw(st.integers(-3, 12))  # a clock that was set back makes all of them young
    with tempfile.TemporaryDirectory() as folder:
        save_dir = Path(folder)
        for step in steps:
            manifest = manifest_of({"a.pt": b"12345"}, step, f"step-{step}", hours=float(step))
            (save_dir / manifest.tag).mkdir()
            (save_dir / manifest.tag / "manifest.json").write_text(manifest.to_json())
            (save_dir / manifest.tag / "a.pt").write_bytes(b"123" if step in damaged else b"12345")
        if latest is not None:
            (save_dir / "latest").write_text(f"step-{latest}")
        now_s = 1e9 + now_hours * 3600.0
        protected = {f"step-{step}" for step in protect}
        removed: list[str] = []
        Machine().run(lambda: removed.extend(prune(save_dir, keep, keep_hours, now_s, protected)))
        left = [manifest.step for manifest in scan(save_dir).committed]
    assert removed == [f"step-{step}" for step in steps if step not in left]
    must_stay = {*steps[-keep:], *protect, latest, *[step for step in steps if step not in damaged][-1:]}
    for step in steps:
        young = keep_hours is not None and now_hours - step < keep_hours
        assert (step in left) == (keep == 0 or step in must_stay or young)


def test_prune_leaves_the_last_good_one_though_newer_ones_are_damaged(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        committed(tmp_path, step)
    for step in (3, 4):
        os.truncate(tmp_path / f"step-{step}" / MODEL, 3)
    assert prune(tmp_path, 1, None, 2e9, ()) == ["step-1", "step-3"]
    assert tags(tmp_path) == ["step-2", "step-4"]


@pytest.mark.parametrize(
    "out", [lambda at: quarantine(at, "last", "x"), lambda at: prune(at, 1, None, 2e9, ())]
)
def test_what_was_replaced_does_not_come_back_when_its_successor_goes(out: Any, tmp_path: Path) -> None:
    committed(tmp_path, 5, tag="last")
    committed(tmp_path, 9)
    shutil.copytree(tmp_path / "last", tmp_path / ".attempts/replaced-last")
    out(tmp_path)
    assert repair_latest(tmp_path) is None
    assert tags(tmp_path) == ["step-9"]


def test_prune_leaves_what_it_does_not_know(tmp_path: Path) -> None:
    for step in (1, 2):
        committed(tmp_path, step)
    (tmp_path / "global_step1").mkdir()
    (tmp_path / "global_step1" / MODEL).write_bytes(b"x")
    assert prune(tmp_path, 1, None, 2e9, ()) == ["step-1"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".attempts",
        "global_step1",
        "latest",
        "step-2",
    ]
    assert [path.name for path in (tmp_path / ".attempts").iterdir()] == ["attempt-0001-step-000002"], (
        "may be in use"
    )


def test_tidy_removes_older_attempts_but_for_the_tags_still_on_their_way(tmp_path: Path) -> None:
    for step, attempt in ((5, 1), (10, 2), (15, 2), (20, 3)):
        written(tmp_path, step, attempt=attempt)
    (tmp_path / ".attempts/attempt-0002-step-000015/zero_to_fp32.py").write_text("print()")
    tidy(tmp_path, 3, keep=["step-15"])
    left = {path.relative_to(tmp_path / ".attempts").as_posix() for path in tmp_path.glob(".attempts/*/*")}
    assert left == {
        "attempt-0002-step-000015/step-15",
        "attempt-0002-step-000015/zero_to_fp32.py",
        "attempt-0003-step-000020/step-20",
    }
    (tmp_path / "last").mkdir()
    (tmp_path / ".attempts/replaced-last").mkdir()
    tidy(tmp_path, 1, keep=["last"])
    assert (tmp_path / ".attempts/replaced-last").is_dir()
    tidy(tmp_path, 4)
    assert list((tmp_path / ".attempts").iterdir()) == []
    tidy(tmp_path / "nowhere", 4)


def test_an_interrupted_replacement_is_put_back_not_tidied_away(tmp_path: Path) -> None:
    manifest = committed(tmp_path, 5, tag="last")
    (tmp_path / "last").rename(tmp_path / ".attempts/replaced-last")
    assert repair_latest(tmp_path) == f"{tmp_path}: put last back, whose replacement was cut short"
    assert verify(tmp_path, manifest) == {}
    (tmp_path / "last").rename(tmp_path / ".attempts/replaced-last")
    tidy(tmp_path, 9)
    assert scan(tmp_path).committed == [manifest]
    (tmp_path / "last").rename(tmp_path / ".attempts/replaced-last")
    assert quarantine(tmp_path, "last", "x") == tmp_path / ".quarantine/last.1"


@pytest.mark.parametrize(
    ("content", "was"),
    [
        (None, "was missing"),
        (b"", "was empty"),
        (b" \n", "was empty"),
        (b"step-99", "named 'step-99', which is not committed"),
        (b"../step-5", "named '../step-5', which is not committed"),
        (b"\xff\xfe", "was missing"),
    ],
)
def test_latest_is_repaired_to_the_newest_committed(content: bytes | None, was: str, tmp_path: Path) -> None:
    (tmp_path / "latest").write_text("global_step7")
    assert repair_latest(tmp_path) is None, "nothing is committed: DeepSpeed's own stays"
    assert (tmp_path / "latest").read_text() == "global_step7"
    for step in (10, 5):
        committed(tmp_path, step)
    assert repair_latest(tmp_path) is None, "an older one may be the latest"
    (tmp_path / "latest").unlink()
    if content is not None:
        (tmp_path / "latest").write_bytes(content)
    said = repair_latest(tmp_path)
    assert said == f"{tmp_path}: 'latest' {was}: it names step-10 now, the newest committed checkpoint"
    assert (tmp_path / "latest").read_text() == "step-10"
