"""Signals that job managers send to every process of a run, as a rank and its children hear them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.config.signals import stop_numbers
from orchestrator.driver.stopping import asked_by_signals, exit_code
from orchestrator.errors import ConfigError
from orchestrator.rank.launch.launcher import ZygoteLauncher
from orchestrator.supervise.loop import StopRequest
from tests.support.rank_harness import Bench, environment, wait_until

NUMBERS = [int(one) for one in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)]


@pytest.mark.parametrize(("name", "number"), [("TERM", 15), ("sigusr1", 10), ("HUP", 1)])
def test_names_are_as_job_managers_write_them(name: str, number: int) -> None:
    assert stop_numbers([name]) == [number]


@pytest.mark.parametrize("name", ["KILL", "INT", "USR3", "15"])
def test_what_cannot_be_heard_or_is_no_signal_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"recovery.stop_signals={name}: not one of TERM, HUP, USR1"):
        stop_numbers([name])


@pytest.fixture
def defaults() -> Iterator[None]:
    """As for a process that a terminal starts, whoever started these tests (`nohup` has them ignore
    SIGHUP)."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in NUMBERS}
    before[signal.SIGINT] = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("defaults")
@pytest.mark.parametrize(("name", "code"), [("TERM", 143), ("HUP", 129), ("USR1", 138), ("INT", 130)])
def test_the_exit_code_tells_the_first_signal(name: str, code: int) -> None:
    stop = StopRequest()
    with asked_by_signals(stop, NUMBERS):
        os.kill(os.getpid(), getattr(signal, f"SIG{name}"))
        os.kill(os.getpid(), signal.SIGTERM)
    assert (stop.level, exit_code(stop)) == (2, code)


def test_what_is_ignored_from_the_start_stays_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        stop = StopRequest()
        with asked_by_signals(stop, NUMBERS):
            os.kill(os.getpid(), signal.SIGHUP)
        assert stop.level == 0
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.fixture(scope="module")
def zygote() -> Iterator[ZygoteLauncher]:
    launcher = ZygoteLauncher(environment(), ["torch.utils.data"])
    yield launcher
    launcher.close()


@pytest.fixture
def bench(zygote: ZygoteLauncher, tmp_path: Path) -> Iterator[Bench]:
    made = Bench(zygote, tmp_path, environment())
    yield made
    made.clear()


@pytest.mark.real
def test_a_script_without_handlers_lives_on_and_cannot_tell(bench: Bench) -> None:
    script = bench.write("""
        import signal, subprocess, sys, time
        print([signal.getsignal(one) for one in (signal.SIGHUP, signal.SIGUSR1)], flush=True)
        caught = "import signal; print([signal.getsignal(one) for one in (signal.SIGHUP, signal.SIGUSR1, 15)])"
        subprocess.run([sys.executable, "-c", caught])
        print("up", flush=True)
        while True:
            time.sleep(0.1)
        """)
    rank = bench.start(script, stop_signals=NUMBERS)
    assert bench.shows("up")
    default = "<Handlers.SIG_DFL: 0>"
    assert bench.log().splitlines()[:2] == [f"[{default}, {default}]", f"[{default}, {default}, {default}]"]
    os.kill(rank.pid, signal.SIGHUP)
    os.kill(rank.pid, signal.SIGUSR1)
    assert not wait_until(lambda: rank.poll() is not None, timeout_s=0.5)
    os.kill(rank.pid, signal.SIGTERM)
    assert wait_until(lambda: rank.poll() == -signal.SIGTERM)


@pytest.mark.real
def test_a_signal_for_all_leaves_data_loaders_at_work_until_the_script_has_saved(bench: Bench) -> None:
    script = bench.write("""
        import os, signal, time
        from torch.utils.data import DataLoader

        asked = []
        def ask(number, frame):
            asked.append(number)
            open(f"asked-{os.getpid()}", "w").close()
        signal.signal(signal.SIGTERM, ask)
        signal.signal(signal.SIGUSR1, ask)

        def slow(rows):
            time.sleep(0.02)
            return sum(rows)

        def batches():
            while True:
                yield from DataLoader(range(64), batch_size=2, num_workers=2, collate_fn=slow,
                                      multiprocessing_context="fork")

        after = 0
        for number, batch in enumerate(batches()):
            if number == 3:
                print("up", flush=True)
            after += bool(asked)
            if after == 40:  # more than the workers have prepared, and another set of them
                break
        print("saved", sorted(set(asked)), sorted(os.listdir(".")) == sorted(
            [f"asked-{os.getpid()}", "rank0.log", "script.py"]), flush=True)
        """)
    rank = bench.start(script, stop_signals=NUMBERS)
    assert bench.shows("up")
    os.killpg(rank.pid, signal.SIGUSR1)
    os.killpg(rank.pid, signal.SIGTERM)
    assert wait_until(lambda: rank.poll() is not None)
    assert (rank.poll(), bench.log().splitlines()[-1]) == (0, "saved [10, 15] True"), bench.log()


@pytest.mark.real
def test_a_parent_ends_its_children_as_ever(bench: Bench) -> None:
    script = bench.write("""
        import multiprocessing, os, signal, time
        context = multiprocessing.get_context("fork")
        with context.Pool(2) as pool:
            print(pool.map(abs, [-1]), flush=True)  # leaving it terminates its workers
        child = context.Process(target=time.sleep, args=(300,))
        child.start()
        child.terminate()
        child.join()
        print(child.exitcode)
        """)
    rank = bench.start(script, stop_signals=NUMBERS)
    assert wait_until(lambda: rank.poll() is not None)
    assert (rank.poll(), bench.log().splitlines()) == (0, ["[1]", "-15"])
