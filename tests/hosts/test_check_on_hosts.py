"""A slow cable and a slow node are named by a check, and nobody else is.

``ORCHESTRATOR_CHECK_TIMES`` says how often each is tried, on another host each time; ``make test-services`` tries
twenty times.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from orchestrator.events import NodeQuarantined, ResourcesGranted
from orchestrator.ledger import node_notes
from orchestrator.ledger.node_notes import NodeNote, NoteKind
from tests.hosts.hosts import WORK, Host, Network, NoHostsError
from tests.hosts.runs import CALM, WHERE, Run, start

pytestmark = [pytest.mark.real, pytest.mark.timeout(1200)]

TIMES = range(int(os.environ.get("ORCHESTRATOR_CHECK_TIMES", "1")))
# Version 1 of control groups has a tree for the processor, version 2 one for all.
GROUPS = Path("/sys/fs/cgroup/cpu")
# Less than what each of a dozen that compute has of two cores, so that it holds back on a busy machine, too; what
# is started there takes ten times as long, so that nothing else is done meanwhile.
PERIOD_US, QUOTA_US = 100_000, 10_000
CHECK = ["python", "-m", "orchestrator", "check", "--quick", "--json", "gpu=cpu", "check.timeout_s=150"]


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


@pytest.mark.parametrize("number", TIMES)
def test_a_slow_cable_is_named(network: Network, cluster: list[Host], number: int) -> None:
    victim = cluster[(number + 1) % 3]
    with slow_cable(network, victim):
        code, seen = checked(cluster[0])
    assert named(seen) == {(victim.name, "exchange")}, seen["findings"]
    assert code == 1


@pytest.mark.parametrize("number", TIMES)
def test_a_node_whose_processors_are_held_back_is_named(cluster: list[Host], number: int) -> None:
    victim = cluster[1 + number % 2]  # not the one that the driver is on
    with slow_processors(victim):
        code, seen = checked(cluster[0])
    found = named(seen)
    assert {node for node, _ in found} == {victim.name}, seen["findings"]
    assert (victim.name, "processor quota") in found
    assert "exchange" not in {what for _, what in found}, "no cable is blamed for it"
    assert code == 1


def test_a_run_avoids_a_node_of_which_a_check_has_found_something(cluster: list[Host]) -> None:
    desk, victim = cluster[0], cluster[2]
    root = desk.seen_from_outside(f"{WORK}/runs")
    note = NodeNote(victim.name, time.time(), NoteKind.BAD, "check", "processor quota", "held back")
    earlier = [node_notes.forgiven(name, "another test") for name in node_notes.avoided(root)]
    node_notes.add(root, [*earlier, note])
    run = train_elsewhere(desk, "preflight")
    (granted,) = run.of(ResourcesGranted)
    assert [event.node for event in run.of(NodeQuarantined)] == [victim.name]
    assert victim.name not in granted.nodes
    assert len(granted.nodes) == 2
    known = node_notes.histories(root)
    assert all(known[name].notes[-1].by == "check" for name in granted.nodes), "what it took it has measured"
    later = known[victim.name].notes[known[victim.name].notes.index(note) + 1 :]
    assert "check" not in [one.by for one in later], "and what it avoids it has not"
    desk.run(["python", "-m", "orchestrator", "nodes", "--forgive", victim.name], check=True)


def train_elsewhere(desk: Host, name: str) -> Run:
    """A run of two nodes that checks those which are not avoided."""
    size = ["cluster.nodes=2", "cluster.gpus_per_node=1", "preflight=quick", *CALM]
    run = start(desk, name, *WHERE, *size, f"ray_address={desk.gcs_address}").ended()
    assert run.code == 0, run.text
    return run


@pytest.mark.skipif(len(TIMES) < 2, reason="in make test-services")
@pytest.mark.parametrize("number", TIMES)
def test_nodes_that_are_well_are_called_so(cluster: list[Host], number: int) -> None:
    code, seen = checked(cluster[0])
    assert named(seen) == set(), seen["findings"]
    assert code == bool(seen["findings"])
