"""What is on a cluster: nodes, warm zygotes and the runs that hold them."""

from __future__ import annotations

from dataclasses import dataclass, field

import ray
from ray.exceptions import RayError
from ray.util import list_named_actors

from orchestrator.agent.agent import AGENT
from orchestrator.agent.parking_lot import ParkedReport
from orchestrator.agent.zygote_pool import ZygoteReport
from orchestrator.cluster import placement
from orchestrator.cluster.session import NAMESPACE
from orchestrator.cluster.warm import pool
from orchestrator.cluster.warm.spare import SPARE

_ANSWER_TIMEOUT_S = 5.0


@dataclass
class Node:
    """One node, as Ray and its keeper tell."""

    node_id: str  # Ray's
    host: str  # its name
    address: str  # in the cluster's network
    cpus: float  # that Ray may give away
    gpus: float  # that Ray may give away
    held_cpus: float = 0.0  # by all that has asked Ray for them
    held_gpus: float = 0.0  # by all that has asked Ray for them
    zygotes: list[ZygoteReport] | None = None  # that are kept warm there; null where no keeper runs
    parked: list[ParkedReport] = field(default_factory=list)  # by its keeper: checkpoints in memory


@dataclass
class LiveRun:
    """A run that holds nodes, as its first agent tells."""

    name: str
    nodes: int
    ranks: int
    unit: str
    usd_per_gpu_hour: float
    since_unix_s: float
    step: int
    run_dir: str


@dataclass
class Overview:
    """A look at a cluster."""

    nodes: list[Node] = field(default_factory=list)
    runs: list[LiveRun] = field(default_factory=list)


def inspect_cluster() -> Overview:
    """Ask Ray, the keepers and the agents; ``ray`` is initialised already."""
    seen = placement.inspect_cluster()
    ids = [node["NodeID"] for node in seen.nodes]
    reports, parked = pool.reports(ids), pool.parked(ids)
    nodes = {
        node["NodeID"]: Node(
            node_id=node["NodeID"],
            host=node["NodeManagerHostname"],
            address=node["NodeManagerAddress"],
            cpus=node["Resources"].get("CPU", 0.0),
            gpus=node["Resources"].get("GPU", 0.0),
            zygotes=reports.get(node["NodeID"]),
            parked=parked.get(node["NodeID"], []),
        )
        for node in seen.nodes
    }
    for node_id, bundles in seen.held.items():
        if node_id in nodes:
            nodes[node_id].held_cpus += sum(bundle.get("CPU", 0.0) for _, bundle in bundles)
            nodes[node_id].held_gpus += sum(bundle.get("GPU", 0.0) for _, bundle in bundles)
    in_order = sorted(nodes.values(), key=lambda node: (node.host, node.address))
    return Overview(in_order, live_runs())


def live_runs() -> list[LiveRun]:
    """The runs whose first agent answers, oldest first."""
    first = f"{AGENT} 1/"
    names = [
        actor["name"] for actor in list_named_actors(all_namespaces=True) if actor["namespace"] == NAMESPACE
    ]
    asked = []
    for name in names:
        if name.startswith((first, SPARE)):
            try:
                asked.append(ray.get_actor(name, namespace=NAMESPACE).report.remote())
            except ValueError:  # it ended at this moment
                continue
    runs = []
    if asked:
        ray.wait(asked, num_returns=len(asked), timeout=_ANSWER_TIMEOUT_S)
    for answer in asked:
        try:
            told = ray.get(answer, timeout=0)
        except RayError:  # no agent any more, or too busy to say
            continue
        if told:  # an agent that is kept for the next run has nothing to tell
            runs.append(LiveRun(**told))
    return sorted(runs, key=lambda run: run.since_unix_s)
