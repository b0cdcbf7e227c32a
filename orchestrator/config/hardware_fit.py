"""Whether a cluster can have the GPUs that were chosen for it, and what is assumed of a node that nobody
sells."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

from orchestrator.config.catalog import cluster_files, option_files, value_in
from orchestrator.config.choices import THIS_MACHINE
from orchestrator.config.fabric_fit import fabric_misfit
from orchestrator.config.schema import ClusterConfig, Config, Device, FabricConfig, PriceConfig
from orchestrator.errors import ConfigError

HYPOTHETICAL = "hypothetical"
MOST_NAMED = 4
# Lists of a fabric that name the adapters of the node that it was written for.
_ADAPTER_LISTS = ("NCCL_IB_HCA", "NCCL_FASTRAK_IFNAME", "NCCL_GPUDIRECTTCPX_SOCKET_IFNAME")


def check_hardware(config: Config) -> None:
    """Refuses GPUs, counts of them and networks that no node of the cluster has. Raises
    :class:`ConfigError`."""
    if (why := why_nobody_sells(config)) is not None:
        raise ConfigError(why)


def why_nobody_sells(config: Config) -> str | None:
    """Why no node of the cluster has these GPUs and this network; None where one has."""
    return misfit(config) or fabric_misfit(config)


def check_this_machine(config: Config) -> None:
    """Refuses GPUs of this machine where it shows none. Raises :class:`ConfigError`."""
    cluster, gpu = config.cluster, config.gpu
    if cluster.name == THIS_MACHINE and gpu.device is Device.cuda and cluster.gpus_per_node == 0:
        raise ConfigError(no_gpu_here(gpu.name))


def no_gpu_here(gpu: str) -> str:
    """Why such a GPU cannot be used on this machine, and where it can be planned."""
    option = _option_of(gpu)
    there = _clusters_with(option)
    plans = f"to plan, name a cluster that has it: cluster={' or cluster='.join(there)}; "
    if not there:
        plans = (
            "no cluster here has that GPU; to plan all the same, cluster=… and cluster.hypothetical=true; "
        )
    return (
        f"gpu={option}: this machine shows no GPU; {plans}to run here, gpu=cpu; to run on a cluster,"
        " ray_address=HOST:PORT of its Ray"
    )


def misfit(config: Config) -> str | None:
    """Why no node of the cluster has such GPUs, with what to type; None where one has, or nothing is
    known."""
    cluster, gpu = config.cluster, config.gpu
    if not cluster.gpus:
        return None
    names = {option: _name_of(option) for option in cluster.gpus}
    counts = next((cluster.gpus[o] for o, name in names.items() if gpu.name in (name, o)), None)
    if counts is not None and (not counts or cluster.gpus_per_node in counts):
        return None
    made_up = (
        "or cluster.hypothetical=true for a node that nobody sells, planned without this one's name, power"
        " and price"
    )
    has = "; ".join(
        f"{' or '.join(map(str, amounts))} × {option}" if amounts else option
        for option, amounts in cluster.gpus.items()
    )
    node = f"nodes of cluster={cluster.name} ({cluster.node_type}) have {has}"
    if counts is not None:
        whole = max(counts)
        nodes = math.ceil(cluster.nodes * cluster.gpus_per_node / whole)
        return (
            f"cluster.gpus_per_node={cluster.gpus_per_node}: {node}; use cluster.gpus_per_node={whole} with"
            f" cluster.nodes={nodes}, {made_up}"
        )
    option = _option_of(gpu.name)
    there = [name for name in _clusters_with(option) if name != cluster.name]
    elsewhere = f"; choose a cluster that has it (cluster={' or cluster='.join(there)})" if there else ""
    return f"gpu={option}: {node}{elsewhere or '; no cluster here has that GPU'}; leave gpu out, {made_up}"


def as_hypothetical(config: Config, words: Sequence[str]) -> Config:
    """With a node that nobody sells described as such, where ``cluster.hypothetical`` asks for it and no node
    of the cluster is like it. What the words set of the cluster is kept."""
    cluster, gpu = config.cluster, config.gpu
    if not cluster.hypothetical or why_nobody_sells(config) is None:
        return config
    given = {word.lstrip("+~").partition("=")[0] for word in words}
    counts = [count for amounts in cluster.gpus.values() for count in amounts]
    ratio = cluster.gpus_per_node / max(counts) if counts else 1.0
    nics, memory = cluster.nics_per_node, cluster.host_memory_bytes
    if "cluster.nics_per_node" not in given:
        nics = math.ceil(nics * ratio)
    if memory is not None and "cluster.host_memory_bytes" not in given:
        memory = round(memory * ratio)
    power_w = cluster.node_power_w if "cluster.node_power_w" in given else None
    price = _price(cluster.price, given)
    made = dataclasses.replace(
        cluster,
        name=HYPOTHETICAL,
        node_type="hypothetical node",
        gpus={},
        nics_per_node=nics,
        host_memory_bytes=memory,
        node_power_w=power_w,
        price=price,
        source=f"after {cluster.node_type}",
    )
    made.assumed = _assumed(cluster, made, gpu.tdp_w)
    fabric = config.fabric if nics == cluster.nics_per_node else _without_adapters(config.fabric)
    return dataclasses.replace(config, cluster=made, fabric=fabric)


def _price(price: PriceConfig, given: set[str]) -> PriceConfig:
    """What the words give, and nothing of a node that this is not."""
    prefix = "cluster.price."
    if "cluster.price" in given:
        return price
    own = {key.removeprefix(prefix) for key in given if key.startswith(prefix)}
    kept: dict[str, Any] = {name: getattr(price, name) for name in own if hasattr(price, name)}
    return PriceConfig(**({"source": "given for a hypothetical node", "as_of": "not recorded"} | kept))


def _assumed(cluster: ClusterConfig, made: ClusterConfig, tdp_w: float | None) -> str:
    many = "s" * (made.nics_per_node != 1)
    nics = f"{made.nics_per_node} NIC{many} of {made.nic_bits_per_s / 1e9:g} Gb/s"
    said = [f"{nics} as in {cluster.node_type}"]
    if made.host_memory_bytes is not None:
        said.append(f"{made.host_memory_bytes / 1e12:.3g} TB of host memory likewise")
    if made.node_power_w is None:
        said.append("power from gpu.tdp_w" if tdp_w else "power not known")
    if made.price == _price(cluster.price, set()):
        said.append("price not known (cluster.price.usd_per_gpu_hour=… gives one)")
    return "nobody sells such a node; " + ", ".join(said)


def _without_adapters(fabric: FabricConfig) -> FabricConfig:
    """Without the names of adapters, which are those of a node with fewer or more."""
    kept = {name: entry for name, entry in fabric.environment.items() if name not in _ADAPTER_LISTS}
    return dataclasses.replace(fabric, environment=kept)


def _clusters_with(option: str) -> list[str]:
    """Clusters whose files say that a node can have such a GPU, a few of them."""
    files = cluster_files().items()
    found = [name for name, path in files if option in (value_in(path, "cluster.gpus") or {})]
    own = [name for name in found if name.startswith("dgx")]  # hardware first, its sellers after it
    return (own + [name for name in found if name not in own])[:MOST_NAMED]


def _option_of(name: str) -> str:
    """The option of ``gpu`` with this printed name; the name itself where no file has it."""
    return next((option for option in option_files("gpu") if _name_of(option) == name), name)


@functools.lru_cache(maxsize=256)
def _name_of(option: str) -> str | None:
    """What an option of ``gpu`` is called where it is printed; None where there is no such file."""
    path = option_files("gpu").get(option)
    name = None if path is None else value_in(path, "name")
    return None if name is None else str(name)
