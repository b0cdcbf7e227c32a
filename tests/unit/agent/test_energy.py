"""Counters of energy: NVML's by recorded readings, RAPL's in a folder like the kernel's."""

from __future__ import annotations

from pathlib import Path

import pynvml
import pytest

from orchestrator.agent.energy import EnergyCounters

# Two H100 at work, one second apart: 673 and 688 W.
READINGS_MJ = {"GPU-a": [91_204_388_120, 91_205_061_347], "GPU-b": [88_000_417_003, 88_001_105_220]}


class Nvml:
    """The library as it answers; ``at`` is which of the readings."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at, self.broken = 0, set[str]()
        monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
        monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByUUID", lambda uuid: uuid)
        monkeypatch.setattr(pynvml, "nvmlDeviceGetTotalEnergyConsumption", self._read)

    def _read(self, uuid: str) -> int:
        if uuid in self.broken:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return READINGS_MJ[uuid][self.at]


def test_gpus_are_counted_from_look_to_look(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nvml = Nvml(monkeypatch)
    counters = EnergyCounters(["GPU-a", "GPU-b"], tmp_path)
    nvml.at = 1
    assert counters.joules() == {"gpu_energy_joules": pytest.approx(673.227 + 688.217)}
    assert counters.joules() == {"gpu_energy_joules": 0.0}


def test_a_gpu_without_a_counter_leaves_all_of_them_untold(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Half of the GPUs would read as half of the energy."""
    nvml = Nvml(monkeypatch)
    counters = EnergyCounters(["GPU-a", "GPU-b"], tmp_path)
    nvml.at, nvml.broken = 1, {"GPU-b"}
    assert counters.joules() == {}
    nvml.broken = set()
    assert counters.joules() == {}, "there is no look before to count from"
    assert counters.joules() == {"gpu_energy_joules": 0.0}
    assert EnergyCounters([], tmp_path).joules() == {}


def zone(folder: Path, name: str, uj: int) -> None:
    (folder / name).mkdir(exist_ok=True)
    (folder / name / "energy_uj").write_text(f"{uj}\n")
    (folder / name / "max_energy_range_uj").write_text("262143328850\n")


def test_packages_are_counted_once_and_over_the_end_of_their_range(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", 262_143_000_000)
    zone(tmp_path, "intel-rapl:0:0", 5)  # the cores, a part of the package
    zone(tmp_path, "intel-rapl:1", 1_000_000)
    (tmp_path / "intel-rapl").mkdir()
    counters = EnergyCounters([], tmp_path)
    zone(tmp_path, "intel-rapl:0", 671_150)
    zone(tmp_path, "intel-rapl:0:0", 900_000_000)
    zone(tmp_path, "intel-rapl:1", 3_000_000)
    assert counters.joules() == {"processor_energy_joules": pytest.approx(1.0 + 2.0)}
    (tmp_path / "intel-rapl:1" / "energy_uj").unlink()
    assert counters.joules() == {}
