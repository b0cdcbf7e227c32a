"""Faults of ranks, agents, drivers, hosts and cables: each strikes a run over several hosts, which goes on.

Hosts have disks of their own; what a run loses no step of is the loss of every step, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from orchestrator.events import (
    AttemptStarted,
    CheckpointLoaded,
    RankLost,
    ResourcesGranted,
    RunResumed,
    SnapshotCommitted,
    SnapshotQuarantined,
    StepDone,
)
from tests.hosts.hosts import Host, Network, new_token
from tests.hosts.runs import COMMON, Run, start, take_up

pytestmark = pytest.mark.real

STEPS, EVERY = 40, 5
TRAINS = [
    *COMMON, "job=tiny_gpt", f"job.steps={STEPS}", "job.global_batch=12", "job.micro_batch=1",
    f"job.args.checkpoint_every={EVERY}", "job.args.val_every=0", "job.args.sample_tokens=0",
    "recovery.wait_for_node_s=60",
]  # fmt: skip


@pytest.fixture(scope="module")
def cluster(network: Network, shared: Path) -> Iterator[list[Host]]:
    """Ray's head, which has the driver and no rank, and three hosts for ranks."""
    hosts = [network.add_host(shared) for _ in range(4)]
    token = new_token()
    for host in hosts:
        host.environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    desk, *others = hosts
    desk.ray_start(num_cpus=0)
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda host: host.ray_start(desk), others))
    yield hosts
    for host in hosts:
        host.kill()


@pytest.fixture(scope="module")
def desk(cluster: list[Host]) -> Host:
    return cluster[0]


def train(desk: Host, name: str, nodes: int, *more: str) -> Run:
    return start(desk, name, *TRAINS, f"cluster.nodes={nodes}", f"ray_address={desk.gcs_address}", *more)


@pytest.fixture(scope="module")
def over_three(desk: Host) -> dict[int, float | None]:
    """The losses of an uninterrupted run with two ranks on each of three hosts."""
    run = train(desk, "three", 3).ended()
    assert run.code == 0, run.text
    assert list(run.losses()) == list(range(1, STEPS + 1))
    return run.losses()


def host_of(cluster: list[Host], name: str) -> Host:
    return next(host for host in cluster if host.name == name)


def test_a_killed_rank_is_restored_from_memory(cluster: list[Host], desk: Host, over_three: dict) -> None:
    run = train(desk, "rank-killed", 3)
    run.wait_for(StepDone, step=17)
    (granted,) = run.of(ResourcesGranted)
    victim = host_of(cluster, granted.nodes[1])
    victim.run(["pkill", "--signal", "KILL", "--full", "orchestrator rank 3/6 rank-killed"], check=True)
    assert run.ended().code == 0, run.text
    (lost,) = run.of(RankLost)
    assert (lost.rank, lost.node, lost.reason) == (3, victim.name, "killed by SIGKILL")
    _, again = run.of(AttemptStarted)
    assert again.restore_from == "memory"
    assert again.restore_step >= 15
    assert [event.step for event in run.of(CheckpointLoaded)] == [again.restore_step]
    assert run.losses() == over_three


def test_a_killed_driver_is_taken_up_from_the_disks_of_all_hosts(
    cluster: list[Host], desk: Host, over_three: dict
) -> None:
    run = train(desk, "driver-killed", 3)
    run.wait_for(SnapshotCommitted, step=15)
    desk.run(["pkill", "--signal", "KILL", "--full", "orchestrator run_name=driver-killed"], check=True)
    assert run.ended().code != 0
    again = take_up(desk, "driver-killed").ended()
    assert again.code == 0, again.text
    (resumed,) = again.of(RunResumed)
    assert "its driver was lost" in resumed.because
    *_, attempt = again.of(AttemptStarted)
    assert attempt.restore_from == "disk", (
        again.text + str(again.of(SnapshotQuarantined)) + str(again.of(ResourcesGranted))
    )
    assert attempt.restore_step >= 15
    assert again.losses() == over_three
