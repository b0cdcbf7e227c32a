"""Agents that are there before their run: who gets one, what it does without a driver, when it ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from orchestrator.cluster.warm.record import WarmCluster
from tests.real.conftest import CPU
from tests.support.processes import AHEAD, below, running, title
from tests.support.receivers import UNTIL_S, until
from tests.support.texts import text_so_far

pytestmark = pytest.mark.real

# Says who it is, and goes on until it is let go.
SCRIPT = """
import os, pathlib, time
here = pathlib.Path(os.environ["HERE"])
(here / f"rank-{os.environ['RANK']}").write_text(str(os.getpid()))
while not (here / "go").exists():
    time.sleep(0.05)
"""
UNTRACKED = "tracking.uri=http://127.0.0.1:9"
# A keeper of agents that is not the node's, so that its end is not the end of the cluster's zygotes.
KEEPER = """
import sys, time
from orchestrator.driver.warm_cluster import connect
with connect(sys.argv[1]):
    from orchestrator.cluster.warm.spare import SpareAgents
    print(SpareAgents(None).wait_ready(120), flush=True)
    time.sleep(600)
"""


class Cluster:
    """The kept one and what runs on it."""

    def __init__(self, kept: dict[str, str], folder: Path, stack: ExitStack) -> None:
        record = Path(kept["XDG_STATE_HOME"], "orchestrator", "cluster.json")
        known = WarmCluster(**json.loads(record.read_text()))
        self.address, self._head = known.address, known.head()
        self.environment, self.folder, self._stack = kept, folder, stack
        (folder / "script.py").write_text(SCRIPT)

    def start(self, name: str, *words: str) -> tuple[subprocess.Popen[bytes], Path]:
        """A run of one rank, whose script writes into the folder that is returned."""
        (here := self.folder / name).mkdir()
        settings = [
            *CPU[:1],
            "cluster.gpus_per_node=1",
            *CPU[2:],
            "job=script",
            "job.script=script.py",
            UNTRACKED,
        ]
        command = [sys.executable, "-m", "orchestrator", *settings, f"run_name={name}", f"+env.HERE={here}"]
        return self.popen([*command, *words]), here

    def popen(self, command: list[str]) -> subprocess.Popen[bytes]:
        log = self._stack.enter_context((self.folder / "log").open("ab"))
        process = subprocess.Popen(command, cwd=self.folder, env=self.environment, stdout=log, stderr=log)
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        return process

    def said(self) -> str:
        return (self.folder / "log").read_text()

    def called(self, accept: Callable[[str], bool]) -> set[psutil.Process]:
        return {process for process in below(self._head)[0] if accept(title(process)) and running(process)}

    def ahead(self) -> set[psutil.Process]:
        return self.called(AHEAD.__eq__)

    def agents(self) -> set[psutil.Process]:
        return self.called(lambda text: text.startswith("ray::NodeAgent"))


@pytest.fixture
def cluster(kept: dict[str, str], tmp_path: Path) -> Iterator[Cluster]:
    with ExitStack() as stack:
        yield Cluster(kept, tmp_path, stack)


def test_one_of_two_runs_at_a_time_takes_the_agent_that_is_there(cluster: Cluster) -> None:
    until(lambda: len(cluster.ahead()) == 1)
    (there,) = cluster.ahead()
    runs = [cluster.start(name) for name in ("one", "two")]
    until(lambda: all((here / "rank-0").exists() for _, here in runs))
    assert len(cluster.agents()) == 2
    assert there in cluster.agents(), "it is a run's now"
    status = subprocess.run(
        [sys.executable, "-m", "orchestrator", "status", "--json"],
        cwd=cluster.folder, env=cluster.environment, capture_output=True, check=True,
    )  # fmt: skip
    assert sorted(run["name"] for run in json.loads(status.stdout)["runs"]) == ["one", "two"]
    until(lambda: len(cluster.ahead()) == 1)  # another for the next run
    for _, here in runs:
        (here / "go").touch()
    assert [process.wait(UNTIL_S) for process, _ in runs] == [0, 0], cluster.said()
    until(lambda: not cluster.agents())
    assert not there.is_running()


def test_an_agent_ends_with_its_driver_however_that_ends(cluster: Cluster) -> None:
    until(lambda: len(cluster.ahead()) == 1)
    (there,) = cluster.ahead()
    driver, here = cluster.start("killed")
    until(lambda: text_so_far(here / "rank-0") != "")
    rank = psutil.Process(int((here / "rank-0").read_text()))
    assert cluster.agents() == {there}
    driver.send_signal(signal.SIGKILL)
    until(lambda: not running(there) and not running(rank))


def test_one_that_no_run_has_ends_with_its_keeper(cluster: Cluster) -> None:
    until(lambda: len(cluster.ahead()) == 1)
    before = cluster.ahead()
    keeper = cluster.popen([sys.executable, "-c", KEEPER, cluster.address])
    until(lambda: cluster.said() == "[]\n")
    (new,) = cluster.ahead() - before
    keeper.kill()
    until(lambda: not running(new))
    assert cluster.ahead() == before
