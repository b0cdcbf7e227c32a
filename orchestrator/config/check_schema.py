"""The typed schema of ``check``: what a node and a link have to reach."""

from __future__ import annotations

from dataclasses import dataclass, field

from orchestrator.config.ranges import BytesOr0, Rate, SecondsAbove0, Share, ShareOr0


@dataclass
class CheckConfig:
    """What a node, a GPU and a link have to reach. A figure is compared with what is published of its
    architecture where there is something, and with the median of the cluster's own."""

    # of the nodes that are looked at, by name; [] is all of the cluster
    nodes: list[str] = field(default_factory=list)
    # share of the dense bf16 peak that the best large matrix product reaches, by architecture
    best_matmul_share: dict[str, Share] = field(default_factory=dict)
    # of that, which is the best of many shapes, and of the median of all GPUs of the cluster
    least_gpu_share: Share = 0.85
    least_memory_share: Share = 0.7  # of the GPU's memory bandwidth as published
    # the same of processors, memories and disks, which other work on the node slows more
    least_host_share: Share = 0.4
    # of what the better quarter of the pairs of nodes exchanges, and of what the fabric carries
    least_link_share: Share = 0.7
    # the same where processors exchange over sockets, which other work slows
    least_socket_share: Share = 0.2
    most_throttled: ShareOr0 = 0.2  # share of the time in which a quota holds a node's processes back
    most_clock_offset_s: SecondsAbove0 = 1.0  # of a node's clock from the driver's
    least_disk_bytes_per_s: Rate = 20.0e6  # written and synced in the folder of the checkpoints
    least_disk_room_bytes: BytesOr0 = 1073741824  # free there
    least_shm_room_bytes: BytesOr0 = 268435456  # free in the folder that checkpoints are staged in
    timeout_s: SecondsAbove0 = 60.0  # a node that has not answered by then is named
