"""Runs over several hosts with nothing in common but the image: real Ray between them, real ranks."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.events import (
    CheckpointLoaded,
    CheckpointSaved,
    MetricLogged,
    RankLost,
    ResourcesGranted,
    RunEnded,
    Status,
)
from tests.hosts.hosts import WORK, Host
from tests.hosts.runs import COMMON, TIMEOUT_S, WHERE, Run, start
from tests.support.folders import SCRIPTS

pytestmark = pytest.mark.real

TRAINS = [
    *COMMON, "job=tiny_gpt", "job.steps=12", "job.global_batch=12", "job.micro_batch=1",
    "model.seq_len=64", "job.args.checkpoint_every=4", "job.args.val_every=12", "job.args.sample_tokens=20",
]  # fmt: skip


@pytest.fixture(scope="module")
def head(cluster: list[Host]) -> Host:
    return cluster[0]


@pytest.fixture(scope="module")
def spread(head: Host) -> Run:
    """The main job: two ranks on each of three hosts, which share no folder."""
    return start(head, "spread", *TRAINS, "cluster.nodes=3", f"ray_address={head.gcs_address}").ended()


@pytest.fixture(scope="module")
def alone(head: Host) -> Run:
    """The same six ranks on one host."""
    return start(head, "alone", *TRAINS, "cluster.gpus_per_node=6", "launch.dashboard=false").ended()


def test_a_node_that_is_missing_is_waited_for_and_then_named(head: Host) -> None:
    job = [*WHERE, "cluster.nodes=4", f"ray_address={head.gcs_address}", "launch.wait_for_resources_s=3"]
    run = start(head, "missing", *job).ended()
    assert run.code == 3, run.text
    assert "waiting up to 3 s for 4 nodes" in run.text
    assert "the plan needs 4 nodes with 2 CPU each, the cluster has 3 such (" in run.text


def test_a_run_is_in_the_rack_that_holds_it(head: Host, cluster: list[Host]) -> None:
    """As a file says, in whose racks hosts have no neighbouring numbers."""
    racks = zip(cluster, ("a", "b", "a"), strict=True)
    head.write(
        f"{WORK}/racks.yaml", "nodes:\n" + "".join(f"  {h.name}: {{rack: {rack}}}\n" for h, rack in racks)
    )
    job = [
        *WHERE,
        "cluster.nodes=2",
        f"ray_address={head.gcs_address}",
        f"cluster.topology.file={WORK}/racks.yaml",
    ]
    run = start(head, "racks", *job).ended()
    assert run.code == 0, run.text
    (granted,) = run.of(ResourcesGranted)
    assert (granted.nodes, granted.domains) == ([cluster[0].name, cluster[2].name], {"rack": 1})
    assert "4 CPU cores on 2 nodes in 1 rack granted" in run.text


def test_every_log_reaches_the_driver(spread: Run, cluster: list[Host]) -> None:
    (granted,) = spread.of(ResourcesGranted)
    by_name = {host.name: host for host in cluster}
    for rank in range(6):
        host = by_name[granted.nodes[rank // 2]]
        there = host.read(f"{WORK}/runs/spread/logs/attempt-1.rank-{rank}.log")
        assert spread.log(rank) == there
    assert "step 12/12" in spread.log(0)


def test_the_main_job_trains_over_three_hosts_as_on_one(spread: Run, alone: Run, cluster: list[Host]) -> None:
    assert spread.code == 0, spread.text
    assert alone.code == 0, alone.text
    (granted,) = spread.of(ResourcesGranted)
    assert sorted(granted.nodes) == [host.name for host in cluster]
    assert granted.gpus == 6
    assert list(spread.losses()) == list(range(1, 13))
    assert spread.losses() == alone.losses(), "to the last digit"
    assert "Traceback" not in spread.text


def test_checkpoints_that_the_nodes_do_not_share_are_warned_of_once(
    head: Host, spread: Run, alone: Run
) -> None:
    """Where the script loads them by itself: snapshots are carried from node to node."""
    assert spread.of(ResourcesGranted)[0].warnings == []
    job = [*WHERE, "cluster.nodes=3", "snapshot.enabled=false", f"ray_address={head.gcs_address}"]
    warned = start(head, "warned", *job).ended()
    assert warned.code == 0, warned.text
    (granted,) = warned.of(ResourcesGranted)
    (warning,) = granted.warnings
    first, *others = granted.nodes
    assert warning.startswith(
        f"job.checkpoint_dir={WORK}/runs/warned/checkpoints: {', '.join(others)} cannot see"
    )
    assert f"what {first} writes" in warning
    assert warned.text.count("cannot see what") == 1
    assert alone.of(ResourcesGranted)[0].warnings == []


def test_a_rank_killed_on_another_host_costs_no_step(head: Host, cluster: list[Host], alone: Run) -> None:
    address = f"ray_address={head.gcs_address}"
    run = start(head, "killed", *TRAINS, "cluster.nodes=3", address, "job.checkpoint_dir=/tmp/shared/killed")
    run.wait_for(CheckpointSaved, step=4)
    (granted,) = run.of(ResourcesGranted)
    rank = 2 * next(index for index, node in enumerate(granted.nodes) if node != head.name) + 1
    host = next(host for host in cluster if host.name == granted.nodes[rank // 2])
    host.run(["pkill", "--signal", "KILL", "--full", f"orchestrator rank {rank}/6 killed"], check=True)
    assert run.ended().code == 0, run.text
    (lost,) = run.of(RankLost)
    assert (lost.rank, lost.node, lost.reason) == (rank, host.name, "killed by SIGKILL")
    assert head.seen_from_outside(lost.log_path).is_file(), (
        "the path that is named leads somewhere on the driver"
    )
    (loaded,) = run.of(CheckpointLoaded)
    assert loaded.step >= 4
    assert run.losses() == alone.losses()
    assert granted.warnings == []
    assert run.log(rank, attempt=2)


def test_each_rank_uses_the_interface_of_its_node(head: Host, cluster: list[Host]) -> None:
    run = start(head, "interfaces", *WHERE, "cluster.nodes=3", f"ray_address={head.gcs_address}").ended()
    assert run.code == 0, run.text
    (granted,) = run.of(ResourcesGranted)
    by_name = {host.name: host for host in cluster}
    for rank in range(6):
        host = by_name[granted.nodes[rank // 2]]
        assert f"rank {rank} host {host.name} interface {host.interface} nccl ={host.interface} " in run.log(
            rank
        )


def test_a_script_on_the_driver_alone_is_shipped(head: Host, cluster: list[Host]) -> None:
    project = f"{WORK}/project"
    head.run(f"mkdir -p {project}/train {project}/runs {project}/data", check=True)
    head.run(f"cp {SCRIPTS}/where.py {project}/train/where.py", check=True)
    head.write(f"{project}/data/text.txt", "only here")
    head.write(f"{project}/runs/stays_here", "of an earlier run")
    job = [*WHERE, "job.script=train/where.py", f"job.corpus=[{project}/data]", "cluster.nodes=3"]
    job += [
        f"+job.args.data={project}/data/text.txt",
        f"run_root={project}/runs",
        f"ray_address={head.gcs_address}",
    ]
    refused = start(head, "stays", *job, cwd=project).ended()
    assert refused.code == 3
    assert "no file at" in refused.text
    run = start(head, "shipped", *job, "launch.working_dir=.", cwd=project).ended()
    assert run.code == 0, run.text
    logs = head.seen_from_outside(f"{project}/runs/shipped/logs")
    for rank in range(6):
        text = (logs / f"attempt-1.rank-{rank}.log").read_text()
        assert text.startswith(f"rank {rank} ")
        assert "/train/where.py data only here" in text
        assert f"script {project}" not in text
    for host in cluster:
        assert host.run("find /tmp/ray -path *working_dir_files*/where.py").stdout.strip()
        assert not host.run("find /tmp/ray -name stays_here").stdout.strip()


def test_a_folder_too_large_to_ship_is_refused(head: Host) -> None:
    head.run(f"mkdir -p {WORK}/large", check=True)
    head.run(f"cp {SCRIPTS}/where.py {WORK}/large/", check=True)
    head.run(f"dd if=/dev/urandom of={WORK}/large/data bs=1M count=9", check=True)
    job = [*WHERE, "job.script=where.py", "launch.working_dir=.", f"ray_address={head.gcs_address}"]
    run = start(
        head, "large", *job, env={"RAY_max_grpc_message_size": str(8 * 1024**2)}, cwd=f"{WORK}/large"
    ).ended()
    assert run.code == 2, run.text
    assert f"error: launch.working_dir={WORK}/large: " in run.text
    assert "exceeds the maximum size" in run.text
    assert "Traceback" not in run.text


def test_a_client_without_the_token_is_refused_in_one_line(head: Host) -> None:
    nobody = {"RAY_AUTH_MODE": "", "RAY_AUTH_TOKEN": ""}
    address = f"ray_address={head.gcs_address}"
    run = start(head, "tokenless", *WHERE, "cluster.nodes=3", address, env=nobody).ended()
    assert run.code == 3, run.text
    assert f"error: {address}: the cluster asks for a token" in run.text
    assert "Unauthenticated" not in run.text
    assert "Traceback" not in run.text


def test_two_runs_share_the_cluster_and_a_third_is_told_who_holds_it(head: Host, shared: Path) -> None:
    job = [*WHERE, f"ray_address={head.gcs_address}"]
    wait = "+job.args.until=/tmp/shared/go"
    first = start(head, "first", *job, "cluster.nodes=2", wait)
    first.wait_for(MetricLogged)
    second = start(head, "second", *job, "cluster.nodes=1", wait)
    second.wait_for(MetricLogged)
    third = start(head, "third", *job, "cluster.nodes=2", "launch.wait_for_resources_s=4").ended()
    (shared / "go").touch()
    assert first.ended().code == second.ended().code == 0, first.text + second.text
    (two,), (one,) = first.of(ResourcesGranted), second.of(ResourcesGranted)
    assert len({*two.nodes, *one.nodes}) == 3
    assert third.code == 3, third.text
    assert "waiting up to 4 s for 2 nodes with 2 CPU each" in third.text
    assert f"{one.nodes[0]} has 2 CPU, of which 'orchestrator second' holds 2 CPU" in third.text
    assert f"{two.nodes[0]} has 2 CPU, of which 'orchestrator first' holds 2 CPU" in third.text
    ended = third.events()[-1]
    assert isinstance(ended, RunEnded)
    assert ended.status is Status.FAILED
    assert not third.of(ResourcesGranted), "nothing was paid for"


@pytest.mark.parametrize(("script", "code"), [("where.py", 0), ("fails.py", 1)])
def test_a_run_submitted_to_ray_as_a_job(head: Host, script: str, code: int) -> None:
    folder = f"{WORK}/submitted"
    head.run(f"mkdir -p {folder}", check=True)
    head.run(f"cp {SCRIPTS}/where.py {folder}/", check=True)
    head.write(f"{folder}/fails.py", "raise SystemExit('out of luck')")
    words = [
        "python",
        "-m",
        "orchestrator",
        *WHERE,
        f"job.script={script}",
        "cluster.nodes=3",
        "ray_address=auto",
    ]
    words += [f"run_root={WORK}/runs", f"run_name=submitted-{script}", "recovery.max_restarts=0"]
    command = [
        "ray",
        "job",
        "submit",
        "--address=http://127.0.0.1:8265",
        f"--working-dir={folder}",
        "--",
        *words,
    ]
    done = head.run(command, timeout_s=TIMEOUT_S)
    assert done.returncode == code, done.stdout
    assert "6 CPU cores on 3 nodes granted" in done.stdout
    assert ("rank 0 host host-" if code == 0 else "failed with exit code 6") in done.stdout


def test_a_host_without_power_ends_the_run_with_its_name(head: Host, cluster: list[Host]) -> None:
    """The last one: the cluster has two hosts afterwards."""
    job = [*WHERE, f"ray_address={head.gcs_address}", "cluster.nodes=3", "launch.wait_for_resources_s=4"]
    job.append("recovery.wait_for_node_s=4")
    # The agent is given up before Ray has noticed anything.
    run = start(head, "powerless", *job, "recovery.agent_timeout_s=5", "+job.args.until=/tmp/shared/never")
    run.wait_for(MetricLogged)
    cluster[2].kill()
    assert run.ended().code == 3, run.text
    (lost,) = run.of(RankLost)
    assert lost.node == cluster[2].name
    assert lost.gpu == "the whole node"
    assert lost.reason == "lost with its node"
    assert lost.detected_s is not None
    assert lost.detected_s >= 5
    ended = run.events()[-1]
    assert isinstance(ended, RunEnded)
    assert ended.reason.startswith(
        f"{cluster[2].name} left the cluster and nothing took its place: the plan needs 3"
    )
    again = start(head, "two-of-three", *job).ended()
    assert again.code == 3, again.text
    assert "the cluster has 2 such" in again.text
