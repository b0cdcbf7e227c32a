"""What counts as doing nothing, and what processes wait for as their kernel tells it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.agent.hang_stacks import Frame
from orchestrator.agent.look import refined
from orchestrator.agent.stillness import Sample, Stillness
from orchestrator.agent.vitals import Vitals, vitals
from orchestrator.agent.waits import Wait, wait_of
from orchestrator.rank.collectives import from_trace
from orchestrator.rank.messages import GroupSeen
from tests.support.processes import end
from tests.support.rank_harness import wait_until

HERE = (Frame("/job/train.py", 7, "step"), Frame("/job/train.py", 20, "<module>"))
NOTHING = Vitals(frozenset({1, 2}), 10.0, 1000, 50, frozenset({(1, "/data")}), 777)
QUIET = Sample(0.0, HERE, Wait.LOCK, NOTHING, NOTHING)

CHANGES = {
    "a line further": {"stack": (Frame("/job/train.py", 8, "step"), HERE[1])},
    "another wait": {"wait": Wait.SOCKET},
    "no stack to see": {"stack": ()},
    "no counters to see": {"before": None},
    "bytes of a file": {"before": replace(NOTHING, io=1001)},
    "a page from the disk": {"before": replace(NOTHING, faults=51)},
    "another file": {"before": replace(NOTHING, files=frozenset())},
    "another process": {"before": replace(NOTHING, pids=frozenset({1}))},
    "bytes of a connection": {"before": replace(NOTHING, socket_bytes=778)},
    "time of a processor": {"before": replace(NOTHING, cpu_s=11.0)},
}


def test_nothing_changes_for_as_long_as_nothing_does() -> None:
    follows = Stillness()
    assert [follows.look(replace(QUIET, at_s=at_s)).still_s for at_s in (5.0, 15.0, 30.0)] == [
        0.0,
        10.0,
        25.0,
    ]


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_changes_begins_it_anew(change: str) -> None:
    follows = Stillness()
    follows.look(QUIET)
    assert follows.look(replace(QUIET, at_s=10.0)).still_s == 10.0
    assert follows.look(replace(QUIET, at_s=20.0, **CHANGES[change])).still_s == 0.0  # type: ignore[arg-type]


def test_an_answer_is_work_that_does_not_count() -> None:
    follows = Stillness()
    follows.look(replace(QUIET, after=replace(NOTHING, io=2000)))
    assert follows.look(replace(QUIET, at_s=10.0, before=replace(NOTHING, io=2000))).still_s == 10.0


@given(st.lists(st.floats(0.0, 0.009), min_size=1, max_size=50))
def test_a_thread_that_looks_at_a_clock_now_and_then_is_no_work(shares: list[float]) -> None:
    follows, cpu_s = Stillness(), 10.0
    follows.look(QUIET)
    for number, share in enumerate(shares, start=1):
        cpu_s += share * 10.0
        now = replace(NOTHING, cpu_s=cpu_s)
        assert (
            follows.look(replace(QUIET, at_s=10.0 * number, before=now, after=now)).still_s == 10.0 * number
        )


def test_a_stopped_rank_needs_no_stack() -> None:
    follows = Stillness()
    stopped = replace(QUIET, stack=(), wait=Wait.STOPPED)
    follows.look(stopped)
    assert follows.look(replace(stopped, at_s=10.0)).still_s == 10.0


def test_an_interpreter_that_is_taken_apart_has_no_stack_to_ask_for() -> None:
    follows = Stillness()
    ends = replace(QUIET, stack=(), taken_apart=True)
    follows.look(QUIET)
    assert [follows.look(replace(ends, at_s=at_s)).still_s for at_s in (10.0, 20.0, 30.0)] == [
        0.0,
        10.0,
        20.0,
    ]
    works = replace(NOTHING, cpu_s=20.0)
    assert follows.look(replace(ends, at_s=40.0, before=works)).still_s == 0.0


def test_the_same_place_is_the_same_functions_and_says_how_busy_they_were() -> None:
    follows = Stillness()
    follows.look(QUIET)
    other_line = (Frame("/job/train.py", 9, "step"), HERE[1])
    told = follows.look(replace(QUIET, at_s=10.0, stack=other_line, before=replace(NOTHING, cpu_s=15.0)))
    assert (told.still_s, told.same_place_s, told.cpu_share) == (0.0, 10.0, 0.5)
    elsewhere = (Frame("/job/train.py", 7, "evaluate"), HERE[1])
    assert follows.look(replace(QUIET, at_s=20.0, stack=elsewhere)).same_place_s == 0.0


@pytest.fixture
def children() -> Iterator[list[subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for one in started:
        os.killpg(one.pid, signal.SIGKILL)  # not waited for yet, so the number is its own
        one.wait()


def run(children: list[subprocess.Popen[bytes]], text: str) -> int:
    # A session of its own, as a rank has.
    children.append(subprocess.Popen([sys.executable, "-c", text], start_new_session=True))
    return children[-1].pid


WAITING = {
    Wait.TIMER: "import time; time.sleep(300)",
    Wait.LOCK: "import threading; threading.Lock().acquire() and threading.Event().wait()",
    Wait.CHILD: "import os; pid = os.fork(); os.waitpid(pid, 0) if pid else __import__('time').sleep(300)",
    Wait.PIPE: "import os; ends = os.pipe(); os.read(ends[0], 1)",
    Wait.SOCKET: "import socket; s = socket.create_server(('127.0.0.1', 0)); s.accept()",
    Wait.CALL: "import signal; signal.pause()",
    Wait.TERMINAL: "import os; a, b = os.openpty(); os.read(b, 1)",
    Wait.FILE_LOCK: (
        "import fcntl; a, b = open('/dev/null'), open(__import__('sys').executable); "
        "c = open(b.name); fcntl.flock(b, 2); fcntl.flock(c, 2)"
    ),
    Wait.COMPUTES: "while True: pass",
}


@pytest.mark.real
def test_what_processes_wait_for(children: list[subprocess.Popen[bytes]]) -> None:
    pids = {wait: run(children, text) for wait, text in WAITING.items()}
    for wait, pid in pids.items():
        assert wait_until(lambda wait=wait, pid=pid: wait_of(pid) is wait), (wait, wait_of(pid))
    os.kill(pids[Wait.TIMER], signal.SIGSTOP)
    assert wait_until(lambda: wait_of(pids[Wait.TIMER]) is Wait.STOPPED)
    end(psutil.Process(pids[Wait.LOCK]))
    assert wait_until(lambda: wait_of(pids[Wait.LOCK]) is Wait.GONE)


@pytest.mark.real
def test_what_a_tree_of_processes_does_is_seen(children: list[subprocess.Popen[bytes]]) -> None:
    """Work, files and connections of a grandchild whose parent has ended count as well."""
    server = socket.create_server(("127.0.0.1", 0))
    port = server.getsockname()[1]
    text = f"""
