"""What some keys choose among, and the word for a value that has to be given; the schema has them by these
names."""

from __future__ import annotations

from enum import Enum
from typing import Any

# What has to be given: OmegaConf knows it by this string, and the schema is of use without OmegaConf.
MISSING: Any = "???"
THIS_MACHINE = "local"  # the cluster that is where the command is typed


class Device(Enum):
    """What a rank computes on; ``cuda`` covers ROCm, as it does in torch."""

    cuda = "cuda"
    cpu = "cpu"


class Resume(Enum):
    """Whether a run directory with an unfinished run is taken up again."""

    never = "never"
    auto = "auto"


class Preflight(Enum):
    """Whether the nodes of a cluster are checked before a run takes them, and how thoroughly."""

    off = "off"
    quick = "quick"
    full = "full"


class PriceKind(Enum):
    """How the accelerators are paid for; ``list`` is on demand."""

    list = "list"
    reserved = "reserved"
    spot = "spot"
    owned = "owned"


class PriceQuality(Enum):
    """What a price is worth: a provider's own list, an offer that somebody got or quotes, an estimate from
    public figures, or a figure that somebody assumed and nobody sells at."""

    list = "list"
    quote = "quote"
    estimate = "estimate"
    assumption = "assumption"


class TrackedRanks(Enum):
    """Whose calls of MLflow are taken: those of rank 0 alone, or of all ranks."""

    first = "first"
    all = "all"


class FlagStyle(Enum):
    """How ``job.args`` become words: see :mod:`~orchestrator.plan.arguments`."""

    equals = "equals"
    flags = "flags"
    dotted = "dotted"
    python = "python"
    hydra = "hydra"


class Transport(Enum):
    """How NCCL moves bytes between nodes: through the kernel's sockets, or past it by remote direct memory
    access, with the GPU's own memory (``gpudirect_rdma``) or a buffer in the host's (``rdma``); ``efa`` is
    that of AWS, ``gib``, ``tcpx`` and ``tcpxo`` are those of Google."""

    sockets = "sockets"
    rdma = "rdma"
    gpudirect_rdma = "gpudirect_rdma"
    efa = "efa"
    gib = "gib"
    tcpx = "tcpx"
    tcpxo = "tcpxo"


class Framework(Enum):
    """What divides a model and its training among ranks, by which the planner knows what it can do and what
    it costs."""

    deepspeed = "deepspeed"
    megatron = "megatron"
    fsdp = "fsdp"
