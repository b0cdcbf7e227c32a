"""The typed schema of where a run's nodes are to be: which of a cluster's, and how it is known where they
are."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


class TopologyUse(Enum):
    """Whether a run's nodes are chosen by where they are: ``preferred`` takes the fewest and nearest domains
    that are free, ``required`` waits for one domain that holds the run, ``off`` leaves it to Ray."""

    off = "off"
    preferred = "preferred"
    required = "required"


@dataclass
class PlacementConfig:
    """Which nodes a run takes, and in which order its ranks are numbered over them."""

    topology: TopologyUse = TopologyUse.preferred
    # the level of which required asks for one domain, e.g. rack or block; null is the nearest level that has
    # a domain with enough nodes
    level: str | None = None


@dataclass
class TopologyConfig:
    """Where the nodes of a cluster are: by the labels that Ray has of them, which a file may complete."""

    # of labels by node: a map nodes of our own, Slurm's topology.conf, or what 'kubectl get nodes -o json'
    # prints. What it says of a node wins over the node's labels
    file: str | None = None
    # names of labels, each a level of the network, far to near; empty is zone, core, block, rail, rack and
    # nvlink, by the labels that clouds, Kubernetes and NVIDIA give them
    levels: list[str] = field(default_factory=list)
