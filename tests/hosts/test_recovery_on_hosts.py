"""Faults of ranks, agents, drivers, hosts and cables: each strikes a run over several hosts, which goes on.

Hosts have disks of their own; what a run loses no step of is the loss of every step, bit for bit.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator.events import (
    AttemptStarted,
    CheckpointLoaded,
    Decided,
    Fault,
    NodeChecked,
    NodeDraining,
    NodeQuarantined,
    RankLost,
    ResourcesGranted,
    RunEnded,
    RunResumed,
    SnapshotCommitted,
    SnapshotQuarantined,
    Status,
    StepDone,
)
from tests.hosts.hosts import WORK, Host, Network, new_token, wait_until
from tests.hosts.runs import CALM, COMMON, STEPS, Run, ended, hurry, processes_of, take_up, train

# with cluster and undisturbed run on a busy machine
pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

FREEZER = Path("/sys/fs/cgroup/freezer")


@pytest.fixture(scope="module")
def hosts(network: Network, shared: Path) -> Iterator[list[Host]]:
    """Ray's head, which has the driver and no rank, and the hosts that ranks run on; some die on the way."""
    made: list[Host] = [network.add_host(shared)]
    made[0].environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": new_token()}
    made[0].ray_start(num_cpus=0)
    yield made
    for host in made:
        host.kill()


@pytest.fixture
def desk(hosts: list[Host]) -> Host:
    return hosts[0]


@pytest.fixture
def workers(network: Network, shared: Path, hosts: list[Host]) -> list[Host]:
    """Three hosts that are well; those that a test before left dead are made up for."""
    desk, *others = hosts
    well = [host for host in others if host.alive]
    fresh = [network.add_host(shared) for _ in range(3 - len(well))]
    for host in fresh:
        host.environment |= desk.environment
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda host: host.ray_start(desk), fresh))
    hosts += fresh
    if fresh:  # torch and DeepSpeed are imported once on each, and not once for every run
        warm = ["python", "-m", "orchestrator", "up", *COMMON, f"ray_address={desk.gcs_address}"]
        desk.run(warm, timeout_s=180, check=True)
    return [*well, *fresh]


@pytest.fixture(scope="module")
def undisturbed() -> dict[int, dict[int, float | None]]:
    """The losses of uninterrupted runs, by the number of hosts."""
    return {}


@pytest.fixture
def over_three(undisturbed: dict[int, Any], desk: Host, workers: list[Host]) -> dict[int, float | None]:
    return _losses_of(undisturbed, desk, 3)


@pytest.fixture
def over_two(undisturbed: dict[int, Any], desk: Host, workers: list[Host]) -> dict[int, float | None]:
    return _losses_of(undisturbed, desk, 2)


def _losses_of(undisturbed: dict[int, Any], desk: Host, nodes: int) -> dict[int, float | None]:
    if nodes not in undisturbed:
        run = train(desk, f"undisturbed-{nodes}", nodes)
        hurry(desk, run)
        run.ended()
        assert run.code == 0, run.text
        assert list(run.losses()) == list(range(1, STEPS + 1))
        undisturbed[nodes] = run.losses()
    return undisturbed[nodes]


def host_of(workers: list[Host], name: str) -> Host:
    return next(host for host in workers if host.name == name)


def had_ranks(host: Host, run: Run, attempt: int) -> list[int]:
    """Ranks of an attempt that ran on this host."""
    logs = host.seen_from_outside(f"{WORK}/runs/{run.name}/logs")
    return sorted(int(path.stem.rpartition("-")[2]) for path in logs.glob(f"attempt-{attempt}.rank-*.log"))


def test_a_killed_rank_is_restored_from_memory(
    workers: list[Host], desk: Host, over_three: dict[int, float]
) -> None:
    run = train(desk, "rank-killed", 3)
    run.wait_for(StepDone, step=17)
    (granted,) = run.of(ResourcesGranted)
    victim = host_of(workers, granted.nodes[1])
    victim.run(["pkill", "--signal", "KILL", "--full", "orchestrator rank 3/6 rank-killed"], check=True)
    hurry(desk, run)
    assert run.ended().code == 0, run.text
    (lost,) = run.of(RankLost)
    assert (lost.rank, lost.node, lost.reason) == (3, victim.name, "killed by SIGKILL")
    _, again = run.of(AttemptStarted)
    assert again.restore_from == "memory"
    assert again.restore_step >= 15
    assert [event.step for event in run.of(CheckpointLoaded)] == [again.restore_step]
    assert run.losses() == over_three


