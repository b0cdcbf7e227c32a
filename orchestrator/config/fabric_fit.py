"""Whether a cluster's nodes can have the network that was chosen for them: the adapters of one cloud are sold
in no other's nodes, and NCCL would not find them."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import yaml

from orchestrator.config.catalog import cluster_files, option_files
from orchestrator.config.choices import Transport
from orchestrator.config.schema import Config, FabricConfig

MOST_NAMED = 4
# InfiniBand and Ethernet adapters of the same kind: with the GPU's own memory or through the host's.
_ON_VERBS = frozenset({Transport.rdma, Transport.gpudirect_rdma})
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # where libyaml is there, it is ten times as fast


def fabric_misfit(config: Config) -> str | None:
    """Why nodes of the cluster cannot have this network, with what to type; None where they can, or nothing
    is known of them. The kernel's sockets are everywhere."""
    cluster, fabric = config.cluster, config.fabric
    option = cluster_files().get(cluster.name)
    own = None if option is None else _fabric_of(option)
    if own is None or _goes_with(fabric.transport, own[1]):
        return None
    key = f"fabric={fabric.name}" if fabric.name != own[0] else f"fabric.transport={fabric.transport.value}"
    there = [name for name, path in cluster_files().items() if _has(path, fabric.transport)]
    elsewhere = f", choose a cluster that has it (cluster={' or cluster='.join(there[:MOST_NAMED])})"
    return (
        f"{key}: nodes of cluster={cluster.name} ({cluster.node_type}) have the adapters of fabric={own[0]},"
        f" and none for {fabric.transport.value}; leave it out, write fabric=ethernet for TCP sockets"
        f"{elsewhere if there else ''}, or cluster.hypothetical=true for a node that nobody sells"
    )


def _goes_with(chosen: Transport, own: Transport) -> bool:
    return chosen in (Transport.sockets, own) or {chosen, own} <= _ON_VERBS


def _has(cluster: Path, transport: Transport) -> bool:
    own = _fabric_of(cluster)
    return own is not None and own[1] is transport


@functools.lru_cache(maxsize=256)
def _fabric_of(cluster: Path) -> tuple[str, Transport] | None:
    """The option of ``fabric`` that a cluster's file chooses, and its transport; None where that is not plain
    from the two files."""
    defaults = _read(cluster).get("defaults")
    chosen = [one for one in defaults if isinstance(one, dict)] if isinstance(defaults, list) else []
    named = [
        str(value) for one in chosen for key, value in one.items() if str(key).split("/")[-1] == "fabric"
    ]
    path = option_files("fabric").get(named[-1]) if named else None
    if path is None:
        return None
    transport = str(_read(path).get("transport", FabricConfig.transport.value))
    return (named[-1], Transport[transport]) if transport in Transport.__members__ else None


def _read(path: Path) -> dict[Any, Any]:
    try:
        body = yaml.load(path.read_text(encoding="utf-8"), Loader=_LOADER)
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return body if isinstance(body, dict) else {}
