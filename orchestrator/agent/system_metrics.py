"""System metrics of the node that this runs on, named as MLflow names them."""

from __future__ import annotations

import time

import psutil
import pynvml

from orchestrator.agent.energy import EnergyCounters

_MB = 1e6


class Sampler:
    """Gives a sample at most every ``every_s`` seconds; rates are since the sample before."""

    def __init__(self, every_s: float, gpu_uuids: list[str]) -> None:
        self.every_s = every_s
        self._due_s = time.monotonic() + min(1.0, every_s)
        self._network = psutil.net_io_counters()
        self._gpus = gpu_uuids
        self._energy = EnergyCounters(gpu_uuids)
        psutil.cpu_percent()

    def sample(self) -> dict[str, float] | None:
        """The metrics by name, or None while the last sample is fresh."""
        now_s = time.monotonic()
        if now_s < self._due_s:
            return None
        self._due_s = now_s + self.every_s
        return self._host() | self._accelerators() | self._energy.joules()

    def _host(self) -> dict[str, float]:
        memory, network = psutil.virtual_memory(), psutil.net_io_counters()
        before, self._network = self._network, network
        return {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_megabytes": memory.used / _MB,
            "system_memory_usage_percentage": memory.percent,
            "network_receive_megabytes": (network.bytes_recv - before.bytes_recv) / _MB,
            "network_transmit_megabytes": (network.bytes_sent - before.bytes_sent) / _MB,
        }

    def _accelerators(self) -> dict[str, float]:
        if not self._gpus:
            return {}
        metrics = {}
        try:
            pynvml.nvmlInit()
            for index, uuid in enumerate(self._gpus):
                handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
                memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
                metrics[f"gpu_{index}_memory_usage_megabytes"] = memory.used / _MB
                metrics[f"gpu_{index}_memory_usage_percentage"] = 100 * memory.used / memory.total
                metrics[f"gpu_{index}_utilization_percentage"] = float(
                    pynvml.nvmlDeviceGetUtilizationRates(handle).gpu
                )
                metrics[f"gpu_{index}_power_usage_watts"] = pynvml.nvmlDeviceGetPowerUsage(handle) / 1000
        except pynvml.NVMLError:
            return metrics  # a GPU that fell off the bus is the supervisor's business, not a metric's
        return metrics
