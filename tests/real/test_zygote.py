"""The zygote itself: what it refuses, what it tells, and what happens when it dies."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.errors import RankStartError
from orchestrator.rank.launch.launcher import PreloadFailedError, ZygoteLauncher
from orchestrator.rank.launch.zygote_key import ZygoteKey
from tests.support.folders import SCRIPTS
from tests.support.rank_harness import Bench, environment, is_gone, wait_until

Start = Callable[..., Bench]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """A bench on a zygote of its own, light unless told otherwise."""
    benches: list[Bench] = []

    def make(*preload: str, **env: str) -> Bench:
        complete = environment(**env)
        launcher = ZygoteLauncher(complete, preload or ["json"], log_path=str(tmp_path / "zygote.log"))
        benches.append(Bench(launcher, tmp_path, complete))
        return benches[-1]

    yield make
    for bench in benches:
        bench.clear()
        bench.launcher.close()


def zygote(bench: Bench) -> ZygoteLauncher:
    assert isinstance(bench.launcher, ZygoteLauncher)
    return bench.launcher


def module(folder: Path, name: str, text: str) -> dict[str, str]:
    """Write a module; returns the environment that finds it."""
    (folder / "lib").mkdir(exist_ok=True)
    (folder / "lib" / f"{name}.py").write_text(text)
    return {"PYTHONPATH": str(folder / "lib")}


@pytest.mark.real
def test_a_failed_preload_names_module_and_reason(start: Start, tmp_path: Path) -> None:
    bench = start("json", "broken", **module(tmp_path, "broken", "import nowhere_at_all\n"))
    with pytest.raises(PreloadFailedError) as caught:
        zygote(bench).wait_ready()
    assert caught.value.module == "broken"
    assert caught.value.reason == "ModuleNotFoundError: No module named 'nowhere_at_all'"
    assert not zygote(bench).alive()
    with pytest.raises(RankStartError, match="preloading broken failed in the zygote"):
        bench.start("a.py")


@pytest.mark.real
def test_an_optional_module_may_be_missing_but_not_broken(start: Start, tmp_path: Path) -> None:
    bench = start("json", "nowhere_at_all?")
    zygote(bench).wait_ready()
    assert zygote(bench).skipped == ["nowhere_at_all"]
    broken = start("broken?", **module(tmp_path, "broken", "import nowhere_at_all\n"))
    with pytest.raises(PreloadFailedError, match="nowhere_at_all"):
        zygote(broken).wait_ready()


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        (
            "threads",
            "from threading import *\nThread(target=Event().wait, daemon=True, name='busy').start()",
            "needs a single thread, but these run: MainThread, busy",
        ),
        (
            "native",
            "import _thread, time\n_thread.start_new_thread(time.sleep, (9,))\ntime.sleep(0.2)",
            "needs a single thread, but 2 native ones run",
        ),
        (
            "torch",
            "class cuda:\n    is_initialized = staticmethod(lambda: True)",
            "CUDA is initialised in the zygote",
        ),
    ],
)
def test_what_forbids_a_fork_is_found_at_once(
    start: Start, tmp_path: Path, name: str, text: str, reason: str
) -> None:
    bench = start(name, **module(tmp_path, name, text))
    with pytest.raises(PreloadFailedError, match=reason):
        zygote(bench).wait_ready()


@pytest.mark.real
def test_a_fork_is_refused_when_cuda_was_initialised_later(start: Start, tmp_path: Path) -> None:
    text = """
import os
class cuda:
    is_initialized = staticmethod(lambda: os.path.exists(os.environ["TORCH_FLAG"]))