def test_a_killed_driver_is_taken_up_from_the_disks_of_all_hosts(
    workers: list[Host], desk: Host, over_three: dict[int, float]
) -> None:
    """Twice, since other nodes may come first in another driver's placement group."""
    run = train(desk, "driver-killed", 3, "snapshot.park_s=0")
    run.wait_for(SnapshotCommitted, step=10)
    for before in (10, 25):
        desk.run(["pkill", "--signal", "KILL", "--full", "orchestrator .*driver-killed"], check=True)
        assert run.ended().code != 0
        run = take_up(desk, "driver-killed")
        if before == 10:
            run.wait_for(SnapshotCommitted, step=25)
    hurry(desk, run)
    assert run.ended().code == 0, run.text
    assert ["its driver was lost" in event.because for event in run.of(RunResumed)] == [True, True]
    _, *resumed = run.of(AttemptStarted)
    assert [attempt.restore_from for attempt in resumed] == ["disk", "disk"]
    assert [attempt.restore_step >= step for attempt, step in zip(resumed, (10, 25), strict=True)] == [
        True,
        True,
    ]
    assert run.of(SnapshotQuarantined) == []
    assert run.losses() == over_three


def test_a_spare_takes_the_place_of_a_host_without_power(
    workers: list[Host], desk: Host, over_two: dict[int, float]
) -> None:
    run = train(desk, "power-cut", 2, "job.checkpoint_dir=/tmp/shared/power-cut")
    run.wait_for(SnapshotCommitted, step=15)
    (granted,) = run.of(ResourcesGranted)
    (spare,) = [host for host in workers if host.name not in granted.nodes]
    host_of(workers, granted.nodes[0]).kill()
    hurry(desk, run)
    assert run.ended().code == 0, run.text
    (lost,) = run.of(RankLost)
    assert (lost.node, lost.gpu, lost.fault) == (granted.nodes[0], "the whole node", Fault.NODE)
    assert [decided.action for decided in run.of(Decided)] == ["replace"]
    _, again = run.of(AttemptStarted)
    assert again.restore_from == "disk", "what the host had in memory is gone with it"
    assert again.restore_step >= 15
    assert had_ranks(spare, run, attempt=2) == [0]
    assert run.losses() == over_two


def test_what_a_lost_host_had_on_its_own_disk_alone_ends_the_run_with_a_diagnosis(
    workers: list[Host], desk: Host
) -> None:
    """Its part of every checkpoint is gone: the run must not begin anew by itself."""
    run = train(desk, "part-gone", 2)
    run.wait_for(SnapshotCommitted, step=15)
    (granted,) = run.of(ResourcesGranted)
    host_of(workers, granted.nodes[1]).kill()
    hurry(desk, run)
    assert run.ended().code == 6, run.text
    assert re.search(
        r"the checkpoint of step \d+ was committed, and the nodes of this attempt do not have", run.text
    )
    assert "Traceback" not in run.text
    assert [event.attempt for event in run.of(StepDone) if event.attempt > 1] == []
    *_, ended = run.events()
    assert isinstance(ended, RunEnded)
    assert ended.status is Status.FAILED
    assert granted.nodes[1] in [lost.node for lost in run.of(RankLost)]


def test_an_agent_that_does_not_answer_is_killed_and_replaced(
    workers: list[Host], desk: Host, over_two: dict[int, float]
) -> None:
    run = train(desk, "agent-stopped", 2, "recovery.agent_timeout_s=5")
    run.wait_for(SnapshotCommitted, step=15)
    (granted,) = run.of(ResourcesGranted)
    victim = host_of(workers, granted.nodes[1])
    (agent,) = processes_of(victim, "ray::NodeAgent")
    agent.suspend()
    hurry(desk, run)
    assert run.ended().code == 0, run.text
    (lost,) = run.of(RankLost)
    assert (lost.node, lost.fault) == (victim.name, Fault.NODE)
    assert "did not answer for 5 s" in str(lost.error)
    assert ended(agent)
    assert [decided.action for decided in run.of(Decided)] == ["replace"]
    _, again = run.of(AttemptStarted)
    assert again.restore_from in ("disk", "parked"), (
        "ranks save on unheard, until both slots are of such steps"
    )
    assert again.restore_step >= 15
    assert had_ranks(victim, run, attempt=2) == [1]
    assert run.losses() == over_two


