"""A journal on a full disk: the run waits for space and loses nothing."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from orchestrator.cli.show.terminal import Terminal
from orchestrator.driver import on_record
from orchestrator.errors import RunDirectoryError
from orchestrator.events import ResourcesReleased
from orchestrator.ledger.journal import Journal, replay
from orchestrator.supervise.loop import StopRequest


class FullDisk:
    """The next writes find no space, each leaving half of what it was given."""

    def __init__(self, times: int, number: int = errno.ENOSPC) -> None:
        self.times, self.number = times, number
        self.write = os.write

    def __call__(self, fd: int, data: Any) -> int:
        if self.times == 0:
            return self.write(fd, data)
        self.times -= 1
        self.write(fd, bytes(data)[: len(data) // 2])
        raise OSError(self.number, os.strerror(self.number))


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setattr(on_record, "_SPACE_S", 0.001)
    return Terminal(Console(file=io.StringIO(), width=200), None)


def test_it_waits_says_so_once_and_goes_on(
    tmp_path: Path, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Journal(tmp_path / "journal.jsonl") as journal:
        disk = FullDisk(times=3)
        monkeypatch.setattr(os, "write", disk)
        record = on_record.append(journal, ResourcesReleased(), terminal.notice, StopRequest())
    assert disk.times == 0
    assert [one.event for one in replay(tmp_path / "journal.jsonl")] == [record.event]
    said = terminal._console.file.getvalue()  # type: ignore[attr-defined]
    assert said.count("No space left on device") == said.count("waiting for space") == 1


@pytest.mark.parametrize(("number", "level"), [(errno.EIO, 0), (errno.ENOSPC, 2)])
def test_another_error_and_a_second_ctrl_c_end_the_wait(
    number: int, level: int, tmp_path: Path, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Journal(tmp_path / "journal.jsonl") as journal:
        monkeypatch.setattr(os, "write", FullDisk(times=1, number=number))
        with pytest.raises(RunDirectoryError, match="cannot write the journal"):
            on_record.append(journal, ResourcesReleased(), terminal.notice, StopRequest(level=level))
    assert list(replay(tmp_path / "journal.jsonl")) == []