"""
    env = {**module(tmp_path, "torch", text), "TORCH_FLAG": str(tmp_path / "flag")}
    bench = start("torch", **env)
    zygote(bench).wait_ready()
    (tmp_path / "flag").touch()
    with pytest.raises(RankStartError, match=r"refuses to fork rank 0: CUDA is initialised"):
        bench.start("a.py")
    assert zygote(bench).alive()


def test_deepspeed_without_an_accelerator_is_refused_before_anything_starts() -> None:
    with pytest.raises(RankStartError, match="DS_ACCELERATOR is unset"):
        ZygoteLauncher({"PATH": "/bin"}, ["torch", "deepspeed"])


def test_an_interpreter_that_is_not_there_is_named() -> None:
    with pytest.raises(RankStartError, match="/nowhere/python"):
        ZygoteLauncher(environment(), ["json"], python="/nowhere/python")


@pytest.mark.real
def test_a_zygote_that_dies_at_once_is_told_from_one_that_is_slow(start: Start, tmp_path: Path) -> None:
    bench = start("dies", **module(tmp_path, "dies", "import os; os._exit(3)"))
    with pytest.raises(RankStartError, match="ended with status 3 before it was ready"):
        zygote(bench).wait_ready()
    slow = start("slow", **module(tmp_path, "slow", "import time; time.sleep(30)"))
    with pytest.raises(RankStartError, match=r"not ready after 0\.2 s"):
        zygote(slow).wait_ready(timeout_s=0.2)


@pytest.mark.real
def test_a_job_that_does_not_fit_is_refused_by_name(start: Start) -> None:
    bench = start(OMP_NUM_THREADS="2", CUDA_VISIBLE_DEVICES="0")
    script = bench.write("print('fits')")
    assert bench.run(script, CUDA_VISIBLE_DEVICES="1", NCCL_DEBUG="INFO", MY_OWN="x").status == 0
    with pytest.raises(RankStartError, match=r"OMP_NUM_THREADS: '2' in the zygote, '8' in the job"):
        bench.start(script, OMP_NUM_THREADS="8")


def test_a_key_says_what_differs() -> None:
    env = {"PYTHONPATH": "/a", "LD_PRELOAD": "x.so", "HOME": "/root", "TORCHELASTIC_RUN_ID": "1"}
    key = ZygoteKey.of(env, ["torch", "torch._dynamo", "json"])
    assert key == ZygoteKey.of({**env, "HOME": "/other", "TORCHELASTIC_RUN_ID": "2"}, ["json", "torch"])
    assert key.difference(key) == []
    job = ZygoteKey.of(
        {"PYTHONPATH": "/a", "PYTORCH_CUDA_ALLOC_CONF": "y"}, ["torch", "json"], python="/other"
    )
    python, *lines = key.difference(job)
    assert python.startswith("python: ")
    assert "'/other (" in python
    assert lines == [
        "LD_PRELOAD: 'x.so' in the zygote, unset in the job",
        "PYTORCH_CUDA_ALLOC_CONF: unset in the zygote, 'y' in the job",
    ]
    other = ZygoteKey(
        key.python, ("/b",), key.environment, (("json", "not a distribution"), ("torch", "1.0"))
    )
    path, ours, torch = key.difference(other)
    assert path.startswith("sys.path: '/a:")
    assert ours.startswith("orchestrator: ")
    assert ours.endswith("in the zygote, unset in the job")
    assert torch.endswith("in the zygote, '1.0' in the job")


@pytest.mark.real
def test_pythonpath_is_honoured_also_where_it_is_relative(start: Start, tmp_path: Path) -> None:
    (tmp_path / "near").mkdir()
    (tmp_path / "near" / "neighbour.py").write_text("WORD = 'found'")
    bench = start(PYTHONPATH="near::/absolute")
    script = bench.write((SCRIPTS / "facts.py").read_text(), "sub/facts.py")
    plain, ours = (
        json.loads(outcome.output)["path"] for outcome in (bench.plain(script, options=()), bench.run(script))
    )
    assert ours == plain
    outcome = bench.run(bench.write("import neighbour; print(neighbour.WORD)", "sub/other.py"))
    assert "found" in outcome.output


@pytest.mark.real
def test_a_script_may_have_a_package_called_as_ours_is(start: Start) -> None:
    bench = start()
    bench.write("NAME = 'theirs'", "orchestrator/__init__.py")
    assert bench.run(bench.write("import orchestrator; print(orchestrator.NAME)")).output == "theirs\n"


@pytest.mark.real
def test_a_killed_zygote_takes_its_ranks_along_and_is_noticed(start: Start) -> None:
    bench = start("multiprocessing")
    ranks = [bench.start(str(SCRIPTS / "family.py"), rank=rank, world_size=2) for rank in range(2)]
    assert all(bench.shows("waiting", rank) for rank in range(2))
    os.kill(ranks[1].pid, signal.SIGSTOP)
    pids = [int(word) for rank in range(2) for word in bench.log(rank).splitlines()[0].split()[1:]]
    assert zygote(bench).alive()
    os.kill(zygote(bench).pid, signal.SIGKILL)
    assert wait_until(lambda: all(is_gone(rank.pid) for rank in ranks))
    assert [rank.wait(5) for rank in ranks] == [-signal.SIGKILL, -signal.SIGKILL]
    assert ranks[0].exit_reason is not None
    assert "ended with status -9" in ranks[0].exit_reason
    assert not zygote(bench).alive()
    assert wait_until(lambda: all(is_gone(pid) for pid in pids))
    with pytest.raises(RankStartError, match="ended with status -9"):
        bench.start("a.py")


@pytest.mark.real
def test_an_ended_zygote_leaves_nobody(start: Start) -> None:
    bench = start("multiprocessing")
    rank = bench.start(str(SCRIPTS / "family.py"))
    assert bench.shows("waiting")
    pids = [zygote(bench).pid, *(int(word) for word in bench.log().splitlines()[0].split()[1:])]
    zygote(bench).close()
    assert wait_until(lambda: all(is_gone(pid) for pid in pids))
    assert rank.wait(5) == -signal.SIGKILL


@pytest.mark.real
def test_what_is_meant_for_the_whole_run_does_not_end_a_zygote(start: Start) -> None:
    bench = start()
    rank = bench.start(bench.write("import time; print('up', flush=True); time.sleep(300)"))
    assert bench.shows("up")
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGINT):
        os.kill(zygote(bench).pid, number)
    assert bench.run(bench.write("print('another')", "b.py")).status == 0
    assert (rank.poll(), zygote(bench).alive()) == (None, True)


@pytest.mark.real
def test_the_zygote_shows_its_title(start: Start) -> None:
    bench = start()
    zygote(bench).wait_ready()
    command = Path(f"/proc/{zygote(bench).pid}/cmdline").read_bytes().rstrip(b"\0")
    assert command == b"orchestrator zygote"
    assert os.getsid(zygote(bench).pid) == zygote(bench).pid


@pytest.mark.real
def test_one_zygote_serves_many_starts_quickly(start: Start) -> None:
    bench = start()
    zygote(bench).wait_ready()
    script = bench.write("print('x')")
    best_s = float("inf")
    for _ in range(10):
        begin = time.perf_counter()
        rank = bench.start(script)
        best_s = min(best_s, time.perf_counter() - begin)
        assert bench.finish(rank).status == 0
    assert best_s < 0.1
    assert bench.log() == "x\n" * 10
