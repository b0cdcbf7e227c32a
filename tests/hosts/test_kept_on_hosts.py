"""A cluster that `up` keeps, on hosts that join it with the token and nothing else."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import psutil
import pytest

from orchestrator.events import ResourcesGranted, RunStarted
from tests.hosts.hosts import HOME, WORK, Host, Network, wait_until
from tests.hosts.runs import COMMON, start

pytestmark = pytest.mark.real

UP = ["python", "-m", "orchestrator", "up", *COMMON]
TRAINS = [
    *COMMON, "job=tiny_gpt", "job.steps=6", "job.args.checkpoint_every=0", "job.args.val_every=0",
    "job.args.sample_tokens=0", "model.seq_len=64", "cluster.nodes=3",
]  # fmt: skip
RECORD = f"{HOME}/.local/state/orchestrator/cluster.json"
TOKEN = f"{HOME}/.ray/auth_token"


@pytest.fixture(scope="module")
def hosts(network: Network) -> list[Host]:
    """`up` on the first, `ray start` with a copy of its token on the others, `up` once more."""
    head, *others = made = [network.add_host() for _ in range(3)]
    first = head.run([*UP, f"launch.node_address={head.address}"], timeout_s=180, check=True).stdout
    address, token = json.loads(head.read(RECORD))["address"], head.read(TOKEN)
    assert f"ray start --address={address}" in first
    assert address.startswith(f"{head.address}:")
    for host in others:
        host.run(["mkdir", "-m", "700", f"{HOME}/.ray"], check=True)
        host.write(TOKEN, token)
        join = ["ray", "start", f"--address={address}", f"--node-ip-address={host.address}", "--num-cpus=2"]
        host.run(join, {"RAY_AUTH_MODE": "token"}, check=True)
    head.run(UP, timeout_s=180, check=True)
    return made


def status(head: Host) -> dict[str, Any]:
    seen: dict[str, Any] = json.loads(
        head.run(["python", "-m", "orchestrator", "status", "--json"], check=True).stdout
    )
    return seen


def test_every_node_is_warm(hosts: list[Host]) -> None:
    seen = status(hosts[0])
    assert [(node["host"], node["address"]) for node in seen["nodes"]] == [(h.name, h.address) for h in hosts]
    assert [[zygote["state"] for zygote in node["zygotes"]] for node in seen["nodes"]] == [["ready"]] * 3


def test_a_run_attaches_by_itself_and_is_forked_everywhere(hosts: list[Host]) -> None:
    run = start(hosts[0], "warm", *TRAINS).ended()
    assert run.code == 0, run.text
    (began,), (granted,) = run.of(RunStarted), run.of(ResourcesGranted)
    assert began.ray_address == json.loads(hosts[0].read(RECORD))["address"]
    assert sorted(granted.nodes) == [host.name for host in hosts]
    assert not any("zygote" in warning for warning in granted.warnings)
    assert len(run.losses()) == 6
    for host in hosts:
        own = host.run(["sh", "-c", f"cat {WORK}/runs/warm/logs/zygote* 2>/dev/null"]).stdout
        assert own == "", f"{host.name} started a zygote of its own"
    seen = status(hosts[0])
    assert [[zygote["runs"] for zygote in node["zygotes"]] for node in seen["nodes"]] == [[1]] * 3
    assert [(run["name"], run["status"]) for run in seen["ended_runs"]] == [("warm", "finished")]


def test_a_host_without_the_token_cannot_join(network: Network, hosts: list[Host]) -> None:
    stranger = network.add_host()
    address = json.loads(hosts[0].read(RECORD))["address"]
    stranger.run(
        ["ray", "start", f"--address={address}", f"--node-ip-address={stranger.address}"], timeout_s=120
    )
    assert len(status(hosts[0])["nodes"]) == 3
    stranger.kill()


def test_down_leaves_nothing_and_names_the_hosts_that_had_joined(hosts: list[Host]) -> None:
    head, *others = hosts
    done = head.run(["python", "-m", "orchestrator", "down"], timeout_s=120)
    assert "nothing is left" in done.stdout
    assert ours(head) == []
    assert not any("zygote" in line for host in others for line in ours(host))
    assert f"Ray on {others[0].name}, {others[1].name} was started there" in done.stdout
    for host in others:
        host.run("ray stop", check=True)
        wait_until(lambda host=host: not ours(host), 90, f"Ray to end on {host.name}")


def ours(host: Host) -> list[str]:
    """Command lines of Ray's processes and of ours that still run on a host."""
    words = ("ray", "orchestrator", "raylet", "gcs_server")
    found: list[str] = []
    for process in host.processes():
        with suppress(psutil.NoSuchProcess):  # or a zombie: nobody buries the dead in such a host
            if any(word in (line := " ".join(process.cmdline())) for word in words):
                found.append(line)
    return found
