"""The network between nodes, as the environment of the ranks has it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.config.schema import Config
from orchestrator.plan.environment import environment_of_user, interconnect_environment
from orchestrator.plan.perf.machine import Machine
from orchestrator.plan.perf.transport import Route, route_of
from orchestrator.plan.plan import Plan, make_plan
from tests.unit.config.test_conf import composed, options


def route(*words: str, **user: str) -> Route:
    config = composed(*words)
    return route_of(config.cluster, config.gpu, config.fabric, {**environment_of_user(config), **user})


# words, what the user sets, transport, NICs driven, GB/s of a node
ROUTES = [
    ("dgx_h100", {}, "gpudirect_rdma", 8, 368.0),
    ("dgx_h100", {"NCCL_IB_HCA": "=mlx5_0,mlx5_3"}, "gpudirect_rdma", 2, 92.0),
    ("dgx_h100", {"NCCL_IB_HCA": "mlx5_0:1,mlx5_3:1"}, "gpudirect_rdma", 2, 92.0),
    ("dgx_h100", {"NCCL_IB_HCA": "mlx5"}, "gpudirect_rdma", 8, 368.0),
    ("dgx_h100", {"NCCL_IB_HCA": "^mlx5_0"}, "gpudirect_rdma", 8, 368.0),
    ("dgx_h100", {"NCCL_NET_GDR_LEVEL": "LOC"}, "rdma", 8, 184.0),
    ("dgx_h100", {"NCCL_IB_DISABLE": "0"}, "gpudirect_rdma", 8, 368.0),
    ("dgx_h100", {"NCCL_IB_DISABLE": "1"}, "sockets", 1, 10.0),
    ("dgx_h100", {"NCCL_IB_DISABLE": "1", "NCCL_SOCKET_IFNAME": "ens6,ens7"}, "sockets", 2, 20.0),
    ("dgx_h100", {"NCCL_NET": "Socket"}, "sockets", 1, 10.0),
    ("azure_nd_h100_v5", {"NCCL_IB_DISABLE": "1"}, "sockets", 1, 10.0),
    ("aws_p5", {}, "efa", 32, 364.0),
    ("aws_p5", {"FI_PROVIDER": "tcp", "NCCL_SOCKET_IFNAME": "=ens32"}, "sockets", 1, 10.0),
    ("aws_p5", {"FI_PROVIDER": "efa"}, "efa", 32, 364.0),
    ("gcp_a4", {"NCCL_NET": "Socket", "NCCL_SOCKET_IFNAME": "eth0"}, "sockets", 1, 10.0),
    ("gcp_a3_high", {"NCCL_GPUDIRECTTCPX_SOCKET_IFNAME": "eth1,eth2"}, "tcpx", 2, 25.0),
    ("gcp_a3_mega", {"NCCL_NET_PLUGIN": "none"}, "sockets", 1, 10.0),
]


@pytest.mark.parametrize(("cluster", "user", "transport", "nics", "gb_per_s"), ROUTES)
def test_the_environment_says_what_is_driven(
    cluster: str, user: dict[str, str], transport: str, nics: int, gb_per_s: float
) -> None:
    found = route(f"cluster={cluster}", **user)
    assert (found.transport, found.nics) == (transport, nics)
    assert found.bytes_per_s / 1e9 == pytest.approx(gb_per_s)
    if user and (transport == "sockets" or nics < found.nics_of_node or transport == "rdma"):
        assert any(f"{name}={value}" in found.why for name, value in user.items())


def test_ethernet_drives_the_one_interface_that_its_environment_names() -> None:
    words = ("cluster=dgx_h100", "fabric=ethernet")
    config = composed(*words)
    settings = interconnect_environment(config.fabric, {}, nodes=64)
    assert settings["NCCL_SOCKET_IFNAME"].value == "={interface}"
    found = route(*words)
    assert (found.nics, found.nics_of_node) == (1, 8)
    assert found.bytes_per_s == pytest.approx(10e9)
    assert found.latency_s > 4 * route("cluster=dgx_h100").latency_s
    assert route(*words, NCCL_SOCKET_IFNAME="ens6,ens7").bytes_per_s == pytest.approx(20e9)
    assert "TCP sockets on 1 of 8 NICs" in found.in_words(8, "GPU")
    slow = route(*words, "cluster.nics_per_node=2", "cluster.nic_bits_per_s=10e9")
    assert slow.bytes_per_s == pytest.approx(1e9), "an interface is no faster than it is"


def test_two_nodes_of_this_machines_kind_reach_each_other_though_no_nic_is_on_record() -> None:
    assert route("cluster.nodes=2").bytes_per_s == pytest.approx(10e9)
    assert route("cluster=dgx_h100", "cluster.nics_per_node=0").nics == 0


@pytest.mark.parametrize("option", [name for name in options("cluster") if name != "local"])
def test_a_clusters_own_environment_drives_all_of_its_nics(option: str) -> None:
    config = composed(f"cluster={option}")
    found = route(f"cluster={option}")
    assert (found.nics, found.why) == (config.cluster.nics_per_node, "")
    assert found.nic_bits_per_s == config.cluster.nic_bits_per_s
    assert found.transport == config.fabric.transport.value


SEVENTY = ("job=llama3_70b", "cluster=dgx_h100", "cluster.nodes=64")


def plan(*words: str) -> Plan:
    return make_plan(composed(*SEVENTY, *words), "/job.py", "/", {})


def test_seventy_billion_parameters_over_sockets_are_far_slower_and_the_plan_says_why() -> None:
    fast, slow = plan(), plan("fabric=ethernet")
    assert fast.prediction.step_time_s is not None
    assert slow.prediction.step_time_s is not None
    assert slow.prediction.step_time_s > 4 * fast.prediction.step_time_s
    assert str(fast.prediction.bound_by).startswith("matrix products")
    assert slow.prediction.bound_by == (
        "data parallel communication, 86% of a step, over TCP sockets on 1 of 8 NICs: 10 GB/s a node"
    )
    off = plan("+env.NCCL_IB_DISABLE=1")
    assert off.prediction.step_time_s == pytest.approx(slow.prediction.step_time_s, rel=1e-6)
    assert "NCCL_IB_DISABLE=1" in str(off).split("layout")[0]
    body = off.to_json()["network"]
    assert (body["transport"], body["nics"], body["why"]) == ("sockets", 1, "NCCL_IB_DISABLE=1")


def test_one_node_has_no_network_to_speak_of() -> None:
    one = plan("cluster.nodes=1", "model=llama3_8b", "job.global_batch=64")
    assert one.network is None
    assert "network" not in str(one).split("layout")[0]


def test_processors_talk_through_gloo_over_sockets_whatever_the_fabric() -> None:
    found = route("cluster=dgx_h100", "gpu=cpu")
    assert (found.transport, found.nics) == ("sockets", 1)


def test_a_machine_has_what_its_route_has() -> None:
    config: Config = composed("cluster=dgx_h100", "+env.NCCL_IB_DISABLE=1")
    machine = Machine.of_config(config)
    assert machine.node_bytes_per_s * machine.fabric_efficiency == pytest.approx(10e9)
    assert replace(machine, node_bytes_per_s=0.0) != Machine.of(config.cluster, config.gpu, config.fabric)