import os, socket, time
if os.fork() == 0:
    if os.fork() == 0:
        peer = socket.create_connection(("127.0.0.1", {port}))
        while (order := peer.recv(1)) != b"q":
            if order == b"w":
                end_s = time.process_time() + 0.2
                while time.process_time() < end_s: pass
            if order == b"r":
                open("/proc/self/maps").read()
        time.sleep(300)
    os._exit(0)
time.sleep(300)
"""
    leader = run(children, text)
    peer, _ = server.accept()

    def now(quiet_port: int | None = None) -> Vitals:
        return vitals([leader], quiet_port)[leader]

    assert wait_until(lambda: len(now().pids) >= 2)
    # The one in the middle, which has ended, may still be there: what it did does not change any more.
    before = now()
    assert now() == replace(before, pids=now().pids, files=now().files)
    peer.sendall(b"x")
    assert wait_until(lambda: now().socket_bytes > before.socket_bytes)
    assert now(port).socket_bytes == now(port).socket_bytes == 0
    peer.sendall(b"w")
    assert wait_until(lambda: now().cpu_s >= before.cpu_s + 0.1)
    io = now().io
    peer.sendall(b"r")
    assert wait_until(lambda: now().io > io)
    peer.close()
    server.close()
    end(*map(psutil.Process, now().pids - {leader}))
    assert vitals([4_000_000], None) == {}


@pytest.mark.parametrize(
    ("wait", "innermost", "others", "expected"),
    [
        (Wait.LOCK, "/usr/lib/python3.11/threading.py:1 wait", [], Wait.LOCK),
        (Wait.PIPE, "/usr/lib/python3.11/multiprocessing/connection.py:1 _recv", [], Wait.WORKERS),
        (Wait.PIPE, "/job/train.py:1 read", [], Wait.PIPE),
        (Wait.PIPE, "/usr/lib/python3.11/subprocess.py:1 _communicate", [], Wait.CHILD),
        (Wait.LOCK, "/usr/lib/python3.11/threading.py:1 wait", ["/usr/lib/python3.11/ssl.py:1 read"], Wait.SOCKET),
        (Wait.LOCK, "/usr/lib/python3.11/threading.py:1 wait", ["/usr/lib/python3.11/socket.py:1 accept"], Wait.LOCK),
        (Wait.LOCK, "/usr/lib/python3.11/pdb.py:1 interaction", [], Wait.DEBUGGER),
        (Wait.SOCKET, "/venv/site-packages/debugpy/server/api.py:1 wait", [], Wait.DEBUGGER),
    ],
)  # fmt: skip
def test_stacks_tell_what_is_behind_a_lock_or_a_pipe(
    wait: Wait, innermost: str, others: list[str], expected: Wait
) -> None:
    def frame(text: str) -> Frame:
        place, _, name = text.partition(" ")
        file, _, line = place.rpartition(":")
        return Frame(file, int(line), name)

    assert refined(wait, [frame(innermost), *HERE], [[frame(one)] for one in others]) is expected


def test_a_flight_recorder_tells_what_is_under_way() -> None:
    def entry(group: str, name: str, **about: object) -> dict[str, object]:
        return {"process_group": (group, ""), "profiling_name": name, "retired": False, "state": "scheduled",
                "is_p2p": False, **about}  # fmt: skip

    trace = {
        "pg_status": {
            name: {"last_enqueued_collective": count} for name, count in (("0", 7), ("1", 3), ("2", -1))
        },
        "entries": [
            entry("0", "gloo:all_reduce", retired=True),
            entry("0", "nccl:_all_gather_base"),
            entry("1", "nccl:broadcast", state="completed"),
            entry("2", "gloo:recv 1<-0", is_p2p=True),
            entry("9", "gloo:barrier"),
        ],
    }
    assert from_trace(trace) == {
        "0": GroupSeen(7, "_all_gather_base"),
        "1": GroupSeen(3, ""),
        "2": GroupSeen(0, "recv 1<-0", peer=True),
    }
