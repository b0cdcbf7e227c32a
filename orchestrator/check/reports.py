"""What the measurements of a node say: plain facts, before anybody judges them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class What(StrEnum):
    """What a figure is of; the word is what people read."""

    MATMUL = "matrix products"  # FLOP/s of a GPU; of a processor core in the time that it had
    MEMORY = "memory bandwidth"  # bytes/s of a GPU's memory, or of the node's
    ALL_REDUCE = "all-reduce inside"  # bus bandwidth, bytes/s, between the GPUs of the node
    DISK = "disk"  # bytes/s written and synced
    SHM = "shared memory"  # bytes/s written
    DISK_ROOM = "room on the disk"  # bytes
    SHM_ROOM = "room in shared memory"  # bytes
    THROTTLED = "processor quota"  # share of the periods in which a quota held the node's processes back
    GIVEN = "processor time"  # share of the time in which a computing process had a processor
    CLOCK = "clock"  # seconds ahead of the driver's
    ECC = "uncorrected memory errors"  # since the driver was loaded
    REMAPS = "memory rows"  # 1 where a remapping is pending or has failed
    XID = "XID"  # the number of the newest one in the kernel's log
    PROGRAM_XID = "XID of a program"  # the same, of an XID that a program causes
    NVLINK = "NVLink errors"  # replays and recoveries, all links
    PCIE = "PCIe width"  # share of the lanes that the GPU could have
    THERMAL = "thermal throttling"  # 1 where heat or power brakes slow it now
    LINK_DOWNS = "link downs"  # of a NIC, since the machine started
    EXCHANGE = "exchange"  # bytes/s with another node
    VERSIONS = "versions"
    ANSWER = "answer"


@dataclass(frozen=True)
class Figure:
    """One measurement of a node."""

    what: What  # in words, e.g. `matrix products`
    value: float  # bytes/s, FLOP/s, bytes, seconds, a share or a count, by what it is of
    gpu: int | None = None  # its index on the node; null for the node itself
    device: str = ""  # a NIC or a folder; empty for what is about none


@dataclass(frozen=True)
class NodeReport:
    """All that was measured on a node. ``facts`` are versions and settings by name; ``failed`` says what
    could not be measured, and why."""

    node: str
    figures: tuple[Figure, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    failed: tuple[tuple[What, str], ...] = ()

    def of(self, what: What) -> list[Figure]:
        return [figure for figure in self.figures if figure.what is what]


def encode(report: NodeReport) -> dict[str, Any]:
    """As plain values, which travel."""
    return dataclasses.asdict(report)


def decode(body: Mapping[str, Any]) -> NodeReport:
    """The inverse of :func:`encode`."""
    figures = tuple(Figure(**{**one, "what": What(one["what"])}) for one in body["figures"])
    failed = tuple((What(what), why) for what, why in body["failed"])
    return NodeReport(body["node"], figures, dict(body["facts"]), failed)
