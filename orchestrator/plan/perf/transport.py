"""What the network between nodes carries with the environment that the ranks will have.

The environment that is printed and the bandwidth that is planned come from the same values: NCCL drives the
adapters that `NCCL_IB_HCA` names, and falls back to the kernel's sockets, on the interfaces that
`NCCL_SOCKET_IFNAME` names, where `NCCL_IB_DISABLE` or `NCCL_NET` takes it off them (NCCL user guide,
env.html).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.config.choices import Transport
from orchestrator.config.schema import ClusterConfig, Device, FabricConfig, GpuConfig
from orchestrator.plan.environment import interconnect_environment
from orchestrator.text import bits_in_words, bytes_in_words, seconds_in_words

# Of a fabric that the environment takes off its adapters: what fabric=ethernet has, with its sources.
SOCKET_BITS_PER_S = 100.0e9
SOCKET_EFFICIENCY = 0.8
SOCKET_LATENCY_S = 30.0e-6
# Without GPUDirect a byte passes the link between the processor and the switch that a GPU shares with its NIC
# twice: 48 GB/s of PCIe 5.0 x16, and 24 of 4.0 (NVIDIA GTC slide in stas00/ml-engineering), beside NICs of 50
# and 25.
HOST_BUFFER_SHARE = 0.5
_NAMES = {
    Transport.sockets: "TCP sockets",
    Transport.rdma: "RDMA through the host's memory",
    Transport.gpudirect_rdma: "GPUDirect RDMA",
    Transport.efa: "EFA",
    Transport.gib: "gIB",
    Transport.tcpx: "GPUDirect-TCPX",
    Transport.tcpxo: "GPUDirect-TCPXO",
}
# The variable that names the NICs of each, and those on InfiniBand's verbs, which NCCL_IB_DISABLE turns off.
_NIC_LISTS = {
    Transport.sockets: "NCCL_SOCKET_IFNAME",
    Transport.rdma: "NCCL_IB_HCA",
    Transport.gpudirect_rdma: "NCCL_IB_HCA",
    Transport.gib: "NCCL_IB_HCA",
    Transport.tcpx: "NCCL_GPUDIRECTTCPX_SOCKET_IFNAME",
    Transport.tcpxo: "NCCL_FASTRAK_IFNAME",
}
_ON_VERBS = {Transport.rdma, Transport.gpudirect_rdma, Transport.gib}
_OF_PLUGINS = {Transport.efa, Transport.gib, Transport.tcpx, Transport.tcpxo}
# One adapter, one interface; without the number it is a prefix of all that are called so.
_ONE_ADAPTER = re.compile(r".*_\d+(:\d+)?")
_ONE_INTERFACE = re.compile(r".*\d|lo|\{interface\}")


@dataclass(frozen=True)
class Route:
    """How ranks of different nodes reach each other, and what of it a large collective has."""

    transport: str  # as `fabric.transport`, or `sockets` where the environment takes NCCL off its adapters
    nics: int  # of a node that are driven; 0 where none is on record
    nics_of_node: int  # that there are
    nic_bits_per_s: float  # line rate of one, or what this transport carries of it
    efficiency: float  # share of that which a large collective reaches
    latency_s: float  # of one step of a collective
    why: str = ""  # what of the environment it follows from, where that is not the fabric's own
    trees: bool = True  # whether an all-reduce may go up and down trees, and not around a ring alone

    @property
    def line_bytes_per_s(self) -> float:
        """Of a node, at line rate; 0 where nothing is on record."""
        return self.nics * self.nic_bits_per_s / 8

    @property
    def bytes_per_s(self) -> float:
        """Of a node, as a large collective has it."""
        return self.line_bytes_per_s * self.efficiency

    @property
    def transport_in_words(self) -> str:
        """TCP sockets on 1 of 8 NICs."""
        name = _NAMES[Transport[self.transport]]
        if not self.nics:
            return name
        of_all = f" of {self.nics_of_node}" if self.nics_of_node > self.nics else ""
        return f"{name} on {self.nics}{of_all} {'NICs' if self.nics_of_node > 1 else 'NIC'}"

    def in_words(self, gpus_per_node: int, unit: str) -> str:
        """For a person: transport, NICs, rate and latency, in one line."""
        why = f" ({self.why})" if self.why else ""
        step = f"{seconds_in_words(self.latency_s)} a step of a collective"
        if not self.nics:
            return (
                f"{self.transport_in_words}{why}; cluster.nics_per_node and cluster.nic_bits_per_s"
                f" are not on record, and the link to the host's memory stands for them; {step}"
            )
        rate = bytes_in_words(self.bytes_per_s)
        each = bytes_in_words(self.bytes_per_s / gpus_per_node)
        return (
            f"{self.transport_in_words}, {bits_in_words(self.nic_bits_per_s)} each{why},"
            f" {self.efficiency:.0%} of it: {rate}/s a node, {each}/s a {unit}; {step}"
        )


def route_of(cluster: ClusterConfig, gpu: GpuConfig, fabric: FabricConfig, user: Mapping[str, str]) -> Route:
    """The route between nodes. ``user`` is what the configuration's ``job.env`` and ``env`` set."""
    settings = interconnect_environment(fabric, user, nodes=2)
    environment = {name: setting.value for name, setting in settings.items()}
    transport, why = _transport(fabric.transport, gpu.device, environment)
    own = transport is fabric.transport or {transport, fabric.transport} <= {
        Transport.rdma,
        Transport.gpudirect_rdma,
    }
    listed = "GLOO_SOCKET_IFNAME" if gpu.device is Device.cpu else _NIC_LISTS.get(transport, "")
    most_nics = None if listed in user else fabric.nics if own else 1
    nics = _driven(transport, environment.get(listed), most_nics, cluster.nics_per_node)
    if listed in user and nics < cluster.nics_per_node:
        why = ", ".join(filter(None, (why, f"{listed}={environment[listed]}")))
    rate = cluster.nic_bits_per_s
    most = fabric.nic_bits_per_s if own else SOCKET_BITS_PER_S
    if most is not None:
        rate = min(rate or most, most)
    efficiency = fabric.efficiency if own else SOCKET_EFFICIENCY
    through_host = transport is Transport.rdma and fabric.transport is not Transport.rdma
    return Route(
        transport=transport.value,
        nics=nics if rate else 0,
        nics_of_node=max(nics, cluster.nics_per_node),
        nic_bits_per_s=rate,
        efficiency=efficiency * (HOST_BUFFER_SHARE if through_host else 1.0),
        latency_s=fabric.latency_s if own else SOCKET_LATENCY_S,
        why=why,
        trees="tree" in environment.get("NCCL_ALGO", "tree").lower(),
    )


