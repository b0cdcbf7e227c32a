"""Hosts in two racks that a slow spine joins: where a run's nodes are, and in which order, shows in the time that its
ranks wait for each other; a lost node is replaced in its rack."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from orchestrator.events import AttemptStarted, MetricLogged, ResourcesGranted
from tests.hosts.hosts import SHARED, Host, Network, NoHostsError, new_token
from tests.hosts.runs import COMMON, WHERE, Run, processes_of, start
from tests.support.folders import SCRIPTS
from tests.support.processes import end

pytestmark = [pytest.mark.real, pytest.mark.timeout(1200)]

# In the order of their numbers hosts are in one rack and the other, as Ray may well take them.
RACKS = ("a", "b", "a", "b")
SPINE = "root tbf rate 24mbit burst 32kb latency 400ms"
EACH = "cluster.gpus_per_node=1"
ADDS_UP = [*COMMON, "job=script", f"job.script={SCRIPTS / 'ring.py'}", "launch.zygote=false", EACH]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def racks(shared: Path) -> Iterator[list[Host]]:
    try:
        network = Network()
    except NoHostsError as error:
        pytest.skip(str(error))
    with network:
        hosts = [network.add_host(shared) for _ in RACKS]
        _wire(network, hosts)
        token = new_token()
        for host in hosts:
            host.environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
        hosts[0].ray_start(labels=f"rack={RACKS[0]}")
        with ThreadPoolExecutor() as pool:
            others = zip(hosts[1:], RACKS[1:], strict=True)
            list(pool.map(lambda one: one[0].ray_start(hosts[0], labels=f"rack={one[1]}"), others))
        yield hosts


def _wire(network: Network, hosts: list[Host]) -> None:
    """A switch for the second rack, and a cable of three megabytes a second from it to the first's."""
    network.run("ip link add spine-b type bridge")
    network.run("ip link set spine-b up")
    network.run("ip link add up-a type veth peer name up-b")
    for cable, switch in (("up-a", "bridge"), ("up-b", "spine-b")):
        network.run(f"ip link set {cable} master {switch} up")
        try:
            network.run(f"tc qdisc add dev {cable} {SPINE}")
        except NoHostsError as error:
            pytest.skip(f"this kernel shapes no traffic: {error}")
    for host, rack in zip(hosts, RACKS, strict=True):
        if rack == "b":
            network.run(f"ip link set host{host.number} master spine-b")


def on(hosts: list[Host], name: str, nodes: int, *words: str) -> Run:
    desk = hosts[0]
    return start(desk, name, *words, f"cluster.nodes={nodes}", f"ray_address={desk.gcs_address}")


def done(run: Run) -> Run:
    assert run.ended().code == 0, run.text
    return run


def rack_of(name: str) -> str:
    return RACKS[int(name.rsplit("-", 1)[1]) - 1]


def granted(run: Run) -> ResourcesGranted:
    (event,) = run.of(ResourcesGranted)
    assert isinstance(event, ResourcesGranted)
    return event


def seconds(run: Run) -> float:
    found = re.search(r"all_reduce ([\d.]+)", run.log(0))
    assert found is not None, run.log(0)
    return float(found[1])


def test_a_run_that_fits_a_rack_is_in_one(racks: list[Host]) -> None:
    event = granted(done(on(racks, "one-rack", 2, *WHERE, EACH)))
    assert event.domains == {"rack": 1}
    assert len({rack_of(name) for name in event.nodes}) == 1


def test_the_order_of_the_ring_shows_in_the_time_of_an_all_reduce(racks: list[Host]) -> None:
    racks[0].write(
        f"{SHARED}/wrong.yaml",
        "nodes:\n" + "".join(f"  host-0{n}: {{rack: {'xy'[n > 2]}}}\n" for n in range(1, 5)),
    )
    near = done(on(racks, "near", 4, *ADDS_UP))
    far = done(on(racks, "far", 4, *ADDS_UP, f"cluster.topology.file={SHARED}/wrong.yaml"))
    assert [rack_of(name) for name in granted(near).nodes] in (["a", "a", "b", "b"], ["b", "b", "a", "a"])
    assert [rack_of(name) for name in granted(far).nodes] == ["a", "b", "a", "b"]
    print(f"all-reduce of 2 MB over the spine: {seconds(near):.2f} s in order, {seconds(far):.2f} s without")
    assert seconds(far) > 1.5 * seconds(near)


def test_what_is_required_is_waited_for_and_then_refused(racks: list[Host]) -> None:
    short = ["placement.topology=required", "launch.wait_for_resources_s=4"]
    run = on(racks, "required", 3, *WHERE, EACH, *short).ended()
    said = " ".join(run.text.split())
    assert run.code == 3
    assert "the plan needs 3 nodes with 1 CPU each in one rack, and no rack had so many" in said
    assert "2 of 2 in a, 2 of 2 in b" in said


def test_a_lost_node_is_replaced_in_its_rack_though_another_is_free(racks: list[Host]) -> None:
    """By what a file says: one rack of three, of which the run takes two, and one with the driver's host."""
    racks[0].write(
        f"{SHARED}/racks.yaml",
        "nodes:\n" + "".join(f"  host-0{n}: {{rack: {'x' if n == 1 else 'y'}}}\n" for n in range(1, 5)),
    )
    run = on(
        racks, "replaced", 2, *WHERE, EACH, f"cluster.topology.file={SHARED}/racks.yaml",
        f"+job.args.until={SHARED}/over", "recovery.wait_for_node_s=60",
    )  # fmt: skip
    run.wait_for(AttemptStarted, attempt=1)
    first = granted(run)
    assert first.domains == {"rack": 1}
    victim, left = (next(host for host in racks if host.name == name) for name in reversed(first.nodes))
    run.wait_for(MetricLogged)
    victim.kill()
    run.wait_for(MetricLogged, attempt=2)
    # Ray has a group of which a bundle is gone for good: an agent starts on what is left of it all the same.
    (agent,) = processes_of(left, "ray::NodeAgent")
    end(agent)
    run.wait_for(MetricLogged, attempt=3)
    racks[0].write(f"{SHARED}/over", "")
    done(run)
    (spare,) = {f"host-0{n}" for n in (2, 3, 4)} - set(first.nodes)
    for attempt in (2, 3):
        assert f"rank 0 host {left.name} " in run.log(0, attempt)
        assert f"rank 1 host {spare} " in run.log(1, attempt)
    assert "takes the place of" not in run.text, "it is in the same rack"
