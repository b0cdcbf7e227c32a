"""The keeper of a node's warm zygotes: what it offers, keeps and lets go."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.agent.launchers import early_zygote, forking_launcher, standing_in
from orchestrator.agent.zygote_pool import MOST_ZYGOTES, NodeZygotes, ZygoteLease
from orchestrator.rank.launch.launcher import SharedZygote, ZygoteLauncher
from orchestrator.rank.launch.zygote_key import ZygoteKey
from tests.support.rank_harness import Bench, environment, is_gone, wait_until

pytestmark = pytest.mark.real

PRELOAD = ["json"]
Make = Callable[..., NodeZygotes]


def listens(address: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        return caller.connect_ex(address) == 0


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[NodeZygotes] = []

    def new(idle_timeout_s: float = 600.0, retire: Callable[[], None] = lambda: None) -> NodeZygotes:
        made.append(NodeZygotes(idle_timeout_s, retire, PRELOAD))
        return made[-1]

    yield new
    for zygotes in made:
        zygotes.close()


def ask(zygotes: NodeZygotes, **env: str) -> ZygoteLease:
    complete = environment(**env)
    offer = zygotes.offer(ZygoteKey.of(complete, PRELOAD), complete)
    assert offer is not None
    return offer


def test_a_zygote_that_fits_is_offered_again_and_one_that_does_not_is_not(make: Make) -> None:
    zygotes = make()
    first = ask(zygotes)
    assert (first.ready, first.difference) == (False, ())
    assert zygotes.wait_ready(30) == []
    again = ask(zygotes)
    assert (again.address, again.ready, again.difference) == (first.address, True, ())
    other = ask(zygotes, OMP_NUM_THREADS="5")
    assert other.address != first.address
    assert other.difference == ("OMP_NUM_THREADS: '2' in the zygote, '5' in the job",)
    assert [entry["runs"] for entry in zygotes.report()] == [2, 1]
    assert ask(zygotes).address == first.address


def test_another_interpreter_is_not_offered_anything(make: Make) -> None:
    complete = environment()
    wanted = ZygoteKey.of(complete, PRELOAD, python="/usr/local/bin/another")
    assert make().offer(wanted, complete) is None


def test_the_report_tells_use_and_memory(make: Make) -> None:
    zygotes = make()
    offer = ask(zygotes)
    assert zygotes.wait_ready(30) == []
    assert [(entry["state"], entry["launchers"]) for entry in zygotes.report()] == [("ready", 0)]
    launcher = SharedZygote(offer.address, offer.key, PRELOAD)
    launcher.wait_ready()
    (entry,) = zygotes.report()
    assert (entry["state"], entry["launchers"], entry["idle_s"]) == ("in use", 1, 0.0)
    assert entry["rss_bytes"] > 2**20
    launcher.close()
    assert wait_until(lambda: zygotes.report()[0]["state"] == "ready")


def test_what_nobody_uses_goes_and_what_is_used_stays(make: Make) -> None:
    zygotes = make(100.0)
    used, idle = ask(zygotes), ask(zygotes, OMP_NUM_THREADS="5")
    zygotes.wait_ready(30)
    launcher = SharedZygote(used.address, used.key, PRELOAD)
    launcher.wait_ready()
    pids = {entry["environment"]["OMP_NUM_THREADS"]: entry["pid"] for entry in zygotes.report()}
    now_s = time.monotonic()
    assert zygotes.tick(now_s + 99)
    assert len(zygotes.report()) == 2
    assert zygotes.tick(now_s + 101)
    assert [entry["pid"] for entry in zygotes.report()] == [pids["2"]]
    assert is_gone(pids["5"])
    assert not listens(idle.address)
    launcher.close()
    assert wait_until(lambda: zygotes.report()[0]["state"] == "ready")
    assert zygotes.tick(now_s + 200), "its time counts from when it was used last"
    assert not zygotes.tick(now_s + 302)


def test_it_retires_once_when_all_have_gone_and_leaves_nothing(make: Make) -> None:
    retired: list[float] = []
    zygotes = make(1.0, lambda: retired.append(time.monotonic()))
    offer = ask(zygotes)
    (entry,) = zygotes.report()
    assert wait_until(lambda: bool(retired))
    assert is_gone(entry["pid"])
    assert not listens(offer.address)
    assert not zygotes._folder.exists()


def test_the_one_that_was_idle_longest_makes_room(make: Make) -> None:
    zygotes = make()
    offers = [ask(zygotes, OMP_NUM_THREADS=str(count)) for count in range(1, MOST_ZYGOTES + 1)]
    ask(zygotes, OMP_NUM_THREADS="1")
    ask(zygotes, OMP_NUM_THREADS="77")
    kept = {entry["environment"]["OMP_NUM_THREADS"] for entry in zygotes.report()}
    assert kept == {"1", "77", *(str(count) for count in range(3, MOST_ZYGOTES + 1))}
    assert not listens(offers[1].address)


def test_a_failed_import_is_told(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import nowhere_at_all\n")
    zygotes = NodeZygotes(600.0, preload=["broken"])
    complete = environment(PYTHONPATH=str(tmp_path))
    zygotes.offer(ZygoteKey.of(complete, ["broken"]), complete)
    (problem,) = zygotes.wait_ready(30)
    assert "No module named 'nowhere_at_all'" in problem
    assert zygotes.report() == []
    zygotes.close()


def test_an_agent_starts_its_own_where_the_offer_is_gone_or_there_is_none(tmp_path: Path) -> None:
    env, log_path = environment(), str(tmp_path / "zygote.log")
    gone = ZygoteLease(str(tmp_path / "nobody"), ZygoteKey.of(env, PRELOAD), ready=True, difference=("a: b",))
    for warm in (None, lambda _key, _env: None, lambda _key, _env: gone):
        launcher, remark = forking_launcher(env, warm, log_path)
        assert isinstance(launcher, ZygoteLauncher)
        assert remark is None
        launcher.close()


def test_an_agent_starts_its_own_where_the_warm_one_ends_while_it_imports(make: Make, tmp_path: Path) -> None:
    zygotes, env = make(), environment()
    offer = ask(zygotes)
    assert zygotes.tick(time.monotonic() + 10_000), "nobody can be idle who still imports"
    shared = SharedZygote(offer.address, offer.key, PRELOAD)
    (entry,) = zygotes.report()
    os.kill(entry["pid"], signal.SIGKILL)
    launcher = standing_in(shared, env, str(tmp_path / "zygote.log"))
    assert isinstance(launcher, ZygoteLauncher)
    launcher.close()


def test_an_early_zygote_is_for_its_own_job_and_leaves_nothing(tmp_path: Path) -> None:
    env = environment()
    with early_zygote(env, tmp_path / "zygote.log") as lent:
        launcher, remark = forking_launcher(env, pickle.loads(pickle.dumps(lent)), str(tmp_path / "own.log"))
        assert isinstance(launcher, SharedZygote)
        assert remark is None
        bench = Bench(launcher, tmp_path, env)
        assert bench.run(bench.write("print('forked')")).output == "forked\n"
        launcher.close()
        other = environment(OMP_NUM_THREADS="5")
        own, _ = forking_launcher(other, lent, str(tmp_path / "own.log"))
        assert isinstance(own, ZygoteLauncher)
        own.close()
    assert wait_until(lambda: not listens(lent.offer.address))


def test_an_agent_says_why_a_warm_zygote_was_not_used(make: Make, tmp_path: Path) -> None:
    zygotes, env = make(), environment(OMP_NUM_THREADS="5")
    ask(zygotes)
    launcher, remark = forking_launcher(
        env,
        lambda _key, complete: zygotes.offer(ZygoteKey.of(complete, PRELOAD), complete),
        str(tmp_path / "log"),
    )
    assert isinstance(launcher, SharedZygote)
    assert remark is not None
    assert "OMP_NUM_THREADS: '2' in the zygote, '5' in the job" in remark
    launcher.close()