def test_a_rank_that_is_stopped_on_another_host_is_named(
    workers: list[Host], desk: Host, over_two: dict[int, float]
) -> None:
    run = train(desk, "rank-stopped", 2, "recovery.hang_floor_s=4", "recovery.hang_evidence_s=3")
    run.wait_for(StepDone, step=17)
    (granted,) = run.of(ResourcesGranted)
    victim = host_of(workers, granted.nodes[1])
    (rank,) = processes_of(victim, "orchestrator rank 1/2 rank-stopped")
    rank.suspend()
    hurry(desk, run)
    assert run.ended().code == 0, run.text
    # So short a floor may also strike ranks of the second attempt that end slowly.
    (lost,) = [lost for lost in run.of(RankLost) if lost.attempt == 1]
    assert (lost.rank, lost.node, lost.fault) == (1, victim.name, Fault.HANG)
    assert "rank 1 has not come to where the others wait" in str(lost.error)
    assert "rank 1 is stopped" in str(lost.error)
    assert lost.detected_s is not None
    assert 4 <= lost.detected_s < 60
    stacks = (run.folder / "logs" / "attempt-1.rank-0.stacks").read_text()
    assert "no progress; stacks of" in stacks
    assert 'File "' in stacks, "where the other rank waits; one that is stopped cannot say"
    assert desk.seen_from_outside(lost.log_path).is_file(), (
        "the path that is named leads somewhere on the driver"
    )
    _, again, *_ = run.of(AttemptStarted)
    assert again.restore_from == "memory"
    assert run.losses() == over_two


@pytest.mark.skipif(not FREEZER.is_dir() or os.geteuid() != 0, reason="needs root and a freezer of cgroup v1")
def test_a_host_whose_rank_outlives_sigkill_is_not_used_any_more(
    workers: list[Host], desk: Host, over_two: dict[int, float]
) -> None:
    run = train(
        desk, "outlives", 2, "recovery.sigkill_timeout_s=3", "job.checkpoint_dir=/tmp/shared/outlives"
    )
    run.wait_for(SnapshotCommitted, step=15)
    (granted,) = run.of(ResourcesGranted)
    healthy, victim = (host_of(workers, name) for name in granted.nodes)
    (spare,) = [host for host in workers if host.name not in granted.nodes]
    (rank,) = processes_of(victim, "orchestrator rank 1/2 outlives")
    (other,) = processes_of(healthy, "orchestrator rank 0/2 outlives")
    with frozen(rank):
        other.kill()
        hurry(desk, run)
        assert run.ended().code == 0, run.text
        assert rank.status() == psutil.STATUS_DISK_SLEEP, "SIGKILL waits until it is thawed"
    (lost,) = run.of(RankLost)
    assert (lost.rank, lost.node, lost.fault) == (0, healthy.name, Fault.EXIT)
    (quarantined,) = run.of(NodeQuarantined)
    assert quarantined.node == victim.name
    assert "rank 1 (CPU core 0) outlived SIGKILL by 3 s" in quarantined.reason
    assert had_ranks(victim, run, attempt=2) == []
    assert sorted(had_ranks(healthy, run, attempt=2) + had_ranks(spare, run, attempt=2)) == [0, 1]
    _, again = run.of(AttemptStarted)
    assert again.restore_step >= 15
    assert run.losses() == over_two
    wait_until(lambda: ended(rank), 60, "thawed, it dies")


