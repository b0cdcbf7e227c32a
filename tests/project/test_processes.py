"""What the tests of real processes see, and whom they end."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.processes import below, end, open_segments, running, title
from tests.support.rank_harness import wait_until

PARENT = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(100)'])"


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    processes: list[subprocess.Popen[bytes]] = []
    yield processes
    for process in processes:
        process.kill()
        process.wait()


def test_descendants_of_each_root_are_found(started: list[subprocess.Popen[bytes]]) -> None:
    started += [subprocess.Popen([sys.executable, "-c", PARENT]) for _ in range(2)]
    roots = [psutil.Process(one.pid) for one in started]
    assert wait_until(lambda: all(below(*roots)))
    for root, found in zip(roots, below(*roots), strict=True):
        (child,) = found
        assert child == root.children()[0]
        assert title(child).endswith("time.sleep(100)")
        end(child)
    assert below(None) == [[]]


def test_nothing_is_below_a_root_that_has_ended(started: list[subprocess.Popen[bytes]]) -> None:
    """Its number may be that of a process that has children."""
    started.append(subprocess.Popen(["true"]))
    root = psutil.Process(started[0].pid)
    started[0].wait()
    assert not root.is_running()
    root._pid = os.getppid()
    assert below(root) == [[]]


def test_only_the_process_that_was_meant_is_ended(started: list[subprocess.Popen[bytes]]) -> None:
    """psutil checks a number before it strikes, but not of a process that it knows to have ended."""
    started += [subprocess.Popen(["true"]), subprocess.Popen(["sleep", "100"])]
    gone, other = (psutil.Process(one.pid) for one in started)
    started[0].wait()
    assert not gone.is_running()
    gone._pid = other.pid
    end(gone)
    assert started[1].poll() is None
    end(other)
    assert started[1].wait() == -9


def test_one_that_ends_while_it_is_asked_is_not_running(monkeypatch: pytest.MonkeyPatch) -> None:
    process = psutil.Process()
    assert running(process)

    def ended() -> str:
        raise psutil.NoSuchProcess(process.pid)

    monkeypatch.setattr(process, "status", ended)
    assert not running(process)
    monkeypatch.setattr(process, "status", lambda: psutil.STATUS_ZOMBIE)
    assert not running(process)


def test_segments_are_seen_while_a_process_has_them_open() -> None:
    path = Path(f"/dev/shm/orchestrator-test-{os.getpid()}")
    with path.open("wb"):
        assert path.name in open_segments()
    assert path.name not in open_segments()
    path.unlink()
