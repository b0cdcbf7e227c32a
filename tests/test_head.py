"""The head that `up` starts lives in a session of its own, which ends as a whole."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from orchestrator.cluster.head import stop_session

pytestmark = pytest.mark.real

# What is forked between a look at the processes and the signal to its parent is not seen by that look.
FORKING = """
import os, time
print("running", flush=True)
for _ in range(400):
    if not os.fork():
        time.sleep(60)
        os._exit(0)
    time.sleep(0.001)
time.sleep(60)
"""


@pytest.fixture
def forking() -> Iterator[subprocess.Popen[str]]:
    first = subprocess.Popen([sys.executable, "-c", FORKING], stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert first.stdout is not None
    assert first.stdout.readline() == "running\n"
    yield first
    stop_session(first.pid)
    first.stdout.close()
    first.wait(10)


def session_of(process: psutil.Process) -> int | None:
    try:
        return None if process.status() == psutil.STATUS_ZOMBIE else os.getsid(process.pid)
    except (psutil.Error, OSError):
        return None


def test_a_session_ends_to_its_last_process_though_they_fork(forking: subprocess.Popen[str]) -> None:
    stop_session(forking.pid)
    assert [process for process in psutil.process_iter() if session_of(process) == forking.pid] == []
