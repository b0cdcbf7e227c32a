"""What several hosts have for themselves, as the tests of runs on them take for granted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.hosts.hosts import HOME, Host, Network, wait_until
from tests.support.folders import PROJECT

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def pair(network: Network, shared: Path) -> list[Host]:
    return [network.add_host(shared), network.add_host(shared)]


def test_each_host_has_an_address_a_name_and_processes_of_its_own(pair: list[Host]) -> None:
    one, other = pair
    assert one.run("hostname").stdout.strip() == one.name != other.name
    assert f"{one.address}/24" in one.run(f"ip -brief address show {one.interface}").stdout
    assert other.run(f"ip address show {one.interface}").returncode != 0
    sleeper = one.popen("sleep 1000")
    try:
        wait_until(lambda: "sleep 1000" in one.run("ps -eo args").stdout, 60, "the process is there")
        assert "sleep 1000" not in other.run("ps -eo args").stdout
    finally:
        sleeper.kill()
        sleeper.wait()
    wait_until(lambda: "sleep 1000" not in one.run("ps -eo args").stdout, 60, "it dies with its handle")


def test_hosts_reach_each_other_and_nothing_else(pair: list[Host]) -> None:
    one, other = pair
    server = other.popen([sys.executable, "-m", "http.server", "8000", f"--bind={other.address}"])
    reach = [sys.executable, "-c", "import socket, sys; socket.create_connection((sys.argv[1], 8000), 2)"]
    try:
        wait_until(lambda: one.run([*reach, other.address]).returncode == 0, 60, "a connection")
        assert one.run([*reach, "192.0.2.1"]).returncode != 0
    finally:
        server.kill()
        server.wait()


@pytest.mark.parametrize("folder", ["/tmp", "/run", "/var/tmp", "/dev/shm", HOME])
def test_what_a_host_writes_no_other_sees(pair: list[Host], folder: str) -> None:
    one, other = pair
    one.write(f"{folder}/mine", "secret")
    assert one.read(f"{folder}/mine") == "secret"
    assert other.run(f"cat {folder}/mine").returncode != 0
    assert not Path(folder, "mine").exists()


def test_the_image_is_the_same_and_nobody_writes_to_it(pair: list[Host]) -> None:
    for host in pair:
        where = host.run(
            [sys.executable, "-c", "import orchestrator; print(orchestrator.__file__)"], check=True
        )
        assert Path(where.stdout.strip()).is_file()
        assert host.run(f"touch {PROJECT}/written {Path(sys.prefix)}/written").returncode != 0


def test_a_shared_folder_is_the_same_on_all(pair: list[Host], shared: Path) -> None:
    one, other = pair
    one.write("/tmp/shared/note", "for all")
    assert other.read("/tmp/shared/note") == (shared / "note").read_text() == "for all"


def test_a_killed_host_is_gone_without_a_word(network: Network) -> None:
    host = network.add_host()
    with host.popen("sleep 1000"):
        wait_until(lambda: len(host.processes()) >= 2, 60, "its processes")
        processes = host.processes()
        host.kill()
    assert not psutil.wait_procs(processes, timeout=60)[1]


def test_a_test_process_that_dies_leaves_nothing(network: Network) -> None:
    script = (
        "import time\nfrom tests.hosts.hosts import Network\nnetwork = Network()\nhost = network.add_host()\n"
        "host.popen('sleep 1000')\nprint('made', flush=True)\ntime.sleep(1000)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", script], cwd=PROJECT, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    with child, child.stdout:
        assert child.stdout.readline() == "made\n"
        below = psutil.Process(child.pid).children(recursive=True)
        assert len(below) >= 4
        os.kill(child.pid, signal.SIGKILL)
    assert not psutil.wait_procs(below, timeout=60)[1]
