"""One contract for ranks, however they are started. Where it can, it compares with plain Python."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from orchestrator.rank.launch.launcher import ExecLauncher, Launcher, SharedZygote, ZygoteLauncher
from orchestrator.rank.messages import Heartbeat, PhaseBegun, ScriptFailed
from orchestrator.vocabulary import ProgramKind
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


@pytest.mark.parametrize("module", ["pkg.sub.facts", "pkg.sub"])
def test_a_module_finds_what_it_finds_under_python_m(bench: Bench, module: str) -> None:
    bench.write("print('package', __name__)", "pkg/__init__.py")
    bench.write("", "pkg/sub/__init__.py")
    bench.write("VALUE = 1", "pkg/near.py")
    text = "from ..near import VALUE\n" + (SCRIPTS / "facts.py").read_text()
    for name in ("facts", "__main__"):
        bench.write(text, f"pkg/sub/{name}.py")
    about = {"kind": ProgramKind.MODULE, "module": module}
    plain = bench.plain("-m", module, "--lr", "two words", options=()).output.splitlines()
    ours = bench.run("pkg/sub", "--lr", "two words", **about).output.splitlines()
    assert (plain[0], ours[0]) == ("package pkg", "package pkg")
    expected, found = facts(plain[1]), facts(ours[1])
    assert found["argv"][0].endswith(".py")  # type: ignore[index]
    for each in (expected, found):
        each.pop("environment")
        main = each["main"]
        assert isinstance(main, dict)
        for name in ("__loader__", "__spec__"):
            main[name] = re.sub(r"0x\w+", "", main[name])
    assert found == expected


def test_a_missing_module_is_named_and_a_module_that_raises_is_shown_from_its_first_frame(
    bench: Bench,
) -> None:
    bench.write("", "pkg/__init__.py")
    bench.write("", "pkg/good.py")
    bench.write("import json\n\n\nraise ValueError('of the module')", "pkg/bad.py")
    bench.write("import nowhere_at_all", "pkg/needs.py")
    for module in ("pkg.nowhere", "pkg.good.more"):
        missing = bench.run("x", kind=ProgramKind.MODULE, module=module)
        assert (missing.status, missing.output[-len(module) - 1 : -1]) == (1, module)
        (bench.folder / "rank0.log").unlink()
    bad = bench.run("x", kind=ProgramKind.MODULE, module="pkg.bad")
    frames = [line for line in bad.output.splitlines() if line.startswith("  File")]
    assert (bad.status, len(frames)) == (1, 1), bad.output
    assert bad.of(ScriptFailed)[0].message == "of the module"
    needs = bench.run("x", kind=ProgramKind.MODULE, module="pkg.needs")
    assert "No module named 'nowhere_at_all'" in needs.of(ScriptFailed)[0].message


def test_a_link_to_a_script_keeps_its_name_and_finds_the_scripts_neighbours(bench: Bench) -> None:
    bench.write("import near, sys; print(near.VALUE, __file__, sys.argv)", "real/train.py")
    bench.write("VALUE = 5", "real/near.py")
    (bench.folder / "link.py").symlink_to("real/train.py")
    plain, ours = bench.plain("link.py", "a"), bench.run("link.py", "a")
    assert (ours.status, ours.output) == (0, plain.output)


@pytest.mark.parametrize(
    ("body", "status"),
    [("exit 3", 3), ("kill -USR1 $$", -signal.SIGUSR1), ("kill -KILL $$", -signal.SIGKILL), ("true", 0)],
)
def test_another_program_ends_the_rank_as_it_ends(bench: Bench, body: str, status: int) -> None:
    script = bench.write(f'#!/bin/sh\necho of rank $RANK: "$@"\n{body}\n', "run.sh")
    Path(script).chmod(0o755)
    done = bench.run(script, "two words", "-x", kind=ProgramKind.COMMAND, RANK="0")
    assert (done.status, done.output) == (status, "of rank 0: two words -x\n")
    assert done.of(ScriptFailed) == []


def test_a_program_hears_that_it_is_to_stop_and_what_its_shell_waits_for_too(bench: Bench) -> None:
    inner = bench.write(
        """
        import signal, sys, time
        signal.signal(signal.SIGTERM, lambda *_: (print("saved", flush=True), sys.exit(0)))
        print("ready", flush=True)
        while True:
            time.sleep(0.05)
        """
    )
    script = bench.write(f"#!/bin/sh\n{sys.executable} {inner}\necho after $?\n", "run.sh")
    Path(script).chmod(0o755)
    rank = bench.start(script, kind=ProgramKind.COMMAND, stop_signals=[signal.SIGTERM, signal.SIGUSR1])
    assert bench.shows("ready")
    os.kill(rank.pid, signal.SIGTERM)
    assert bench.finish(rank).status == -signal.SIGTERM, "the shell had no handler"
    assert bench.log() == "ready\nsaved\n", "and it did not go on"


def test_a_program_hears_all_signals_as_any_does(bench: Bench) -> None:
    code = "import signal; print(signal.pthread_sigmask(signal.SIG_BLOCK, ()))"
    stops = [signal.SIGTERM, signal.SIGUSR1]
    done = bench.run(sys.executable, "-c", code, kind=ProgramKind.COMMAND, stop_signals=stops)
    assert done.output == "set()\n"


def test_a_program_ends_with_a_killed_rank(bench: Bench) -> None:
    script = bench.write("#!/bin/sh\necho $$\nsleep 1000\n", "run.sh")
    Path(script).chmod(0o755)
    rank = bench.start(script, kind=ProgramKind.COMMAND)
    assert wait_until(lambda: bench.log().endswith("\n"), 60)
    shell = int(bench.log())
    os.kill(rank.pid, signal.SIGKILL)
    assert bench.finish(rank).status == -signal.SIGKILL
    assert wait_until(lambda: is_gone(shell), 60)


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