def test_a_host_that_is_cut_off_is_lost_and_taken_again_when_it_is_back(
    workers: list[Host], desk: Host, over_three: dict[int, float]
) -> None:
    words = ["recovery.wait_for_node_s=200", "preflight=quick", *CALM]
    run = train(desk, "cut-off", 3, "job.checkpoint_dir=/tmp/shared/cut-off", *words)
    run.wait_for(SnapshotCommitted, step=15)
    (granted,) = run.of(ResourcesGranted)
    victim = host_of(workers, granted.nodes[1])
    ours = ("orchestrator rank", "ray::NodeAgent", "ray::ZygotePool")
    before = [one for words in ours for one in processes_of(victim, words)]
    assert len(before) == 4
    victim.cut_cable()
    hurry(desk, run)
    run.wait_for(RankLost, node=victim.name)
    victim.mend_cable()
    wait_until(lambda: not processes_of(victim, "raylet"), 90, "Ray on the host hears that it was given up")
    # Ray would end them where the raylet is buried; here it is not, as in many a container.
    wait_until(lambda: all(map(ended, before)), 60, "no rank, agent or zygote of before is left")
    victim.ray_start(desk)
    assert run.ended().code == 0, run.text
    (lost,) = run.of(RankLost)
    assert (lost.gpu, lost.fault) == ("the whole node", Fault.NODE)
    assert [decided.action for decided in run.of(Decided)] == ["replace"]
    (checked,) = run.of(NodeChecked)
    assert (checked.attempt, checked.node, checked.well, checked.came) == (1, victim.name, True, True)
    _, again = run.of(AttemptStarted)
    assert again.restore_step >= 15
    assert run.losses() == over_three


def test_a_host_that_is_drained_is_left_in_time_and_costs_no_step(
    workers: list[Host], desk: Host, over_two: dict[int, float]
) -> None:
    # It takes Ray's commands seconds to be imported, many on a busy machine.
    strict = ["job.checkpoint_dir=/tmp/shared/drained", "recovery.max_restarts=0"]
    run = train(desk, "drained", 2, *strict, pace_s=3.0)
    run.wait_for(StepDone, step=2)
    (granted,) = run.of(ResourcesGranted)
    victim = host_of(workers, granted.nodes[1])
    drain(desk, victim, within_s=100)
    run.wait_for(NodeDraining, node=victim.name)
    hurry(desk, run)
    assert run.ended().code == 0, run.text
    (draining,) = run.of(NodeDraining)
    assert 30 < draining.left_s <= 100
    assert run.of(RankLost) == []
    assert [decided.action for decided in run.of(Decided)] == ["replace"]
    first, again = run.of(AttemptStarted)
    steps = [event.step for event in run.of(StepDone) if event.attempt == first.attempt]
    assert again.restore_step == max(steps) >= 2, "it saved where it was"
    assert had_ranks(victim, run, attempt=2) == []
    assert run.losses() == over_two
    assert f"node {victim.name} is being drained" in run.text
    victim.kill()


def drain(desk: Host, host: Host, within_s: int) -> None:
    """As an autoscaler does before it takes a machine away."""
    ask = (  # a host that was taken again has two nodes by now, of which one is dead
        "import ray; ray.init(logging_level=50)\n"
        "print(*(node['NodeID'] + node['NodeManagerHostname'] for node in ray.nodes() if node['Alive']))"
    )
    told = desk.run(["python", "-c", ask], {"RAY_ADDRESS": desk.gcs_address}, check=True).stdout.split()
    (node_id,) = [one[:56] for one in told if one[56:] == host.name]
    why = ["--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=taken back"]
    address = f"--address={desk.gcs_address}"
    command = [
        "ray",
        "drain-node",
        address,
        f"--node-id={node_id}",
        *why,
        f"--deadline-remaining-seconds={within_s}",
    ]
    desk.run(command, check=True)


@contextmanager
def frozen(process: psutil.Process) -> Iterator[None]:
    """What a driver that does not come back does to a process: no signal ends it."""
    group = FREEZER / f"orchestrator-test-{os.getpid()}"
    group.mkdir()
    try:
        (group / "cgroup.procs").write_text(str(process.pid))
        (group / "freezer.state").write_text("FROZEN")
        wait_until(lambda: (group / "freezer.state").read_text().strip() == "FROZEN", 60, "frozen")
        yield
    finally:
        (group / "freezer.state").write_text("THAWED")
        wait_until(lambda: not (group / "cgroup.procs").read_text() or _moved_back(group), 60, "thawed")
        group.rmdir()


def _moved_back(group: Path) -> bool:
    """A process that lives on after all must not keep the group."""
    for pid in (group / "cgroup.procs").read_text().split():
        with suppress(OSError):
            (FREEZER / "cgroup.procs").write_text(pid)
    return not (group / "cgroup.procs").read_text()
