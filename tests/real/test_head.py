"""The head that `up` starts lives in a session of its own, which ends as a whole."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from orchestrator.cluster.warm.head import stop_head, stop_session
from orchestrator.cluster.warm.record import WarmCluster

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
    first = subprocess.Popen(
        [sys.executable, "-c", FORKING], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
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


def test_a_number_on_record_that_is_somebody_elses_by_now_is_left_alone() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(300)"], start_new_session=True
    ) as other:
        earlier_s = psutil.Process(other.pid).create_time() - 60.0
        stop_head(on_record(other.pid, earlier_s))
        assert other.poll() is None
        other.kill()


def on_record(head_pid: int, created_unix_s: float) -> WarmCluster:
    return WarmCluster("127.0.0.1:1", None, None, head_pid, created_unix_s, created_unix_s, 60.0)
