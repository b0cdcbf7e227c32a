"""The writer: what it writes is what `torch.save` would have written."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from orchestrator.checkpoint import writer
from orchestrator.checkpoint.writer_messages import ANSWERS, REQUESTS, Written
from orchestrator.rank.launch.launcher import ExecLauncher
from tests.support.rank_harness import Bench, environment, wait_until
from tests.support.slot_harness import (
    ABOUT,
    STATE,
    assert_same,
    assert_told_truly,
    new_slot,
    request,
    stage,
    states,
    write,
)


@pytest.mark.filterwarnings("ignore:ComplexHalf")
@given(state=states(), zipfile=st.booleans())
@settings(max_examples=40)
def test_what_is_written_loads_as_what_torch_saves(state: dict[str, Any], zipfile: bool) -> None:
    with new_slot(Path("/dev/shm")) as slot, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.save(state, folder / "expected.pt", _use_new_zipfile_serialization=zipfile)
        try:
            expected = torch.load(folder / "expected.pt", weights_only=False)
        except AttributeError:  # of its older format torch cannot read what it wrote of newer dtypes
            assert not zipfile
            reject()
        stage(slot, {"a.pt": state}, zipfile)
        [answer] = write(request(slot, folder, "a.pt"))
        assert_told_truly(answer, folder)
        assert_same(torch.load(folder / "a.pt", weights_only=False), expected)


@pytest.mark.parametrize("zipfile", [True, False])
def test_the_format_is_the_one_that_deepspeed_was_told(tmp_path: Path, zipfile: bool) -> None:
    torch.save(STATE, tmp_path / "expected.pt", _use_new_zipfile_serialization=zipfile)
    with new_slot(tmp_path) as slot:
        stage(slot, {"a.pt": STATE}, zipfile)
        write(request(slot, tmp_path))
    ours, theirs = (tmp_path / "a.pt").read_bytes(), (tmp_path / "expected.pt").read_bytes()
    assert ours[:2] == theirs[:2]
    assert abs(len(ours) - len(theirs)) < 1000
    assert_same(torch.load(tmp_path / "a.pt", weights_only=True), STATE)
    if zipfile:
        assert_same(torch.load(tmp_path / "a.pt", mmap=True), STATE)


def test_a_file_that_somebody_still_writes_to_is_another_one(tmp_path: Path) -> None:
    """The writer of an agent that was killed, on its own way to its end."""
    with new_slot(tmp_path) as slot, (tmp_path / "a.pt").open("wb") as of_the_killed:
        stage(slot, {"a.pt": STATE})
        [answer] = write(request(slot, tmp_path))
        of_the_killed.write(b"torn")
        of_the_killed.flush()
        assert_told_truly(answer, tmp_path)
        assert_same(torch.load(tmp_path / "a.pt", weights_only=True), STATE)


class OfTheScript:
    """The writer never imports it."""

    def __init__(self, position: int) -> None:
        self.position = position


def test_the_script_s_own_classes_need_not_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with new_slot(tmp_path) as slot:
        stage(slot, {"a.pt": {"client": OfTheScript(3), "w": torch.ones(3)}})
        with monkeypatch.context() as without:
            without.delattr(sys.modules[__name__], "OfTheScript")
            assert isinstance(write(request(slot, tmp_path / "t"))[0], Written)
            with pytest.raises(AttributeError):
                torch.load(tmp_path / "t" / "a.pt", weights_only=False)
    assert torch.load(tmp_path / "t" / "a.pt", weights_only=False)["client"].position == 3


def test_only_a_whole_generation_is_marked(tmp_path: Path) -> None:
    with new_slot(tmp_path) as slot:
        stage(slot, {"a.pt": 1, "sub/b.pt": 2})
        [answer] = write(request(slot, tmp_path / "t", "sub/b.pt"))
        assert isinstance(answer, Written)
        assert (list(answer.files), slot.written()) == (["sub/b.pt"], None)
        [answer] = write(request(slot, tmp_path / "t"))
        assert isinstance(answer, Written)
        assert sorted(answer.files) == ["a.pt", "sub/b.pt"]
        assert slot.written() == {key: ABOUT[key] for key in ("attempt", "tag", "dir")}
        assert torch.load(tmp_path / "t" / "sub" / "b.pt") == 2


# --- the process


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(ExecLauncher(), tmp_path, environment())
    yield bench
    bench.launcher.close()


@pytest.mark.real
def test_the_process_outlives_signals_and_ends_with_the_requests(bench: Bench, tmp_path: Path) -> None:
    requests_read, requests_write = os.pipe()
    answers_read, answers_write = os.pipe()
    paths = [f"/proc/{os.getpid()}/fd/{fd}" for fd in (requests_read, answers_write)]
    with new_slot(Path("/dev/shm")) as slot, open(answers_read, "rb") as answers:
        stage(slot, {"a.pt": {"client": OfTheScript(4), "w": STATE["w"]}})
        process = bench.start(writer.__file__, *paths)
        os.write(requests_write, REQUESTS.encode(request(slot, tmp_path / "t")))
        answer = ANSWERS.decode(answers.readline())
        assert_told_truly(answer, tmp_path / "t")
        assert slot.written() is not None
        assert psutil.Process(process.pid).nice() == 19
        for number in (signal.SIGTERM, signal.SIGINT):
            process.signal(number)
        time.sleep(0.1)
        for number in (6, 7):
            os.write(requests_write, REQUESTS.encode(request(slot, tmp_path / "t", number=number)))
        os.close(requests_write)
        assert [ANSWERS.decode(answers.readline()).id for _ in range(2)] == [6, 7]
        assert wait_until(lambda: process.poll() is not None)
        assert process.poll() == 0, bench.log()
        os.close(requests_read)
        os.close(answers_write)
    assert torch.load(tmp_path / "t" / "a.pt", weights_only=False)["client"].position == 4
