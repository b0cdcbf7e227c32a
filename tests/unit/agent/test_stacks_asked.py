"""Real ranks are asked for their stacks: who waits, who is stopped, and who must not be disturbed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.agent import hang_stacks as stacks_module
from orchestrator.agent.hang_stacks import (
    SIGNAL_AFTER_S,
    Inquiry,
    StackVerdict,
    ask_by_signal,
    catches,
    main_thread,
    name_culprits,
    process_state,
)
from orchestrator.rank import stacks as rank_stacks
from orchestrator.rank.launch.launcher import ExecLauncher, ZygoteLauncher
from orchestrator.rank.launch.process import RankProcess
from orchestrator.rank.link import HEARTBEAT_S
from tests.support.rank_harness import TIMEOUT_S, Bench, environment, wait_until


@pytest.fixture(scope="module")
def zygote() -> Iterator[ZygoteLauncher]:
    launcher = ZygoteLauncher(environment(), ["torch", "torch.utils.data"])
    yield launcher
    launcher.close()


@pytest.fixture
def bench(zygote: ZygoteLauncher, tmp_path: Path) -> Iterator[Bench]:
    made = Bench(zygote, tmp_path, environment())
    yield made
    made.clear()


@dataclass
class Other:
    """A process that is none of our ranks, or one that is asked only on paper."""

    pid: int
    asked: int = 0

    def ask_stacks(self) -> None:
        self.asked += 1


def asked(ranks: Iterable[RankProcess], waited_s: float = 0.0) -> Inquiry:
    """An inquiry that has been answered by all that can: it thinks that so much time has gone by, and no
    more."""
    inquiry = Inquiry({one.spec.rank: one for one in ranks}, now_s=0.0)
    assert wait_until(lambda: inquiry.poll(now_s=waited_s) is not None, TIMEOUT_S)
    return inquiry


def seen_when(ranks: Sequence[RankProcess], **expected: StackVerdict) -> dict[int, StackVerdict]:
    """What is seen of the ranks, once they have got to where their script makes them go.

    On the way there one may wait for another as well, and in an import, say, and not in the script.
    """
    last: dict[int, StackVerdict] = {}

    def is_there() -> bool:
        last.update(asked(ranks).judge())
        return {f"rank{rank}": one for rank, one in last.items()} == expected

    assert wait_until(is_there, TIMEOUT_S), last
    return last


MEETING = """
    import os
    import time

    import torch
    import torch.distributed as dist

    def think():
        time.sleep(300)

    def meet():
        {meet}

    dist.init_process_group("gloo")
    print("up", flush=True)
    for step in range(1_000_000):
        if os.environ["RANK"] == "1" and {absent}:
            think()
        meet()