def _transport(wanted: Transport, device: Device, environment: Mapping[str, str]) -> tuple[Transport, str]:
    """What NCCL takes with this environment, and the variable that takes it off the fabric's own."""
    if device is Device.cpu:
        return Transport.sockets, "ranks on processors talk through gloo"
    net = environment.get("NCCL_NET", "")
    if wanted is Transport.sockets:
        return wanted, ""
    if net.lower() == "socket":
        return Transport.sockets, f"NCCL_NET={net}"
    if wanted in _ON_VERBS and _is_on(environment.get("NCCL_IB_DISABLE")):
        return Transport.sockets, f"NCCL_IB_DISABLE={environment['NCCL_IB_DISABLE']}"
    if wanted in _OF_PLUGINS and environment.get("NCCL_NET_PLUGIN", "").lower() == "none":
        return Transport.sockets, f"NCCL_NET_PLUGIN={environment['NCCL_NET_PLUGIN']}"
    provider = environment.get("FI_PROVIDER", "efa")
    if wanted is Transport.efa and provider.lower() != "efa":
        return Transport.sockets, f"FI_PROVIDER={provider}"
    level = environment.get("NCCL_NET_GDR_LEVEL", "")
    if wanted is Transport.gpudirect_rdma and level.upper() in ("0", "LOC"):
        return Transport.rdma, f"NCCL_NET_GDR_LEVEL={level}"
    return wanted, ""


def _is_on(value: str | None) -> bool:
    """As NCCL reads a switch: a number that is not 0."""
    try:
        return int(value or "0", 0) != 0
    except ValueError:
        return False


def _driven(transport: Transport, listed: str | None, most: int | None, there: int) -> int:
    """How many NICs of a node are driven. Sockets have one where none is on record: the ranks reach each
    other somehow."""
    there = max(there, 1) if transport is Transport.sockets else there
    one = _ONE_ADAPTER if _NIC_LISTS.get(transport) == "NCCL_IB_HCA" else _ONE_INTERFACE
    driven = there if most is None else min(most, there)
    if not listed or listed.startswith("^"):
        return driven
    names = [name for name in listed.removeprefix("=").split(",") if name]
    if listed.startswith("=") or all(one.fullmatch(name) for name in names):
        return min(len(names), driven)
    return driven
