"""The writer when a slot is reused, a request cannot be fulfilled, or the disk is full."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch

from orchestrator.checkpoint.writer import Writer
from orchestrator.checkpoint.writer_messages import Answer, Failed, Freed, Held, Written
from tests.support.slot_harness import (
    ABOUT,
    STATE,
    assert_same,
    assert_told_truly,
    never,
    new_slot,
    request,
    small_tmpfs,
    stage,
    write,
)

# --- requests that cannot be fulfilled


@pytest.mark.parametrize("changed", [{"attempt": 2}, {"tag": "global_step8"}, {"dir": "/elsewhere"}])
def test_a_slot_that_holds_another_generation_is_not_written(tmp_path: Path, changed: dict[str, Any]) -> None:
    with new_slot(tmp_path) as slot:
        stage(slot, {"a.pt": 1}, **changed)
        [answer] = write(request(slot, tmp_path / "t", "a.pt"))
        assert isinstance(answer, Failed)
        assert "was reused" in answer.reason
        assert str(next(iter(changed.values()))) in answer.reason
        assert not (tmp_path / "t").exists()


def test_a_slot_reused_in_the_middle_leaves_no_file_behind(tmp_path: Path) -> None:
    with new_slot(tmp_path) as slot:
        stage(slot, {"a.pt": STATE, "b.pt": STATE})

        class Meanwhile(Stumbling):
            def stumble(self) -> None:
                slot.begin(**{**ABOUT, "step": 8, "tag": "global_step8"})
                slot.add("a.pt", {"w": torch.zeros(100_000)}, True)

        [answer] = write(request(slot, tmp_path / "t"), create=Meanwhile.on("b.pt"))
        assert isinstance(answer, Failed)
        assert "global_step8" in answer.reason
        assert not (tmp_path / "t" / "b.pt").exists()
        assert slot.written() is None


def test_what_is_wrong_is_said_and_the_next_is_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with new_slot(tmp_path) as slot:
        stage(slot, {"a.pt": 1})
        answers: list[Answer] = []
        writer = Writer(answers.append, never)
        writer.handle(request(slot, tmp_path / "t", "b.pt"))
        writer.handle(request(slot, tmp_path / "file", "a.pt"))
        writer.handle(replace(request(slot, tmp_path / "t"), slot="/proc/self/fd/9999"))
        writer.handle(request(None, tmp_path / "t", "nowhere.pt"))
        writer.handle(request(slot, tmp_path / "t", "a.pt"))
    assert [type(answer) for answer in answers] == [Failed] * 4 + [Written]
    for answer, word in zip(answers, ("b.pt", "File exists", "9999", "nowhere.pt"), strict=False):
        assert isinstance(answer, Failed)
        assert word in answer.reason


def test_files_that_lie_there_already_are_hashed(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(os.urandom(5_000_000))
    [answer] = write(request(None, tmp_path, "a.pt"))
    assert_told_truly(answer, tmp_path)


# --- a disk that is full


class Stumbling:
    """A file on which something happens after the first 50,000 bytes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._left = 50_000

    @classmethod
    def on(cls, name: str, times: int = 1) -> Callable[[Path], Any]:
        """Opens as `open`, and stumbling the first times that it is this file."""
        left = [times]

        def create(path: Path) -> Any:
            if path.name != name or not left[0]:
                return path.open("wb")
            left[0] -= 1
            return cls(path.open("wb"))

        return create

    def stumble(self) -> None:
        raise NotImplementedError

    def write(self, data: Any) -> int:
        before, self._left = self._left, self._left - memoryview(data).nbytes
        if before > 0 >= self._left:
            self.stumble()
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()

    def fileno(self) -> int:
        return self._file.fileno()

    def __enter__(self) -> Stumbling:
        return self

    def __exit__(self, *_raised: object) -> None:
        self._file.close()


@pytest.mark.parametrize("zipfile", [True, False])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_without_space_it_says_so_once_waits_and_writes_in_the_end(
    tmp_path: Path, number: int, zipfile: bool
) -> None:
    class Full(Stumbling):
        def stumble(self) -> None:
            raise OSError(number, os.strerror(number))

    waits = []

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        assert [path.name for path in (tmp_path / "t").iterdir()] == ["a.pt"]  # nothing written in vain stays
        return False

    with new_slot(tmp_path) as slot:
        stage(slot, {"a.pt": {"small": 1}, "b.pt": STATE}, zipfile)
        answers = write(request(slot, tmp_path / "t"), wait, create=Full.on("b.pt", times=3))
    assert [type(answer) for answer in answers] == [Held, Freed, Written]
    assert waits == [1.0] * 3
    assert answers[0] == Held(5, f"{tmp_path / 't' / 'b.pt'}: {os.strerror(number)}")
    assert isinstance(answers[1], Freed)
    assert answers[1].held_s >= 0
    assert_told_truly(answers[2], tmp_path / "t")
    assert_same(torch.load(tmp_path / "t" / "b.pt"), STATE)


def test_it_does_not_wait_for_space_when_nobody_asks_any_more(tmp_path: Path) -> None:
    class Full(Stumbling):
        def stumble(self) -> None:
            raise OSError(errno.ENOSPC, "full")

    with new_slot(tmp_path) as slot:
        stage(slot, {"a.pt": STATE})
        answers = write(request(slot, tmp_path / "t"), lambda _seconds: True, create=Full.on("a.pt"))
    assert [type(answer) for answer in answers] == [Held, Failed]


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    with new_slot(tmp_path) as slot, small_tmpfs(tmp_path / "small", 1 << 20) as disk:
        stage(slot, {"a.pt": STATE})
        (disk / "other").write_bytes(b"x" * (800 << 10))
        tries = []

        def wait(_seconds: float) -> bool:
            tries.append(os.statvfs(disk).f_bavail)
            if len(tries) == 3:
                (disk / "other").unlink()
            return len(tries) > 10

        answers = write(request(slot, disk / "t"), wait)
        assert [type(answer) for answer in answers] == [Held, Freed, Written]
        assert len(tries) == 3
        assert_told_truly(answers[2], disk / "t")
        assert_same(torch.load(disk / "t" / "a.pt"), STATE)
