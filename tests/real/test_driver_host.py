"""Drivers that are forked from a process that has imported what they need."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from orchestrator.cluster.warm.record import WarmCluster
from orchestrator.driver.driver_host import DriverHost, StartedDriver
from tests.real.conftest import CPU
from tests.support.processes import running, title
from tests.support.receivers import UNTIL_S, until

pytestmark = pytest.mark.real

# What a driver finds, and that it can wait for a process of its own.
LOOKS = """
import gc, json, os, signal, subprocess, sys
print(json.dumps({
    "words": sys.argv[1:], "cwd": os.getcwd(), "mark": os.environ.get("MARK"), "leads": os.getsid(0) == os.getpid(),
    "name": __name__, "has_ray": "ray" in sys.modules, "child": subprocess.call([sys.executable, "-c", "exit(3)"]),
    "stdin": sys.stdin.read(), "threads": len(os.listdir("/proc/self/task")),
    "of_numpy": os.environ.get("OPENBLAS_NUM_THREADS"), "collects": gc.isenabled(),
}), flush=True)
if "stay" in sys.argv:
    signal.pause()
"""


@pytest.fixture
def host(kept: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DriverHost]:
    """Of a user with a kept cluster, in whose folder the module `looks` is."""
    (tmp_path / "looks.py").write_text(LOOKS)
    for name, value in kept.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(tmp_path), *filter(None, [kept.get("PYTHONPATH")])])
    )
    record = Path(kept["XDG_STATE_HOME"], "orchestrator", "cluster.json")
    made = DriverHost(WarmCluster(**json.loads(record.read_text())).address, patience_s=UNTIL_S)
    yield made
    made.close()


def start(host: DriverHost, folder: Path, module: str, *words: str) -> StartedDriver:
    with (folder / "log").open("wb") as log:
        return host.start(module, words, folder, log.fileno(), MARK="m")


def told(folder: Path) -> dict[str, object]:
    until(lambda: (folder / "log").read_text().endswith("}\n"))
    seen: dict[str, object] = json.loads((folder / "log").read_text())
    return seen


def test_a_forked_driver_is_like_one_with_an_interpreter_of_its_own(host: DriverHost, tmp_path: Path) -> None:
    forked = start(host, tmp_path, "looks", "a word", "stay")
    seen = told(tmp_path)
    assert (forked.is_forked, forked.alive(), seen.pop("has_ray"), seen.pop("threads")) == (
        True,
        True,
        True,
        1,
    )
    assert title(psutil.Process(forked.pid)) == f"{sys.executable} -m looks a word stay"
    os.kill(forked.pid, signal.SIGKILL)
    assert forked.wait(UNTIL_S)
    assert not forked.alive()
    assert host._process is not None
    host._process.kill()
    usual = start(host, tmp_path, "looks", "a word", "stay")
    assert (usual.is_forked, usual.alive()) == (False, True)
    seen_usual = told(tmp_path)
    assert (seen_usual.pop("has_ray"), seen_usual.pop("threads")) == (False, 1)
    assert seen == seen_usual
    os.kill(usual.pid, signal.SIGKILL)
    assert usual.wait(UNTIL_S)
    again = start(host, tmp_path, "looks")
    assert again.is_forked, "there is another host"
    assert again.wait(UNTIL_S)


def test_a_host_ends_with_its_caller_and_drivers_go_on(host: DriverHost, tmp_path: Path) -> None:
    caller = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from orchestrator.driver.driver_host import DriverHost\n"
        "host = DriverHost('127.0.0.1:1')\n"
        "log = os.open('log', os.O_WRONLY | os.O_CREAT)\n"
        "print(host.start('looks', ['stay'], Path.cwd(), log).pid, host._process.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", caller], cwd=tmp_path, capture_output=True, text=True)
    driver, its_host = (psutil.Process(int(pid)) for pid in done.stdout.split())
    told(tmp_path)
    until(lambda: not running(its_host))
    assert running(driver)
    driver.kill()


def test_a_run_that_is_forked_is_a_run(host: DriverHost, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("print('trained')\n")
    words = [*CPU, "job=script", "job.script=script.py", "run_name=forked", "tracking.uri=http://127.0.0.1:9"]
    driver = start(host, tmp_path, "orchestrator", *words)
    assert driver.is_forked
    assert driver.wait(UNTIL_S)
    assert "run finished" in (tmp_path / "log").read_text(), (tmp_path / "log").read_text()
    assert "trained" in (tmp_path / "runs/forked/logs/attempt-1.rank-0.log").read_text()