"""


@pytest.mark.real
def test_the_rank_is_named_that_others_wait_for_in_a_collective(bench: Bench) -> None:
    script = bench.write(MEETING.format(meet="dist.all_reduce(torch.zeros(1))", absent="step == 3"))
    ranks = bench.start_world(script)
    waits = StackVerdict(True, "script.py:12 in meet", "sleeping")
    seen = seen_when(ranks, rank0=waits, rank1=StackVerdict(False, "script.py:9 in think", "sleeping"))
    assert name_culprits(list(seen.items())) == [1]


@pytest.mark.real
def test_a_rank_that_waits_for_a_collective_begun_earlier_is_not_taken_for_the_cause(bench: Bench) -> None:
    meet = "dist.all_reduce(torch.zeros(1), async_op=True).wait()"
    ranks = bench.start_world(bench.write(MEETING.format(meet=meet, absent="step == 3")))
    waits = StackVerdict(None, "script.py:12 in meet", "sleeping")
    seen = seen_when(ranks, rank0=waits, rank1=StackVerdict(False, "script.py:9 in think", "sleeping"))
    assert name_culprits(list(seen.items())) == [1]


@pytest.mark.real
def test_a_stopped_rank_is_named_and_not_waited_for(bench: Bench) -> None:
    script = bench.write(
        MEETING.format(meet="dist.all_reduce(torch.zeros(1)); time.sleep(0.01)", absent="False")
    )
    ranks = bench.start_world(script)
    assert all(bench.shows("up", rank.spec.rank) for rank in ranks)
    os.kill(ranks[1].pid, signal.SIGSTOP)
    seen = seen_when(
        ranks,
        rank0=StackVerdict(True, "script.py:12 in meet", "sleeping"),
        rank1=StackVerdict(None, "", "stopped"),
    )
    assert name_culprits(list(seen.items())) == [1]
    os.kill(ranks[1].pid, signal.SIGCONT)  # it answers what it was asked meanwhile, and goes on
    assert wait_until(lambda: process_state(ranks[1].pid) != "stopped")
    assert asked(ranks).judge()[1].state != "stopped"
    assert [rank.poll() for rank in ranks] == [None, None]


@pytest.mark.real
def test_a_rank_answers_from_native_code_that_keeps_the_interpreter_to_itself(bench: Bench) -> None:
    script = bench.write("""
        import ctypes
        def sleep():
            ctypes.PyDLL(None).usleep(300_000_000)  # with the interpreter's lock held
        print("up", flush=True)
        for _ in range(1000):
            sleep()
        """)
    rank = bench.start(script)
    assert bench.shows("up")
    inquiry = Inquiry({0: rank}, now_s=0.0)
    assert not wait_until(lambda: inquiry.poll(now_s=0.0) is not None, timeout_s=1.0)
    assert wait_until(lambda: "sleep" in asked([rank], waited_s=SIGNAL_AFTER_S).judge()[0].where)
    rank.messages()
    time.sleep(1.5 * HEARTBEAT_S)
    assert rank.messages() == []


@pytest.mark.real
def test_asking_disturbs_neither_the_script_nor_its_data_loaders(bench: Bench) -> None:
    script = bench.write("""
        import os, signal, time
        from torch.utils.data import DataLoader

        def slow(rows):
            time.sleep(0.05)
            return sum(rows)

        heard = []
        signal.signal(signal.SIGUSR1, lambda number, frame: heard.append(number))
        print("up", flush=True)
        loader = DataLoader(range(80), batch_size=2, num_workers=2, collate_fn=slow, multiprocessing_context="fork")
        sums = [int(total) for total in loader]
        os.kill(os.getpid(), signal.SIGUSR1)
        print("sums", sums == [4 * n + 1 for n in range(40)], heard, os.listdir("."), flush=True)
        """)
    rank = bench.start(script)
    assert bench.shows("up")
    answers = 0
    while rank.poll() is None:
        inquiry = Inquiry({0: rank}, now_s=0.0)
        wait_until(lambda inquiry=inquiry: inquiry.poll(0.0) is not None or rank.poll() is not None)
        answers += bool(main_thread((inquiry.poll(99.0) or {}).get(0, "")))
    assert rank.poll() == 0, bench.log()
    assert answers > 3
    expected = f"sums True [{int(signal.SIGUSR1)}] {os.listdir(bench.folder)}"
    assert bench.log().splitlines() == ["up", expected]


@pytest.mark.real
def test_a_question_strikes_nobody_beside_a_thread_that_runs(bench: Bench) -> None:
    """Threads that run are not to be walked through from outside: one answer in nine was a crash."""
    script = bench.write("""
        import json, threading, time
        def work():
            while True:
                json.loads(json.dumps([[number] for number in range(20)]))
        threading.Thread(target=work, daemon=True).start()
        print("up", flush=True)
        time.sleep(300)
        """)
    rank = bench.start(script)
    assert bench.shows("up")
    for _ in range(100):
        assert main_thread(asked([rank]).poll(0.0)[0])  # type: ignore[index]
    assert rank.poll() is None


@pytest.mark.real
def test_asking_a_rank_that_ends_does_not_change_how_it_ends(bench: Bench) -> None:
    """An interpreter that is being taken apart has no stacks to show, and the question must not kill it."""
    script = bench.write("""
        import sys, time

        class Late:
            def __init__(self):
                self.sleep, self.write = time.sleep, sys.stdout.write

            def __del__(self):
                self.write("late\\n")
                self.sleep(1)

        sys.late = Late()  # taken apart with the interpreter, after all functions of atexit
        sys.exit(7)
        """)
    rank = bench.start(script)
    assert bench.shows("late")
    assert not catches(rank.pid)
    while rank.poll() is None:
        rank.ask_stacks()
        os.kill(rank.pid, rank_stacks.SIGNAL)  # as from somebody who had looked a moment before
        time.sleep(0.01)
    assert rank.poll() == 7, bench.log()


@pytest.mark.real
def test_an_execd_rank_answers_too(tmp_path: Path) -> None:
    bench = Bench(ExecLauncher(), tmp_path, environment())
    try:
        rank = bench.start(bench.write("import time; time.sleep(300)"))
        assert wait_until(lambda: asked([rank]).judge()[0].where == "script.py:1 in <module>")
    finally:
        bench.clear()


@pytest.mark.real
def test_a_process_that_does_not_answer_is_not_killed_by_the_question() -> None:
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    try:
        ask_by_signal([other.pid])
        inquiry = Inquiry({0: Other(other.pid)}, now_s=0.0)
        inquiry.poll(0.0)
        assert inquiry.poll(0.0) == {0: ""}
        # it may wait for a disk
        assert process_state(other.pid) in ("sleeping", "running", "uninterruptible")
    finally:
        other.kill()
        other.wait()
    assert process_state(other.pid) == "gone"
    ask_by_signal([other.pid])
    assert Inquiry({0: Other(other.pid)}, now_s=0.0).poll(0.0) == {0: ""}


def test_an_answer_that_does_not_come_is_waited_for_so_long(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A rank in a driver call is there, and its signal is never delivered."""
    monkeypatch.setattr(rank_stacks, "answers_of", lambda pid: str(tmp_path / "answers"))
    monkeypatch.setattr(stacks_module, "catches", lambda pid: True)
    signalled: list[int] = []
    monkeypatch.setattr(stacks_module, "ask_by_signal", signalled.extend)
    (tmp_path / "answers").write_text("an older answer\n")
    rank = Other(os.getpid())
    inquiry = Inquiry({0: rank}, now_s=10.0)
    assert inquiry.poll(10.1) is inquiry.poll(14.9) is None
    assert (rank.asked, signalled) == (1, [])
    assert inquiry.poll(15.0) is inquiry.poll(16.9) is None
    assert (rank.asked, signalled) == (1, [os.getpid()])
    assert inquiry.poll(17.0) == {0: ""}
