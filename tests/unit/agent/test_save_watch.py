"""What scripts save by themselves is told when it is whole: real files, and this process as the rank."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.agent.messages import EngineTold, Part, RankSavedFile, RankSaveWhole
from orchestrator.agent.save_watch import LOOK_EVERY_S, SaveWatch, open_for_writing
from orchestrator.rank.messages import EngineMade
from tests.unit.checkpoint.test_script_saves import as_torch, cut

OURS = (os.getpid(),)
ENGINE = EngineTold(EngineMade(16, 8, 1, "fp32", 1, 2))


class Watched:
    """A watch, with a clock that only the test moves."""

    def __init__(self, folder: Path) -> None:
        self.watch, self.now_s = SaveWatch(folder, finds=True), 0.0

    def looks(self, *parts: Part, times: int = 3, pids: tuple[int, ...] = OURS) -> list[Part]:
        """What is told within so many looks, each waited for."""
        told: list[Part] = []
        for _ in range(times):
            self.now_s += LOOK_EVERY_S
            told += self.watch.poll(parts, pids, self.now_s)
            parts, deadline_s = (), time.monotonic() + 60
            while self.watch._looking is not None and time.monotonic() < deadline_s:
                told += self.watch.poll((), pids, self.now_s)
        return told


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    as_torch(tmp_path / "earlier_1.pt")
    made = Watched(tmp_path)
    yield made
    made.watch.close()


def saved(path: Path, step: int) -> RankSavedFile:
    return RankSavedFile(0, str(path), step, 0.1)


def whole(path: Path, step: int, size_bytes: int) -> RankSaveWhole:
    return RankSaveWhole(str(path), step, size_bytes)


def test_a_file_is_told_once_when_nobody_has_it_open_for_writing(tmp_path: Path, watched: Watched) -> None:
    path = tmp_path / "ckpt.pt"
    as_torch(path)
    size = path.stat().st_size
    with path.open("r+b"):
        assert str(path) in open_for_writing(OURS)
        assert watched.looks(saved(path, 5)) == []
    with path.open("rb"):
        assert str(path) not in open_for_writing(OURS), "who reads does not write"
        assert watched.looks() == [whole(path, 5, size)]
    assert watched.looks(saved(path, 5)) == [], "another rank says the same"
    assert watched.looks(saved(path, 10)) == [whole(path, 10, size)], "it was written anew"


def test_a_folder_is_one_save_and_told_when_it_changes_no_more(tmp_path: Path, watched: Watched) -> None:
    folder = tmp_path / "step_5"
    folder.mkdir()
    as_torch(folder / "model.pt")
    assert watched.looks(saved(folder / "model.pt", 5), times=1) == []
    as_torch(folder / "optimizer.pt")
    assert watched.looks(times=1) == []
    told = watched.looks(saved(folder / "optimizer.pt", 5))
    assert told == [whole(folder, 5, sum(each.stat().st_size for each in folder.iterdir()))]


def test_what_is_torn_is_not_told_and_what_was_there_before_neither(tmp_path: Path, watched: Watched) -> None:
    path = tmp_path / "ckpt.pt"
    as_torch(path)
    cut(path)
    assert watched.looks(saved(path, 5)) == []
    assert watched.looks(pids=()) == []
    as_torch(path)
    assert watched.looks(pids=()) == [], "nobody is left who could have written it"


def test_the_last_one_is_told_as_the_ranks_are_gone(tmp_path: Path, watched: Watched) -> None:
    path = tmp_path / "last.pt"
    as_torch(path)
    told = watched.watch.poll([saved(path, 12)], (), watched.now_s)
    assert told == [whole(path, 12, path.stat().st_size)]


def test_what_nobody_tells_of_is_found_in_the_folder(tmp_path: Path, watched: Watched) -> None:
    (tmp_path / "step_15").mkdir()
    (tmp_path / "notes.txt").write_text("no checkpoint")
    assert watched.looks() == []
    as_torch(tmp_path / "step_15" / "weights.pt")
    size = (tmp_path / "step_15" / "weights.pt").stat().st_size
    assert watched.looks() == [whole(tmp_path / "step_15", 15, size)]


def test_what_an_engine_saves_is_not_told_twice(tmp_path: Path, watched: Watched) -> None:
    assert watched.looks(ENGINE) == []
    as_torch(tmp_path / "global_step5.pt")
    assert watched.looks() == []
