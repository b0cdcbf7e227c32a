"""The script's own imports, done by the zygote: what is kept, what is left out, what a rank finds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from orchestrator.agent.launchers import forking_launcher, standing_in
from orchestrator.agent.zygote_pool import NodeZygotes
from orchestrator.rank.launch.launcher import ForkingLauncher, SharedZygote, ZygoteLauncher
from orchestrator.rank.launch.preload import of_script
from orchestrator.rank.launch.zygote_key import ZygoteKey
from tests.support.rank_harness import Bench, environment

pytestmark = pytest.mark.real

BASE = ["json"]
GOOD = """
import os
with open(os.environ["IMPORTS"], "a") as file:
    file.write("imported\\n")
print("loud at import")
os.environ.setdefault("SET_BY_GOOD", "yes")
VALUE = os.environ.get("GOOD_MODE", "plain")
"""
Start = Callable[..., Bench]


@pytest.fixture
def lib(tmp_path: Path) -> Path:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "good.py").write_text(GOOD)
    return tmp_path / "lib"


def complete(lib: Path, **more: str) -> dict[str, str]:
    return environment(PYTHONPATH=str(lib), IMPORTS=str(lib.parent / "imports"), **more)


@pytest.fixture
def start(lib: Path, tmp_path: Path) -> Iterator[Start]:
    """A bench on a zygote of its own that imports these for a script."""
    benches: list[Bench] = []

    def make(*names: str, **more: str) -> Bench:
        env = complete(lib, **more)
        launcher = ZygoteLauncher(env, [*BASE, *of_script(names)], log_path=str(tmp_path / "zygote.log"))
        benches.append(Bench(launcher, tmp_path, env))
        return benches[-1]

    yield make
    for bench in benches:
        bench.clear()
        bench.launcher.close()


def test_a_library_is_imported_once_and_every_rank_has_it_as_if_it_had_imported_it(
    start: Start, tmp_path: Path
) -> None:
    bench = start("good:VALUE,of_another_version")
    script = bench.write(
        'import os, sys\nprint("good" in sys.modules, os.environ.get("SET_BY_GOOD"))\n'
        "import good\nprint(good.VALUE)\n"
    )
    ranks = [bench.run(script, rank=rank, world_size=2) for rank in range(2)]
    assert [rank.output for rank in ranks] == ["True yes\nplain\n"] * 2
    own = bench.run(script, SET_BY_GOOD="mine")
    assert own.output.endswith("True mine\nplain\n"), "it would have met that"
    assert (tmp_path / "imports").read_text() == "imported\n"
    assert "loud at import" in (tmp_path / "zygote.log").read_text()
    assert isinstance(bench.launcher, ForkingLauncher)
    preloaded = bench.launcher.preloaded
    assert (preloaded.imported, preloaded.left_out) == (("good",), {})
    assert preloaded.read["GOOD_MODE"] is None
    assert preloaded.unlike({**bench.env, "GOOD_MODE": "other", "UNREAD": "x"}) == ["GOOD_MODE"]


# What forbids a fork, by the name of the library that does it, and why it is left out.
BAD = {
    "a_thread": (
        "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()", "thread",
    ),
    "a_child": ("import subprocess\nchild = subprocess.Popen(['sleep', '600'])", "it leaves a process behind"),
    "a_fork": ("import os\nif os.fork() == 0:\n    import time\n    time.sleep(600)", "it leaves a process behind"),
    "of_a_rank": ("import os\nRANK = os.environ.get('RANK')", "it reads RANK when it is imported"),
    "takes_mlflow": ("import mlflow", "each rank has to import by itself"),
    "missing": (None, "it is not installed there"),
    "broken": ("import nowhere_at_all", "ModuleNotFoundError: No module named 'nowhere_at_all'"),
    "exits": ("raise SystemExit(3)", "SystemExit: 3"),
}  # fmt: skip


def test_a_library_that_does_what_forbids_a_fork_is_left_out_and_the_others_are_kept(
    start: Start, lib: Path
) -> None:
    for name, (text, _) in BAD.items():
        if text is not None:
            (lib / f"{name}.py").write_text(text)
    (lib / "mlflow.py").write_text("")
    bench = start(*BAD, "good")
    script = bench.write(f"import sys\nprint([name for name in {[*BAD, 'good']} if name in sys.modules])\n")
    assert bench.run(script).output == "['good']\n"
    assert isinstance(bench.launcher, ForkingLauncher)
    preloaded = bench.launcher.preloaded
    assert preloaded.imported == ("good",)
    assert set(preloaded.left_out) == set(BAD)
    for name, (_, why) in BAD.items():
        assert why in preloaded.left_out[name], name


def test_a_library_that_ends_its_process_is_left_to_the_ranks(lib: Path, tmp_path: Path) -> None:
    (lib / "deadly.py").write_text("import os\nos._exit(7)")
    env, log_path, preload = complete(lib), str(tmp_path / "own.log"), [*BASE, *of_script(["good", "deadly"])]
    launcher = standing_in(ZygoteLauncher(env, preload, log_path=log_path), env, log_path, preload)
    assert isinstance(launcher, ZygoteLauncher)
    with closing(launcher):
        bench = Bench(launcher, tmp_path, env)
        assert bench.run(bench.write("import good\nprint('fine')")).output.endswith("fine\n")
        assert list(launcher.preloaded.left_out) == ["good", "deadly"]
        assert "ended with status 7 before it was ready" in launcher.preloaded.left_out["deadly"]


def test_a_thread_that_comes_to_its_end_is_waited_for(start: Start, lib: Path) -> None:
    (lib / "brief.py").write_text(
        "import threading, time\nthreading.Thread(target=time.sleep, args=(0.1,)).start()\n"
    )
    bench = start("brief", "perhaps_not_there?")
    assert bench.run(bench.write("import brief\nprint('fine')")).output == "fine\n"
    assert isinstance(bench.launcher, ForkingLauncher)
    preloaded = bench.launcher.preloaded
    assert (preloaded.imported, preloaded.left_out) == (("brief",), {})


def test_a_warm_zygote_is_for_scripts_that_import_and_find_the_same(lib: Path, tmp_path: Path) -> None:
    zygotes = NodeZygotes(600.0, preload=BASE)
    env, log_path = complete(lib), str(tmp_path / "own.log")

    def lease(*names: str, **more: str) -> tuple[SharedZygote, str | None]:
        job = env | more
        preload = [*BASE, *of_script(names)]
        launcher, remark = forking_launcher(
            job, lambda key, all_: zygotes.offer(key, all_), log_path, preload
        )
        assert isinstance(launcher, SharedZygote)
        launcher.wait_ready()
        opened.append(launcher)
        return launcher, remark

    opened: list[SharedZygote] = []
    try:
        plain, _ = lease()
        good, remark = lease("good")
        assert remark is None, "a script that imports something else is as it has to be"
        assert (plain.warm, good.warm, lease("good")[0].warm) == (False, False, True)
        assert len(zygotes.report()) == 2
        assert (plain.preloaded.imported, good.preloaded.imported) == ((), ("good",))
        lease("good", UNREAD="x")
        assert len(zygotes.report()) == 2
        _, remark = lease("good", GOOD_MODE="other")
        assert remark is not None
        assert "GOOD_MODE: another in the zygote than in the job" in remark
        assert len(zygotes.report()) == 3
        (lib / "good.py").write_text(GOOD + "LATER = 1\n")
        lease("good")
        assert len(zygotes.report()) == 4
        own = standing_in(good, env | {"GOOD_MODE": "other"}, log_path, [*BASE, *of_script(["good"])])
        assert isinstance(own, ZygoteLauncher), "what was offered before it was ready may not fit after all"
        own.close()
    finally:
        for launcher in opened:
            launcher.close()
        zygotes.close()


def test_a_key_of_a_script_says_which_libraries_it_is_about() -> None:
    plain, of_one = (ZygoteKey.of({}, [*BASE, *of_script(names)]) for names in ((), ("decimal:Decimal",)))
    assert plain.difference(of_one)[0] == (
        "imports: 'none beside torch and DeepSpeed' in the zygote, 'decimal' in the job"
    )
    assert of_one.difference(of_one) == []
