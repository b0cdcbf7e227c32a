"""Real ranks that hang, and real ranks that only look like it: the first are ended, the others are named and
left.

Some worlds are started together and watched side by side, since most of what they do is to wait.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from orchestrator.agent.waits import Wait
from orchestrator.rank.launch.launcher import ZygoteLauncher
from tests.support.hang_harness import ENDING, OPENING, Watched
from tests.support.rank_harness import Bench, environment, wait_until

pytestmark = pytest.mark.real

EVIDENCE_S = 2.0
AT_ONCE = 6  # a look at a world costs a twentieth of a second of a processor

# What rank 1 does while the other waits for it in an all_reduce: ended.
HUNG = {
    "a lock that is never set": "threading.Event().wait()",
    "a queue that nobody fills": "import queue; queue.Queue().get()",
    "another collective": "dist.broadcast(torch.zeros(4), 0)",
    "a collective left out": "dist.all_reduce(torch.zeros(4), group=pair)",
    "lost in another group": "dist.all_reduce(torch.zeros(4), group=other)",  # rank 2 is in none
    "left the loop early": "dist.barrier(); sys.exit()",
    "a call into C that does not return": "ctypes.CDLL(None).pause()",
    "a call into C that keeps the interpreter": """
        lock, libc = ctypes.create_string_buffer(64), ctypes.PyDLL(None)
        [libc.pthread_mutex_lock(lock) for _ in "ab"]""",
    "not let go by the kernel": "libc = ctypes.PyDLL(None); libc.vfork() or libc.pause()",
    "a pool whose worker was killed": """
        pool = multiprocessing.get_context("fork").Pool(1)
        lost = pool.map_async(time.sleep, [300])
        time.sleep(0.5)
        os.kill(pool._pool[0].pid, 9)
        lost.get()""",
    "stopped": 'print("stop me", flush=True); time.sleep(300)',
}

# Which rank is named, and why.
WHO = {
    "another collective": (
        0,
        "is in another collective than others: all_reduce on rank 0 and broadcast on rank 1",
    ),
    "left the loop early": (
        0,
        "is in another collective than others: all_reduce on rank 0 and barrier on rank 1",
    ),
    "a collective left out": (0, "each rank never entered the all_reduce that 1 other rank waits in"),
    "lost in another group": (2, "never entered the all_reduce that 1 other rank waits in"),
    "a call into C that keeps the interpreter": (1, "has not come to where the others wait"),
    "not let go by the kernel": (1, "waits for a disk or a device at script.py"),
    "stopped": (1, "is stopped by a signal"),
}

# The same, and it is none of our business: named at most.
LEFT = {
    "sleeps": "time.sleep(300)",
    "sleeps in slices": "[time.sleep(0.2) for _ in range(1500)]",
    "evaluates a bare module": "model = torch.nn.Linear(8, 8)\nwhile True: model(torch.ones(4, 8))",
    "computes in Python": "while True: sum(range(1000))",
    "computes in C alone": "while True: torch.ones(300, 300) @ torch.ones(300, 300)",
    "a program": 'subprocess.run(["sleep", "300"])',
    "the output of a program": 'subprocess.run(["sleep", "300"], capture_output=True)',
    "the output of a shell": 'os.popen("sleep 300").read()',
    "a pool that sleeps": 'multiprocessing.get_context("fork").Pool(2).map(time.sleep, [300, 300])',
    "a pool that computes": """
        def busy(_):
            while True: sum(range(1000))
        globals()["busy"] = busy; busy.__qualname__ = "busy"
        multiprocessing.get_context("fork").Pool(1).map(busy, [1])""",
    "a stalled download": "socket.create_connection(listening()).recv(1)",
    "a stalled download with a timeout": "socket.create_connection(listening(), timeout=300).recv(1)",
    "a stalled request": 'urllib.request.urlopen("http://{}:{}/".format(*listening())).read()',
    "a stalled upload": "socket.create_connection(listening()).sendall(bytes(1 << 28))",
    "an upload in a thread": """
        with ThreadPoolExecutor() as pool:
            pool.submit(urllib.request.urlopen, "http://{}:{}/".format(*listening())).result()""",
    "a lock on a file": """
        held = open("lock", "w"); fcntl.flock(held, fcntl.LOCK_EX)
        fcntl.flock(open("lock", "w"), fcntl.LOCK_EX)""",
    "a terminal": 'os.read(os.open(os.ttyname(os.openpty()[1]), os.O_RDWR | os.O_NOCTTY), 1)',
    "a debugger on a pipe": """
        import pdb
        ours, theirs = os.pipe()
        globals()["theirs"] = theirs
        pdb.Pdb(stdin=os.fdopen(ours), stdout=sys.stdout, nosigint=True).set_trace()
        rank""",
    "several connections": "select.select([socket.create_connection(listening())], [], [])",
    "a poll": """
        peer, waits = socket.create_connection(listening()), select.poll()
        waits.register(peer, select.POLLIN)
        waits.poll()""",
    "an event loop": "import asyncio; asyncio.run(asyncio.sleep(300))",
    "held by a debugger": 'print("trace me", flush=True); threading.Event().wait()',
    "traced and let run": 'print("trace me", flush=True); threading.Event().wait()',
}  # fmt: skip

# What rank 1 does when the other has ended well. It is the last: ended, and in which phase.
LAST_HUNG = {
    "a lock that it holds itself": "lock = threading.Lock(); lock.acquire(); lock.acquire()",
    "two locks, each held by who wants the other": """
        one, other, both = threading.Lock(), threading.Lock(), threading.Barrier(2)
        def cross():
            with other: both.wait(); one.acquire()
        threading.Thread(target=cross, daemon=True).start()
        with one: both.wait(); other.acquire()""",
    "a lock while the interpreter is taken apart": """
        class Held:
            def __del__(self, lock=threading.Lock()): lock.acquire(); lock.acquire()
        globals()["held"] = Held()""",
}

# The same, and it is left: it may be needed, or be brought back.
LAST_LEFT = {
    "sleeps": "time.sleep(300)",
    "an upload in a thread": LEFT["an upload in a thread"],
    "serves from a thread": """
        import http.server
        server = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        threading.Event().wait()""",
}

# Without a debugger these two would be hung. gdb holds all threads, strace lets them run; neither is a stop.
TRACER = """
import ctypes, os, sys, time

