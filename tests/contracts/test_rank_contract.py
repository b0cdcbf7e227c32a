"""One contract for ranks, however they are started. Where it can, it compares with plain Python."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from orchestrator.rank.launch.launcher import ExecLauncher, Launcher, SharedZygote, ZygoteLauncher
from orchestrator.rank.messages import Heartbeat, PhaseBegun, ScriptFailed
from tests.support.folders import SCRIPTS
from tests.support.rank_harness import Bench, environment, is_gone, shared_owner, wait_until

pytestmark = pytest.mark.real


PRELOAD = ["torch", "torch.utils.data"]


@pytest.fixture(scope="module", params=["exec", "zygote", "shared zygote"])
def launcher(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    with ExitStack() as stack:
        made: Launcher
        if request.param == "exec":
            made = ExecLauncher()
        elif request.param == "zygote":
            made = ZygoteLauncher(environment(), PRELOAD)
        else:
            path = tmp_path_factory.mktemp("zygote") / "socket"
            owner = stack.enter_context(closing(shared_owner(path, PRELOAD)))
            made = SharedZygote(str(path), owner.key, PRELOAD)
        stack.enter_context(closing(made))
        yield made


@pytest.fixture
def bench(launcher: Launcher, tmp_path: Path) -> Iterator[Bench]:
    made = Bench(launcher, tmp_path, environment(MARK="of the test"))
    yield made
    made.clear()


def facts(output: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(output)
    return found


@pytest.mark.parametrize("written", ["{folder}/sub/facts.py", "sub/facts.py", "./sub/facts.py"])
def test_a_script_finds_what_it_finds_under_plain_python(bench: Bench, written: str) -> None:
    bench.write((SCRIPTS / "facts.py").read_text(), "sub/facts.py")
    script = written.format(folder=bench.folder)
    plain = facts(bench.plain(script, "--lr", "0.1", "two words", options=()).output)
    ours = facts(bench.run(script, "--lr", "0.1", "two words").output)
    added = {"PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
    assert ours.pop("environment") == {**bench.env, **added}
    assert plain.pop("environment") == bench.env
    for found in (ours, plain):  # both show the loader's address
        main = found["main"]
        assert isinstance(main, dict)
        main["__loader__"] = re.sub(r"0x\w+", "", main["__loader__"])
    assert ours == plain


@pytest.mark.parametrize(
    ("how", "status"),
    [
        ("normally", 0),
        ("status", 3),
        ("text", 1),
        ("raises", 1),
        ("interrupt", -signal.SIGINT),
        ("segv", -signal.SIGSEGV),
        ("term", -signal.SIGTERM),
        ("hard", 7),
        ("thread", 0),
        ("hook", 1),
        ("broken-hook", 1),
        ("exec", 5),
    ],
)
def test_a_script_ends_as_under_plain_python(bench: Bench, how: str, status: int) -> None:
    script = str(SCRIPTS / "ends.py")
    plain, ours = bench.plain(script, how), bench.run(script, how)
    assert (plain.status, ours.status) == (status, status)
    if how == "broken-hook":  # printed by the interpreter, from its own first frame
        assert "ValueError: bad value" in ours.output
        assert "at exit" in ours.output
    elif how == "exec":  # plain Python loses what a pipe had not taken
        assert ours.output.splitlines()[-1] == "another"
    else:
        assert ours.output == plain.output


def test_a_syntax_error_is_shown_without_frames_of_ours(bench: Bench) -> None:
    script = bench.write("print('x'\n")
    plain, ours = bench.plain(script), bench.run(script)
    assert (ours.status, ours.output) == (1, plain.output)


def test_a_missing_script_is_named(bench: Bench) -> None:
    plain, ours = bench.plain("nowhere.py"), bench.run("nowhere.py")
    assert (plain.status, ours.status) == (2, 2)
    assert "can't open file" in ours.output
    assert str(bench.folder / "nowhere.py") in ours.output


def test_children_of_every_kind_work(bench: Bench) -> None:
    script = str(SCRIPTS / "children.py")
    plain, ours = bench.plain(script), bench.run(script)
    assert ours.status == 0, ours.output
    assert "loader [1, 5, 9, 13]" in ours.output
    assert ours.output == plain.output


def test_two_ranks_draw_different_numbers(bench: Bench) -> None:
    ranks = [bench.start(str(SCRIPTS / "draws.py"), rank=rank, world_size=2) for rank in range(2)]
    drawn = [bench.finish(rank).output.split() for rank in ranks]
    assert len(drawn[0]) == 5
    assert all(one != other for one, other in zip(*drawn, strict=True))


def test_the_log_keeps_order_and_is_appended_to(bench: Bench) -> None:
    script = bench.write("""
        import os, sys
        for n in range(3):
            print("out", n)
            print("err", n, file=sys.stderr)
            os.system(f"echo shell {n}")
        os.kill(os.getpid(), 9)
        """)
    expected = "".join(f"out {n}\nerr {n}\nshell {n}\n" for n in range(3))
    assert bench.run(script).status == -signal.SIGKILL
    assert bench.run(script).output == expected * 2


def test_a_rank_has_title_session_and_group_of_its_own(bench: Bench) -> None:
    script = bench.write("import time; print('up'); time.sleep(300)")
    rank = bench.start(script, rank=1, world_size=2)
    assert bench.shows("up", rank=1)
    title = Path(f"/proc/{rank.pid}/cmdline").read_bytes().rstrip(b"\0").decode()
    assert title == "orchestrator rank 1/2 test-run"
    assert os.getpgid(rank.pid) == os.getsid(rank.pid) == rank.pid != os.getpgid(0)
    assert rank.poll() is None


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, 9)])
def test_signals_reach_the_script(bench: Bench, number: int, status: int) -> None:
    script = bench.write("""
        import sys, time
        try:
            print("up")
            while True:  # Python runs a handler between two calls: one that struck just before a long sleep waits
                time.sleep(0.05)
        except KeyboardInterrupt:
            sys.exit(9)
        """)
    rank = bench.start(script)
    assert bench.shows("up")
    rank.signal(number)
    assert bench.finish(rank).status == status
    rank.signal(number)  # of one that has ended: nothing happens


def family(bench: Bench) -> list[int]:
    assert bench.shows("family")
    assert wait_until(lambda: "\n" in bench.log())
    return [int(word) for word in bench.log().splitlines()[0].split()[1:]]


def test_killing_a_rank_takes_its_children(bench: Bench) -> None:
    rank = bench.start(str(SCRIPTS / "family.py"))
    pids = family(bench)
    assert len(pids) == 4
    assert not any(is_gone(pid) for pid in pids)
    os.kill(rank.pid, signal.SIGSTOP)
    rank.kill()
    assert bench.finish(rank).status == -signal.SIGKILL
    assert wait_until(lambda: all(is_gone(pid) for pid in pids))


def test_what_a_rank_leaves_behind_ends_with_it(bench: Bench) -> None:
    rank = bench.start(str(SCRIPTS / "family.py"), "leave")
    pids = family(bench)
    assert bench.finish(rank).status == 0
    assert wait_until(lambda: all(is_gone(pid) for pid in pids))


def test_letting_go_of_the_lifeline_kills_even_a_stopped_rank(bench: Bench) -> None:
    rank = bench.start(str(SCRIPTS / "family.py"))
    pids = family(bench)
    os.kill(rank.pid, signal.SIGSTOP)
    rank.close()
    assert wait_until(lambda: all(is_gone(pid) for pid in pids))
    assert rank.wait(5) == -signal.SIGKILL


def test_heartbeats_tell_phase_and_death_loses_no_message(bench: Bench) -> None:
    script = bench.write("import time; time.sleep(2.3); raise RuntimeError('told')")
    outcome = bench.run(script)
    beats = outcome.of(Heartbeat)
    assert 2 <= len(beats) <= 4
    assert {beat.phase for beat in beats} <= {"start", "import"}
    assert beats[-1].phase == "import"
    (error,) = outcome.of(ScriptFailed)
    assert (error.type, error.message, error.step) == ("RuntimeError", "told", None)
    assert error.traceback_tail.splitlines()[1].strip().startswith(f'File "{script}", line 1')
    assert "RuntimeError: told" in outcome.output
    assert outcome.messages[-1] == PhaseBegun("exit")


def test_two_ranks_all_reduce_and_do_it_again_after_one_was_killed(bench: Bench) -> None:
    script = str(SCRIPTS / "allreduce.py")
    assert [bench.finish(rank).status for rank in bench.start_world(script)] == [0, 0]
    assert "sum 3.0" in bench.log(0)
    hung = bench.write(
        "import os, time; os.environ['RANK'] == '1' and time.sleep(300)\n" + Path(script).read_text()
    )
    ranks = bench.start_world(hung)
    ranks[1].kill()
    assert bench.finish(ranks[1]).status == -signal.SIGKILL
    ranks[0].kill()
    assert bench.finish(ranks[0]).status == -signal.SIGKILL
    assert [bench.finish(rank).status for rank in bench.start_world(script)] == [0, 0]
    assert bench.log(1).count("sum 3.0") == 2


def test_starting_and_ending_ranks_leaks_nothing(bench: Bench) -> None:
    script = bench.write("print('x')")
    bench.run(script)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        bench.run(script)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_rank_holds_no_descriptor_but_its_own(bench: Bench) -> None:
    script = bench.write("""
        import os
        held = []
        for fd in os.listdir("/proc/self/fd"):
            if os.path.lexists(path := f"/proc/self/fd/{fd}"):  # that of the listing itself is gone
                held.append(os.readlink(path).split(":")[0].replace(str(os.getpid()), "PID"))
        print(sorted(held))
        """)
    held = bench.run(script).output.strip()
    log = str(bench.folder / "rank0.log")
    stacks = "/memfd"  # written to by a signal's handler, which cannot open a file
    own_time = "/proc/PID/task/PID/schedstat"  # read several times a step
    assert held == str(sorted(["/dev/null", stacks, log, log, own_time, "pipe", "socket"]))
