"""A process is known again whatever the clock does, and no other is taken for it."""

from __future__ import annotations

import os
import subprocess
import sys

import psutil
import pytest

from orchestrator import processes
from orchestrator.processes import is_same, same_process, start_of


@pytest.fixture
def stepped(monkeypatch: pytest.MonkeyPatch) -> float:
    """The wall clock goes an hour back, and with it the time at which the machine was started."""
    before, boot = psutil.Process().create_time(), psutil.boot_time()
    monkeypatch.setattr("psutil._pslinux.boot_time", lambda: boot - 3600.0)
    return before


def test_a_process_is_the_same_after_a_step_of_the_clock(stepped: float) -> None:
    start = start_of()
    assert abs(psutil.Process().create_time() - stepped) > 3000.0, "as a time of day it is another"
    assert start == start_of(os.getpid())
    assert is_same(os.getpid(), start)


def test_whoever_has_its_number_later_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        start = start_of(child.pid)
        assert same_process(child.pid, start) == psutil.Process(child.pid)
        assert same_process(child.pid, f"{start}0") is None
        monkeypatch.setattr(processes, "_boot_id", lambda: "of the next start of the machine")
        assert not is_same(child.pid, start)
        monkeypatch.undo()
        assert child.stdin is not None
        child.stdin.close()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert not is_same(child.pid, start), "it has ended, though nobody has asked how"
    assert same_process(child.pid, start) is None
    with pytest.raises(FileNotFoundError):
        start_of(child.pid)
