"""What of a cluster the step-time model knows: one node's accelerators, their links and the fabric between
nodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from orchestrator.config.schema import ClusterConfig, Config, FabricConfig, GpuConfig
from orchestrator.errors import ConfigError
from orchestrator.plan.environment import environment_of_user
from orchestrator.plan.perf.spread import Spread
from orchestrator.plan.perf.transport import route_of

# NVLink is not recorded for a GPU that has none: a PCIe 4.0 link with 16 lanes, one direction, as used.
PCIE_BYTES_PER_S = 25.0e9
NOT_SPREAD = Spread()


@dataclass(frozen=True)
class Machine:
    """Rates are per accelerator, bandwidths in one direction; `node_bytes_per_s` is all NICs of a node that
    the fabric drives, at line rate, 0 where nothing is recorded. `peak_flops` and `matmul_efficiency` are by
    precision."""

    name: str
    gpus_per_node: int
    hbm_bytes_per_s: float
    peak_flops: Mapping[str, float]
    matmul_efficiency: Mapping[str, float]
    multiprocessors: int
    architecture: str
    link_bytes_per_s: float
    node_bytes_per_s: float
    fabric_efficiency: float
    fabric_latency_s: float
    host_link_bytes_per_s: float
    fabric_trees: bool = True  # whether an all-reduce between nodes may go up and down trees
    waits_for_kernels: bool = False  # the host starts no kernel before the last one has ended
    spread: Spread = NOT_SPREAD  # of a run's nodes over domains of the network

    @classmethod
    def of(
        cls,
        cluster: ClusterConfig,
        gpu: GpuConfig,
        fabric: FabricConfig,
        user: Mapping[str, str] = MappingProxyType({}),
    ) -> Machine:
        """The machine that a configuration describes, with what its user sets of the ranks' environment."""
        route = route_of(cluster, gpu, fabric, user)
        return cls(
            name=gpu.name,
            gpus_per_node=cluster.gpus_per_node,
            hbm_bytes_per_s=gpu.memory_bandwidth_bytes_per_s or 0.0,
            peak_flops=gpu.peak_flops,
            matmul_efficiency=gpu.matmul_efficiency,
            multiprocessors=gpu.multiprocessors,
            architecture=gpu.architecture,
            link_bytes_per_s=gpu.nvlink_bytes_per_s or PCIE_BYTES_PER_S,
            node_bytes_per_s=route.line_bytes_per_s,
            fabric_efficiency=route.efficiency,
            fabric_latency_s=route.latency_s,
            host_link_bytes_per_s=cluster.host_link_bytes_per_s,
            fabric_trees=route.trees,
            waits_for_kernels=waits_for_kernels(user),
        )

    @classmethod
    def of_config(cls, config: Config) -> Machine:
        """The machine of a whole configuration, its ranks' environment included."""
        return cls.of(config.cluster, config.gpu, config.fabric, environment_of_user(config))

    def sustained_flops(self, precision: str) -> float:
        """FLOP/s of a large matrix product in training. Raises ConfigError where nothing is recorded."""
        return peak_flops(self.name, self.peak_flops, precision) * self.matmul_efficiency[precision]


def waits_for_kernels(environment: Mapping[str, str]) -> bool:
    """Whether CUDA makes the host wait for every kernel: any number but 0 (CUDA C++ Programming Guide,
    "CUDA Environment Variables")."""
    return environment.get("CUDA_LAUNCH_BLOCKING", "0").strip() not in ("", "0")


def peak_flops(name: str, peaks: Mapping[str, float], precision: str) -> float:
    """Dense peak of one accelerator in FLOP/s. Raises ConfigError when none is recorded for `precision`."""
    try:
        return peaks[precision]
    except KeyError:
        known = ", ".join(sorted(peaks)) or "none"
        raise ConfigError(
            f"job.precision={precision}: {name} has no peak recorded for it (known: {known}); choose one "
            f"of those, or add gpu.peak_flops.{precision}"
        ) from None


def unrecorded(gpu: GpuConfig, precision: str) -> list[str]:
    """The keys without whose values no step time can be predicted."""
    recorded = {
        f"gpu.peak_flops.{precision}": gpu.peak_flops.get(precision),
        f"gpu.matmul_efficiency.{precision}": gpu.matmul_efficiency.get(precision),
        "gpu.memory_bandwidth_bytes_per_s": gpu.memory_bandwidth_bytes_per_s,
        "gpu.multiprocessors": gpu.multiprocessors,
    }
    return [key for key, value in recorded.items() if not value]
