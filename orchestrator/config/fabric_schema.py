"""The typed schema of a fabric: the network between nodes, what it carries and what it asks of ranks."""

from __future__ import annotations

from dataclasses import dataclass, field

from orchestrator.config.choices import MISSING, Transport
from orchestrator.config.export_schema import PodsConfig
from orchestrator.config.ranges import Degree, FactorFrom1, Rate, Seconds, Share

# The variables of an environment from which it follows how fast the network between nodes is.
ROUTE_VARIABLES = (
    "NCCL_NET", "NCCL_NET_PLUGIN", "NCCL_IB_DISABLE", "NCCL_NET_GDR_LEVEL", "NCCL_ALGO", "FI_PROVIDER",
    "NCCL_IB_HCA", "NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME", "NCCL_FASTRAK_IFNAME",
    "NCCL_GPUDIRECTTCPX_SOCKET_IFNAME",
)  # fmt: skip


@dataclass
class SettingConfig:
    """One environment variable of a fabric, and where its value comes from."""

    value: str = MISSING  # as in a rank's environment
    source: str = MISSING  # document or file that recommends it


@dataclass
class FabricConfig:
    """The network between nodes, the interconnect environment that it asks for, and what it carries with
    that: the NICs that the environment names, at their line rate, ``efficiency`` of it. What the user puts
    into ``env`` instead counts: ``NCCL_IB_DISABLE=1`` is planned at the rate of sockets."""

    name: str = MISSING  # as printed
    description: str = ""  # one line, for people
    # variables by name; env and job.env win over them
    environment: dict[str, SettingConfig] = field(default_factory=dict)
    # variables that harm on this fabric, and why; setting one is warned of
    leave_unset: dict[str, str] = field(default_factory=dict)
    transport: Transport = Transport.gpudirect_rdma  # how NCCL moves bytes with this environment
    # NICs of a node that it drives; null is all of cluster.nics_per_node, or as many as the environment names
    nics: Degree | None = None
    nic_bits_per_s: Rate | None = None  # that one of them carries at most; null is cluster.nic_bits_per_s
    efficiency: Share = 0.85  # share of the NICs' line rate that a large collective reaches
    efficiency_source: str = ""  # where it was measured; empty is the schema's guess
    latency_s: Seconds = 6.0e-6  # of one step of a collective between nodes
    latency_source: str = ""  # where it is from; empty is the schema's guess
    # by which what the nodes of a domain can send exceeds what leads out of it, by level of the network: 7
    # where nodes of 7 GB/s share an uplink of 1. A level that is not named has no such bound
    oversubscription: dict[str, FactorFrom1] = field(default_factory=dict)
    oversubscription_source: str = ""  # where it is published
    pods: PodsConfig = field(default_factory=PodsConfig)
