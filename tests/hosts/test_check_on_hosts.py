"""A slow cable and a slow node are named by a check, and nobody else is.

``ORCHESTRATOR_CHECK_TIMES`` says how often each is tried, on another host each time; ``make test-services`` tries
twenty times.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from orchestrator.events import NodeQuarantined, ResourcesGranted
from tests.hosts.hosts import Host, Network, NoHostsError
from tests.hosts.runs import WHERE, Run, start

pytestmark = [pytest.mark.real, pytest.mark.timeout(1200)]

TIMES = range(int(os.environ.get("ORCHESTRATOR_CHECK_TIMES", "1")))
# Version 1 of control groups has a tree for the processor, version 2 one for all.
GROUPS = Path("/sys/fs/cgroup/cpu")
PERIOD_US, QUOTA_US = 100_000, 8_000
CHECK = ["python", "-m", "orchestrator", "check", "--quick", "--json", "gpu=cpu", "check.timeout_s=150"]
# A disk of this machine is everybody's, and is full of other suites' work.
CALM = ["check.least_disk_bytes_per_s=1", "check.least_disk_room_bytes=0", "check.least_shm_room_bytes=0"]


def checked(desk: Host) -> tuple[int, dict[str, Any]]:
    command = [*CHECK, *CALM, f"ray_address={desk.gcs_address}"]
    with desk.popen(command, stdout=-1, stderr=-1, text=True) as process:
        text, errors = process.communicate(timeout=400)
    assert text, errors
    return process.returncode, json.loads(text)


def named(seen: dict[str, Any]) -> set[tuple[str, str]]:
    """Who is called bad, for what. What is only odd is a disk or a clock of this machine, which all share."""
    return {(one["node"], one["what"]) for one in seen["findings"] if one["grave"] == "bad"}


@contextmanager
def slow_cable(network: Network, host: Host) -> Iterator[None]:
    """A megabyte a second in both directions, as a link that has fallen back to its lowest rate."""
    shape = "root tbf rate 8mbit burst 16kb latency 200ms"
    try:
        network.run(f"tc qdisc add dev {host._cable} {shape}")
    except NoHostsError as error:
        pytest.skip(f"this kernel shapes no traffic: {error}")
    host.run(f"tc qdisc add dev {host.interface} {shape}", check=True)
    try:
        yield
    finally:
        network.run(f"tc qdisc del dev {host._cable} root")
        host.run(f"tc qdisc del dev {host.interface} root", check=True)


@contextmanager
def slow_processors(host: Host) -> Iterator[None]:
    """A quota for all that runs on the host, and for what it will start, as a container's CPU limit."""
    group = GROUPS / f"orchestrator-check-{os.getpid()}"
    try:
        group.mkdir()
        (group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
        (group / "cpu.cfs_quota_us").write_text(str(QUOTA_US))
    except OSError as error:
        pytest.skip(f"needs a control group of version 1 for the processor: {error}")
    before = {}
    try:
        for process in host.processes():
            lines = Path(f"/proc/{process.pid}/cgroup").read_text().splitlines()
            before[process.pid] = next(line.split(":", 2)[2] for line in lines if ":cpu:" in line)
            (group / "cgroup.procs").write_text(str(process.pid))
        yield
    finally:
        for pid in (group / "cgroup.procs").read_text().split():
            home = GROUPS / before.get(int(pid), "/").lstrip("/")
            (home / "cgroup.procs").write_text(pid)
        group.rmdir()


@pytest.mark.parametrize("time", TIMES)
def test_a_slow_cable_is_named(network: Network, cluster: list[Host], time: int) -> None:
    victim = cluster[(time + 1) % 3]
    with slow_cable(network, victim):
        code, seen = checked(cluster[0])
    assert named(seen) == {(victim.name, "exchange")}, seen["findings"]
    assert code == 1


@pytest.mark.parametrize("time", TIMES)
def test_a_node_whose_processors_are_held_back_is_named(cluster: list[Host], time: int) -> None:
    victim = cluster[1 + time % 2]  # not the one that the driver is on
    with slow_processors(victim):
        code, seen = checked(cluster[0])
    found = named(seen)
    assert {node for node, _ in found} == {victim.name}, seen["findings"]
    assert (victim.name, "processor quota") in found
    assert "exchange" not in {what for _, what in found}, "no cable is blamed for it"
    assert code == 1
    again = train_elsewhere(cluster[0], f"preflight-{time}")
    (granted,) = again.of(ResourcesGranted)
    assert [event.node for event in again.of(NodeQuarantined)] == [victim.name]
    assert victim.name not in granted.nodes, "it was avoided because of what the check had found"
    cluster[0].run(["python", "-m", "orchestrator", "nodes", "--forgive", victim.name], check=True)


def train_elsewhere(desk: Host, name: str) -> Run:
    """A run of two nodes that checks those which are not avoided."""
    size = ["cluster.nodes=2", "cluster.gpus_per_node=1", "preflight=quick", *CALM]
    run = start(desk, name, *WHERE, *size, f"ray_address={desk.gcs_address}").ended()
    assert run.code == 0, run.text
    return run


@pytest.mark.skipif(len(TIMES) < 2, reason="in make test-services")
@pytest.mark.parametrize("time", TIMES)
def test_nodes_that_are_well_are_called_so(cluster: list[Host], time: int) -> None:
    code, seen = checked(cluster[0])
    assert named(seen) == set(), seen["findings"]
    assert code == bool(seen["findings"])
