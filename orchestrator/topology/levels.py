"""The levels of a cluster's network, far to near, and the labels by which nodes say where they are.

The names of labels are those of NVIDIA's Topograph (docs.nvidia.com/topograph, reference of node labels and
annotations, versions 0.5 and 1.0), of its GPU operator, of Kubernetes, of Amazon's and Google's Kubernetes
(node-topology labels of both), of Oracle's, and of Ray (its ``ray.io/`` labels).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.errors import ConfigError


@dataclass(frozen=True)
class Level:
    """A kind of domain, and the labels that name the one a node is in: the first that it has."""

    name: str
    labels: tuple[str, ...]


KNOWN = (
    Level("zone", ("zone", "topology.kubernetes.io/zone", "ray.io/availability-zone")),
    Level(
        "core",
        (
            "core", "network.topology.nvidia.com/core", "fabric.topograph.run/tier-2",
            "topology.k8s.aws/network-node-layer-1",
        ),
    ),
    Level(
        "block",
        (
            "block", "spine", "network.topology.nvidia.com/spine", "fabric.topograph.run/tier-1",
            "topology.k8s.aws/network-node-layer-2", "cloud.google.com/gce-topology-block",
            "oci.oraclecloud.com/host.network_block_id",
        ),
    ),
    Level("rail", ("rail",)),
    Level(
        "rack",
        (
            "rack", "leaf", "network.topology.nvidia.com/leaf", "fabric.topograph.run/tier-0",
            "topology.k8s.aws/network-node-layer-3", "cloud.google.com/gce-topology-subblock",
            "oci.oraclecloud.com/host.rack_id",
        ),
    ),
    Level(
        "nvlink",
        (
            "nvlink", "nvlink-domain", "nvidia.com/gpu.clique", "network.topology.nvidia.com/accelerator",
            "accelerator.topograph.run/domain", "ray.io/gpu-domain",
        ),
    ),
)  # fmt: skip


def levels_of(labels: Sequence[str]) -> tuple[Level, ...]:
    """The levels that are looked for: those that are known, or each of these ``labels`` as one, far to near.

    Raises :class:`ConfigError`.
    """
    for label in labels:
        if not label or labels.count(label) > 1:
            raise ConfigError(
                f"cluster.topology.levels=[{','.join(labels)}]: "
                + (f"has '{label}' twice" if label else "has a label without a name")
                + "; name each label once, far to near, as [block,rack]"
            )
    by_name = {level.name: level for level in KNOWN}
    return tuple(by_name.get(label, Level(label, (label,))) for label in labels) or KNOWN


def domain_at(level: Level, labels: Mapping[str, str]) -> str:
    """In which domain of a level a node with these labels is; empty where it does not say."""
    return next((labels[label] for label in level.labels if labels.get(label)), "")
