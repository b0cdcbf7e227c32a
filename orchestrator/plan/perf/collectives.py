"""Seconds of a collective: latency and bandwidth over the links of a node and the fabric between nodes.

Bandwidth terms are those of ring algorithms (Thakur et al. 2005; NCCL's "bus bandwidth"): an all-gather or a
reduce-scatter of `size_bytes` in all moves (n-1)/n of it through each rank, an all-reduce twice that. A group
over several nodes is bounded by the slower of the node's links and its share of the node's NICs, as NCCL's
rings keep all NICs busy. A ring over many nodes waits for as many steps as it has ranks: what makes flat
ZeRO-3 over thousands of GPUs slow (Narayanan et al. 2021, table 2; Wang et al. 2023, ZeRO++).

Between exactly two nodes an all-reduce may take trees: each node sends what it has once, where a ring of n
ranks sends it 2 (n-1)/n times, so that the bus bandwidth is up to twice that of the NICs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from orchestrator.config.schema import PlannerConfig
from orchestrator.plan.perf.machine import Machine

# Of a tree on Ampere, in all channels: NCCL's own model counts 22.5 GB/s for each of 8 (src/graph/tuning.cc,
# perChMaxTreeBws), so that with fast NICs it takes the ring. On later ones NVLink ends first.
AMPERE_TREE_BYTES_PER_S = 8 * 22.5e9


@dataclass(frozen=True)
class Group:
    """`ranks` that communicate, `per_node` of them on each node, of nodes that are `node_stride` apart."""

    ranks: int
    per_node: int
    node_stride: int = 1

    @property
    def nodes(self) -> int:
        return math.ceil(self.ranks / self.per_node)


def group_of(ranks: int, stride: int, gpus_per_node: int) -> Group:
    """A group of `ranks` whose neighbours are `stride` ranks apart, ranks numbered node by node."""
    return Group(ranks, max(1, min(ranks, gpus_per_node // stride)), max(1, stride // gpus_per_node))


class Network:
    """Times of collectives on one machine."""

    def __init__(self, machine: Machine, constants: PlannerConfig) -> None:
        self._machine = machine
        self._link_latency_s = constants.link_latency_s
        self._link = machine.link_bytes_per_s * constants.link_efficiency
        self._fabric = machine.node_bytes_per_s * machine.fabric_efficiency
        self._spread = machine.spread

    def bandwidth_bytes_per_s(self, group: Group) -> float:
        """Bus bandwidth of one rank in `group`, while the node's other ranks form groups like it."""
        if group.nodes == 1:
            return self._link
        share = group.per_node / self._machine.gpus_per_node
        slowdown = self._spread.ring(group.nodes, group.node_stride)
        fabric = (self._fabric or self._machine.host_link_bytes_per_s) * share / slowdown
        return fabric if group.per_node == 1 else min(self._link, fabric)

    def _all_reduce_bandwidth_bytes_per_s(self, group: Group) -> float:
        """Of the faster of ring and trees."""
        ring = self.bandwidth_bytes_per_s(group)
        if group.nodes != 2 or group.per_node == 1 or not self._machine.fabric_trees or not self._fabric:
            return ring
        share = group.per_node / self._machine.gpus_per_node / self._spread.ring(2, group.node_stride)
        tree = min(self._link, self._fabric * share * 2 * (group.ranks - 1) / group.ranks)
        if self._machine.architecture == "ampere":
            tree = min(tree, AMPERE_TREE_BYTES_PER_S)
        return max(ring, tree)

    def latency_s(self, group: Group) -> float:
        """Of a gathering or scattering ring: over several nodes its ranks go on in lock step, each step as
        long as that between nodes, and never less in all than the part within a node."""
        inside = self._inside_latency_s(group)
        return max(inside, (group.ranks - 1) * self._machine.fabric_latency_s) if group.nodes > 1 else inside

    def _inside_latency_s(self, group: Group) -> float:
        """Of the part within a node, where all ranks reach each other at once."""
        return math.log2(2 * group.per_node) * self._link_latency_s if group.per_node > 1 else 0.0

    def gather_s(self, size_bytes: float, group: Group, calls: int = 1) -> float:
        """All-gather to, or reduce-scatter of, `size_bytes` on each rank, in so many calls."""
        if group.ranks == 1:
            return 0.0
        moved = size_bytes * (group.ranks - 1) / group.ranks
        return moved / self.bandwidth_bytes_per_s(group) + calls * self.latency_s(group)

    def all_reduce_s(self, size_bytes: float, group: Group) -> float:
        """Twice as much as a gathering; between nodes a double binary tree (Sanders et al. 2009) is faster
        than a ring where there are many."""
        inside = 2 * self._inside_latency_s(group)
        ring = 2 * self.latency_s(group)
        tree = (
            inside + 2 * math.log2(group.nodes) * self._machine.fabric_latency_s if group.nodes > 1 else ring
        )
        if group.ranks == 1:
            return 0.0
        moved = 2 * size_bytes * (group.ranks - 1) / group.ranks
        return moved / self._all_reduce_bandwidth_bytes_per_s(group) + min(ring, tree)

    def all_to_all_s(self, size_bytes: float, group: Group) -> float:
        """Each rank sends `size_bytes` in equal parts to all; what leaves the node is bounded by its own
        NIC."""
        if group.ranks == 1:
            return 0.0
        outside = (group.ranks - group.per_node) / group.ranks
        inside = (group.per_node - 1) / group.ranks
        fabric = self._exchanged_bytes_per_s(group)
        latency = self._inside_latency_s(group)
        if group.nodes > 1:
            latency = max(latency, math.log2(2 * group.ranks) * self._machine.fabric_latency_s)
        return size_bytes * (inside / self._link + outside / fabric) + latency

    def dispatch_s(self, token_bytes: float, copies: float, most_nodes: int | None, group: Group) -> float:
        """Tokens to their experts, `copies` of each, or back. Where a router keeps them on few nodes, a token
        goes to each of those once, and on from there by the links within, which carry all copies meanwhile
        (DeepSeek-AI 2024, DeepSeek-V3, section 3.2.2)."""
        if most_nodes is None or group.nodes == 1:
            return self.all_to_all_s(token_bytes * copies, group)
        reached = min(copies, most_nodes, group.nodes) * (group.nodes - 1) / group.nodes
        inside = copies * (group.per_node - 1) / group.per_node
        fabric = self._exchanged_bytes_per_s(group)
        latency = math.log2(2 * group.ranks) * self._machine.fabric_latency_s
        return token_bytes * max(inside / self._link, reached / fabric) + latency

    def _exchanged_bytes_per_s(self, group: Group) -> float:
        """What a rank sends to the other nodes of its group, all of them at once."""
        whole = (self._fabric or self._machine.host_link_bytes_per_s) / self._machine.gpus_per_node
        return whole / self._spread.exchange(group.nodes, group.node_stride)

    def send_s(self, size_bytes: float, crosses_nodes: bool, nodes_apart: int = 0) -> float:
        """From one rank to another, every rank of a node sending at once; of neighbours in a pipeline so many
        nodes apart."""
        if not crosses_nodes:
            return size_bytes / self._link + self._link_latency_s
        fabric = (self._fabric or self._machine.host_link_bytes_per_s) / self._machine.gpus_per_node
        fabric /= self._spread.send(nodes_apart) if nodes_apart else 1.0
        return size_bytes / fabric + self._machine.fabric_latency_s
