"""A file of ours is there whole or as it was, and what is promised durable is on the disk."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from orchestrator import files
from orchestrator.files import atomic_write


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of what was synced, in order; folders end with a slash."""
    names: list[str] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{fd}"))
        names.append(f"{path.name}/" if path.is_dir() else path.name)
        real(fd)

    monkeypatch.setattr(files.os, "fsync", fsync)
    return names


def test_a_durable_file_has_its_content_and_then_its_name_on_the_disk(
    tmp_path: Path, synced: list[str]
) -> None:
    atomic_write(tmp_path / "run.json", "one", beside="half")
    assert (tmp_path / "run.json").read_text() == "one"
    assert synced == ["half", f"{tmp_path.name}/"]
    atomic_write(tmp_path / "run.json", b"two", durable=False)
    assert (tmp_path / "run.json").read_bytes() == b"two"
    assert len(synced) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


@pytest.mark.parametrize("beside", [None, "half"])
def test_where_there_is_no_space_the_old_file_stays_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beside: str | None
) -> None:
    path = atomic_write(tmp_path / "run.json", "old")

    def full(_fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        atomic_write(path, "new", beside=beside)
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("run.json", "old")]


def test_what_a_crash_left_is_taken_over_and_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "half").write_text("left by a crash, and longer than what comes")
    atomic_write(tmp_path / "latest", "step-7", beside="half")
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("latest", "step-7")]
    precious = tmp_path / "precious"
    precious.write_text("keep me")
    (tmp_path / "half").symlink_to(precious)
    with pytest.raises(OSError, match="symbolic links"):
        atomic_write(tmp_path / "latest", "step-8", beside="half")
    assert precious.read_text() == "keep me"
    assert (tmp_path / "latest").read_text() == "step-7"
