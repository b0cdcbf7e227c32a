"""What a node's agent and the process that measures say to each other: a line of JSON each."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.message_lines import Lines


@dataclass(frozen=True, slots=True)
class Ready:
    """Torch is imported, and others find this process at ``port``. ``versions`` are those that only torch
    knows."""

    port: int
    versions: dict[str, str]


@dataclass(frozen=True, slots=True)
class Measure:
    """Measure the GPU of this process, or a processor core, for so many seconds each."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Measured:
    """FLOP/s and bytes/s; ``given`` is the share of the time in which the process had a processor."""

    matmul_flops_per_s: float
    memory_bytes_per_s: float
    given: float


@dataclass(frozen=True, slots=True)
class Exchange:
    """Exchange data with the other processes of a group. ``way`` is ``all_gather`` between two nodes,
    ``all_to_all`` between more, ``all_reduce`` inside one; ``name`` tells one exchange from the next."""

    way: str
    name: str
    host: str
    port: int
    rank: int
    ranks: int
    ranks_per_node: int
    seconds: float
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Exchanged:
    """Bytes a second that a node sends to others, or the bus bandwidth of an all-reduce."""

    bytes_per_s: float


@dataclass(frozen=True, slots=True)
class Failed:
    """What was asked for could not be done."""

    why: str


LINES: Lines[Ready | Measure | Measured | Exchange | Exchanged | Failed] = Lines(
    {
        "ready": Ready,
        "measure": Measure,
        "measured": Measured,
        "exchange": Exchange,
        "exchanged": Exchanged,
        "failed": Failed,
    }
)
