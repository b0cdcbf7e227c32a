"""The typed schema of the whole configuration.

One root structured config (:class:`Config`) type-checks every group file below it. What leaves
``load.py`` are these dataclasses with plain values. Checks that need arithmetic over several keys
live in ``plan/``; those that need the machine, in ``preflight.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from omegaconf import MISSING


class Device(Enum):
    """What a rank computes on; ``cuda`` covers ROCm, as it does in torch."""

    cuda = "cuda"
    cpu = "cpu"


class PriceKind(Enum):
    """Rented at a list price, or owned and written off."""

    list = "list"
    owned = "owned"


@dataclass
class PriceConfig:
    """What one accelerator-hour costs. ``list``: ``usd_per_gpu_hour`` as published. ``owned``: capex
    spread over the lifetime at the given occupancy, plus power drawn x PUE x electricity price."""

    kind: PriceKind = PriceKind.list
    usd_per_gpu_hour: float | None = None
    capex_usd_per_gpu: float | None = None
    lifetime_years: float | None = None
    occupancy: float = 1.0
    power_w_per_gpu: float | None = None
    pue: float | None = None
    electricity_usd_per_kwh: float | None = None
    source: str = MISSING
    as_of: str = MISSING


@dataclass
class GpuConfig:
    """One accelerator. Rates are dense peaks in FLOP/s by precision; bandwidths are one direction.
    ``utilisation`` is the hardware's: FLOPs that recomputation repeats count in it."""

    name: str = MISSING
    device: Device = Device.cuda
    unit: str = "GPU"
    memory_bytes: int = MISSING
    memory_bandwidth_bytes_per_s: float | None = None
    peak_flops: dict[str, float] = field(default_factory=dict)
    nvlink_bytes_per_s: float | None = None
    tdp_w: float | None = None
    utilisation: float | None = None
    utilisation_source: str = ""
    product_names: list[str] = field(default_factory=list)
    reference_price: PriceConfig = field(default_factory=PriceConfig)
    source: str = MISSING


@dataclass
class SettingConfig:
    """One environment variable of a fabric, and where its value comes from."""

    value: str = MISSING
    source: str = MISSING


@dataclass
class FabricConfig:
    """The network between nodes and the interconnect environment that it asks for."""

    name: str = MISSING
    description: str = ""
    environment: dict[str, SettingConfig] = field(default_factory=dict)
    leave_unset: dict[str, str] = field(default_factory=dict)


@dataclass
class ClusterConfig:
    """Node type x count. ``nic_bits_per_s`` is one NIC's line rate."""

    name: str = MISSING
    node_type: str = MISSING
    nodes: int = MISSING
    gpus_per_node: int = MISSING
    cpu_threads_per_rank: int = 8
    nics_per_node: int = 0
    nic_bits_per_s: float = 0.0
    host_memory_bytes: int | None = None
    source: str = ""
    price: PriceConfig = field(default_factory=PriceConfig)


@dataclass
class ModelConfig:
    """A decoder-only transformer's shape. ``gated_mlp``: SwiGLU (three matrices) or GELU (two)."""

    name: str = MISSING
    layers: int = MISSING
    hidden: int = MISSING
    heads: int = MISSING
    kv_heads: int = MISSING
    ffn: int = MISSING
    vocab: int = MISSING
    seq_len: int = MISSING
    gated_mlp: bool = True
    biases: bool = False
    learned_positions: bool = False
    tie_embeddings: bool = False
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5
    source: str = ""


@dataclass
class LayoutConfig:
    """Degrees of parallelism; data parallel follows from the ranks."""

    tp: int = 1
    pp: int = 1
    sp: int = 1
    ep: int = 1
    recompute: bool = False


@dataclass
class JobConfig:
    """What to train. ``args`` become ``--name=value``; ``{run_dir}``, ``{deepspeed_config}`` and
    ``{checkpoint_dir}`` in them are filled in on the node. ``ranks`` null means the whole cluster,
    ``supports`` null that the script can do every kind of parallelism. ``builds`` names the choices of
    ``model`` that the script makes for itself, e.g. ``gated_mlp: true``."""

    name: str = MISSING
    script: str = MISSING
    args: dict[str, Any] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)
    cwd: str | None = None
    ranks: int | None = None
    steps: int | None = None
    global_batch: int | None = None
    micro_batch: int = 1
    gradient_accumulation: int | None = None
    precision: str = "auto"
    seed: int = 0
    corpus: list[str] = field(default_factory=list)
    tokenizer: str | None = None
    checkpoint_dir: str | None = None
    supports: list[str] | None = None
    builds: dict[str, bool] = field(default_factory=dict)


@dataclass
class RecoveryConfig:
    """What happens after a fault and at a stop."""

    max_restarts: int = 3
    stop_grace_s: float = 30.0
    kill_after_s: float = 2.0


@dataclass
class TrackingConfig:
    """Where MLflow records runs. Nothing here is on the path of a step."""

    uri: str = MISSING
    experiment: str = "orchestrator"
    required: bool = False
    flush_s: float = 2.0
    finish_timeout_s: float = 60.0
    connect_timeout_s: float = 3.0
    system_metrics_every_s: float = 10.0


@dataclass
class LaunchConfig:
    """How ranks are started."""

    zygote: bool = True
    wait_for_resources_s: float = 60.0
    start_timeout_s: float = 300.0
    poll_s: float = 0.1
    dashboard: bool = True


@dataclass
class Config:
    """Root of the configuration."""

    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    gpu: GpuConfig = field(default_factory=GpuConfig)
    fabric: FabricConfig = field(default_factory=FabricConfig)
    model: ModelConfig | None = None
    job: JobConfig = field(default_factory=JobConfig)
    layout: LayoutConfig = field(default_factory=LayoutConfig)
    deepspeed: dict[str, Any] = field(default_factory=dict)
    recovery: RecoveryConfig = field(default_factory=RecoveryConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    launch: LaunchConfig = field(default_factory=LaunchConfig)
    env: dict[str, str] = field(default_factory=dict)
    ray_address: str | None = None
    run_root: str = "runs"
    run_name: str | None = None
    run_dir: str | None = None
