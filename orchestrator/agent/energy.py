"""What the node's accelerators and processors have drawn, by their own counters.

NVML counts the millijoules of each GPU since its driver was loaded (Volta and later); Linux counts the
microjoules of each processor package (RAPL) in ``/sys/class/powercap``, readable by root alone on most
systems since CVE-2020-8694. What has no counter is not guessed at here: a plan models it, and says so.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import pynvml

POWERCAP = Path("/sys/class/powercap")


class EnergyCounters:
    """Joules since the look before, by what drew them; the first look is when it is made."""

    def __init__(self, gpu_uuids: list[str], powercap: Path = POWERCAP) -> None:
        self._gpus, self._powercap = gpu_uuids, powercap
        self._gpu_mj, self._package_uj = self._read_gpus(), self._read_packages()

    def joules(self) -> dict[str, float]:
        """``gpu_energy_joules`` and ``processor_energy_joules``, each where all of its counters answered at
        both looks."""
        gpus, self._gpu_mj = self._gpu_mj, self._read_gpus()
        packages, self._package_uj = self._package_uj, self._read_packages()
        found: dict[str, float] = {}
        if gpus and gpus.keys() == self._gpu_mj.keys():
            # a driver that was loaded anew counts from zero
            found["gpu_energy_joules"] = sum(max(0, now - gpus[g]) for g, now in self._gpu_mj.items()) / 1e3
        if packages and packages.keys() == self._package_uj.keys():
            drawn = (self._since(name, packages[name], now) for name, now in self._package_uj.items())
            found["processor_energy_joules"] = sum(drawn) / 1e6
        return found

    def _read_gpus(self) -> dict[str, int]:
        try:
            if self._gpus:
                pynvml.nvmlInit()
            return {
                uuid: int(pynvml.nvmlDeviceGetTotalEnergyConsumption(pynvml.nvmlDeviceGetHandleByUUID(uuid)))
                for uuid in self._gpus
            }
        except pynvml.NVMLError:
            return {}

    def _read_packages(self) -> dict[str, int]:
        with contextlib.suppress(OSError, ValueError):
            # intel-rapl:0 is a package, intel-rapl:0:1 a part of it; AMD's have the same names
            zones = [one for one in self._powercap.glob("intel-rapl:*") if one.name.count(":") == 1]
            return {zone.name: int((zone / "energy_uj").read_text()) for zone in sorted(zones)}
        return {}

    def _since(self, zone: str, before: int, now: int) -> int:
        if now >= before:
            return now - before
        with contextlib.suppress(OSError, ValueError):  # it begins anew at its end
            return now + int((self._powercap / zone / "max_energy_range_uj").read_text()) - before
        return 0