libc = ctypes.CDLL(None, use_errno=True)
SEIZE, INTERRUPT, WALL = 0x4206, 0x4207, 0x40000000
for thread in map(int, os.listdir(f"/proc/{sys.argv[1]}/task")):
    assert libc.ptrace(SEIZE, thread, None, None) == 0, os.strerror(ctypes.get_errno())
    if sys.argv[2] == "hold":
        assert libc.ptrace(INTERRUPT, thread, None, None) == 0, os.strerror(ctypes.get_errno())
        assert os.WIFSTOPPED(os.waitpid(thread, WALL)[1])
print("traces", flush=True)
time.sleep(300)
"""


# Seen in different places, so there is nothing to name.
BUSY = ("evaluates a bare module", "computes in Python", "computes in C alone", "a pool that computes")


@pytest.fixture(scope="module")
def zygote() -> Iterator[ZygoteLauncher]:
    launcher = ZygoteLauncher(environment(OMP_NUM_THREADS="1"), ["torch", "torch.distributed", "numpy"])
    yield launcher
    launcher.close()


def worlds(
    shapes: dict[str, str], zygote: ZygoteLauncher, folder: Path, opening: str
) -> Iterator[tuple[str, Bench, Watched]]:
    for number, (name, text) in enumerate(shapes.items()):
        own = folder / str(number)
        own.mkdir()
        bench = Bench(zygote, own, environment(OMP_NUM_THREADS="1"))
        shape = textwrap.indent(textwrap.dedent(text.lstrip("\n")), "    ")
        script = bench.write(opening.replace("{shape}", shape))
        size = 3 if "another group" in name else 2
        yield name, bench, Watched(bench.start_world(script, world_size=size), EVIDENCE_S)


@pytest.fixture(scope="module")
def hung(zygote: ZygoteLauncher, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Watched]:
    def begun(name: str, bench: Bench, one: Watched) -> None:
        if name == "stopped":
            assert wait_until(lambda: "stop me" in bench.log(1))
            os.kill(one.ranks[1].pid, signal.SIGSTOP)

    return watched(
        HUNG, zygote, tmp_path_factory.mktemp("hung"), begun, lambda name, one: one.lost is not None
    )


@pytest.fixture(scope="module")
def left(zygote: ZygoteLauncher, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Watched]]:
    tracers = contextlib.ExitStack()

    def begun(name: str, bench: Bench, one: Watched) -> None:
        if "trace me" in LEFT[name]:
            assert wait_until(lambda: "trace me" in bench.log(1))
            tracers.enter_context(traced(one.ranks[1].pid, "hold" if "held" in name else "let run"))

    def enough(name: str, one: Watched) -> bool:
        return one.watched_s > 3 * EVIDENCE_S and (one.named is not None or name in BUSY)

    with tracers:
        yield watched(LEFT, zygote, tmp_path_factory.mktemp("left"), begun, enough)


@pytest.fixture(scope="module")
def last(zygote: ZygoteLauncher, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Watched]:
    def begun(name: str, bench: Bench, one: Watched) -> None:
        assert wait_until(lambda: one.ranks[0].poll() == 0), bench.log(0)

    def enough(name: str, one: Watched) -> bool:
        return one.lost is not None or (name in LAST_LEFT and one.watched_s > 2 * EVIDENCE_S)

    shapes = {**LAST_HUNG, **LAST_LEFT}
    return watched(shapes, zygote, tmp_path_factory.mktemp("last"), begun, enough, ENDING)


@contextlib.contextmanager
def traced(pid: int, how: str) -> Iterator[None]:
    """From another process, as debuggers are; the kernel lets go what it traced when it ends."""
    with subprocess.Popen(
        [sys.executable, "-c", TRACER, str(pid), how], stdout=subprocess.PIPE, text=True
    ) as tracer:
        assert tracer.stdout is not None
        try:
            assert tracer.stdout.readline() == "traces\n"
            yield
        finally:
            tracer.kill()


def watched(
    shapes: dict[str, str],
    zygote: ZygoteLauncher,
    folder: Path,
    begun: Callable[[str, Bench, Watched], None],
    enough: Callable[[str, Watched], bool],
    opening: str = OPENING,
) -> dict[str, Watched]:
    """All of them, a few at a time, each until there is enough to see of it and all of its ranks are ended.

    Or until the patience is over: what is missing then is each test's own to say.
    """
    found: dict[str, Watched] = {}
    names = list(shapes)
    for begin in range(0, len(names), AT_ONCE):
        own = folder / str(begin)
        own.mkdir()
        few = list(
            worlds({name: shapes[name] for name in names[begin : begin + AT_ONCE]}, zygote, own, opening)
        )
        try:
            for name, bench, one in few:
                begun(name, bench, one)
            watch_until(enough, few)
            for name, _, one in few:
                one.survived = one.ranks[1].poll() is None and all(
                    rank.poll() in (None, 0) for rank in one.ranks
                )
                found[name] = one
        finally:
            for _, bench, _ in few:
                bench.clear()
    return found


def watch_until(enough: Callable[[str, Watched], bool], few: Sequence[tuple[str, Bench, Watched]]) -> None:
    def look() -> bool:
        waiting = [one for name, _, one in few if not enough(name, one)]
        for one in waiting:
            one.poll()
        return not waiting

    wait_until(look)


@pytest.mark.parametrize("name", HUNG)
def test_a_rank_that_nothing_brings_back_is_ended(name: str, hung: dict[str, Watched]) -> None:
    one = hung[name]
    assert one.lost is not None, one.seen
    rank, words = WHO.get(name, (1, "rank 1 never entered the all_reduce that 1 other rank waits in"))
    assert (one.lost.rank, words in (one.lost.error or "")) == (rank, True), one.lost.error


@pytest.mark.parametrize("name", LEFT)
def test_a_rank_that_may_come_back_is_left(name: str, left: dict[str, Watched]) -> None:
    one = left[name]
    assert one.lost is None, one.lost
    assert one.survived
    if name not in BUSY:
        assert one.named is not None, one.seen
        assert (one.named.rank, one.named.doing != str(Wait.LOCK) or "pool" in name) == (1, True), one.named
        assert (one.named.doing == str(Wait.DEBUGGER)) == ("debugger" in name or "traced" in name), one.named


@pytest.mark.parametrize("name", LAST_HUNG)
def test_the_last_rank_is_ended_when_nothing_brings_it_back(name: str, last: dict[str, Watched]) -> None:
    one = last[name]
    assert one.lost is not None, one.seen
    assert one.lost.rank == 1
    words = "rank 1 is left behind by the other rank, which has ended with status 0; rank 1 waits for a lock"
    assert words in (one.lost.error or "")
    assert bool(one.lost.log_tail) == ("taken apart" not in name), "which has no stack any more"


@pytest.mark.parametrize("name", LAST_LEFT)
def test_the_last_rank_is_left_that_others_may_need(name: str, last: dict[str, Watched]) -> None:
    assert last[name].lost is None, last[name].lost
    assert last[name].survived
