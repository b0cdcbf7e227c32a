"""One zygote, several launchers: what each asked for is its own."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from orchestrator.errors import RankStartError
from orchestrator.rank.launch.launcher import SharedZygote, ZygoteLauncher
from tests.support.folders import SCRIPTS
from tests.support.rank_harness import Bench, environment, is_gone, shared_owner, wait_until

pytestmark = pytest.mark.real


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[ZygoteLauncher]:
    with closing(shared_owner(tmp_path / "socket", ["multiprocessing"])) as made:
        yield made


@pytest.fixture
def benches(owner: ZygoteLauncher, tmp_path: Path) -> Iterator[list[Bench]]:
    """Two launchers, as two runs on a node have them."""
    made = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        shared = SharedZygote(str(tmp_path / "socket"), owner.key, ["multiprocessing"])
        made.append(Bench(shared, tmp_path / name, environment()))
    yield made
    for bench in made:
        bench.clear()
        bench.launcher.close()


def test_a_launcher_may_connect_while_the_zygote_imports_and_is_counted(
    benches: list[Bench], owner: ZygoteLauncher
) -> None:
    assert not owner.ready
    assert benches[0].run(benches[0].write("print('forked')")).output == "forked\n"
    rank = benches[1].start(str(SCRIPTS / "family.py"))
    assert benches[1].shows("waiting")
    assert owner.usage() == (2, 1)
    rank.kill()
    assert rank.wait(5) == -signal.SIGKILL
    benches[0].launcher.close()
    assert wait_until(lambda: owner.usage() == (1, 0))


def test_ranks_end_with_their_own_launcher_only(benches: list[Bench]) -> None:
    ranks = [bench.start(str(SCRIPTS / "family.py")) for bench in benches]
    assert all(bench.shows("waiting") for bench in benches)
    family = [int(word) for word in benches[0].log().splitlines()[0].split()[1:]]
    benches[0].launcher.close()
    assert wait_until(lambda: all(is_gone(pid) for pid in [ranks[0].pid, *family]))
    assert ranks[1].poll() is None
    assert (
        benches[1]
        .run(benches[1].write("print('still here')", "more.py"), rank=0)
        .output.endswith("still here\n")
    )


def test_a_launcher_that_vanishes_in_the_middle_of_a_message_harms_nobody(
    benches: list[Bench], owner: ZygoteLauncher, tmp_path: Path
) -> None:
    owner.wait_ready()
    rude = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    rude.connect(str(tmp_path / "socket"))
    rude.sendall(b"\0\0")
    rude.close()
    assert wait_until(lambda: owner.usage() == (2, 0))
    assert benches[0].run(benches[0].write("print('fine')")).output == "fine\n"


def test_the_end_of_the_owner_is_the_end_of_all(benches: list[Bench], owner: ZygoteLauncher) -> None:
    rank = benches[0].start(str(SCRIPTS / "family.py"))
    assert benches[0].shows("waiting")
    os.kill(owner.pid, signal.SIGKILL)
    assert rank.wait(5) == -signal.SIGKILL
    assert rank.exit_reason is not None
    assert "the warm zygote ended" in rank.exit_reason
    with pytest.raises(RankStartError, match="warm zygote ended"):
        benches[0].start("a.py")


def test_a_zygote_that_is_gone_and_a_job_that_does_not_fit_are_refused(
    benches: list[Bench], owner: ZygoteLauncher, tmp_path: Path
) -> None:
    with pytest.raises(RankStartError, match=r"OMP_NUM_THREADS: '2' in the zygote, '7' in the job"):
        benches[0].start("a.py", OMP_NUM_THREADS="7")
    owner.close()
    with pytest.raises(RankStartError, match="is gone"):
        SharedZygote(str(tmp_path / "socket"), owner.key, ["multiprocessing"])
