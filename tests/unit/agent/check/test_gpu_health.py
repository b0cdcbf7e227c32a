"""What NVIDIA's driver says of GPUs, by a driver that is made up with recorded values."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from orchestrator.agent.check import gpu_health
from orchestrator.agent.check.counters import xids
from orchestrator.check.reports import Figure, What

# As a kernel prints them (/dev/kmsg), with what is no fault of the hardware beside it.
LOG = [
    "6,1201,98123456,-;nvidia 0000:3b:00.0: enabling device (0140 -> 0142)",
    "4,1300,99123456,-;NVRM: Xid (PCI:0000:3b:00): 31, pid=4242, name=python, Ch 00000008, intr 00000000. MMU Fault",
    "4,1400,99923456,-;NVRM: Xid (PCI:0000:5e:00): 63, pid='<unknown>', name=<unknown>, Row Remapper: New row marked",
    "4,1500,99993456,-;NVRM: Xid (PCI:0000:5e:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.",
]
WELL = {
    "nvmlDeviceGetTotalEccErrors": 0,
    "nvmlDeviceGetRemappedRows": (0, 0, 0, 0),
    "nvmlDeviceGetCurrentClocksEventReasons": pynvml.nvmlClocksEventReasonGpuIdle,
    "nvmlDeviceGetMaxPcieLinkWidth": 16,
    "nvmlDeviceGetCurrPcieLinkWidth": 16,
    "nvmlDeviceGetNvLinkState": 1,
    "nvmlDeviceGetNvLinkErrorCounter": 0,
}
BUSES = ["00000000:3B:00.0", "00000000:5E:00.0"]


def driver(monkeypatch: pytest.MonkeyPatch, *gpus: dict[str, Any]) -> None:
    """One that has these GPUs; what is an exception is raised."""

    def answer(name: str) -> Any:
        def told(handle: int, *_: Any) -> Any:
            value = {**WELL, **gpus[handle]}[name]
            if isinstance(value, Exception):
                raise value
            return value

        return told

    for name in WELL:
        monkeypatch.setattr(pynvml, name, answer(name))
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlShutdown", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: len(gpus))
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", lambda index: index)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetPciInfo", lambda handle: SimpleNamespace(busId=BUSES[handle]))
    monkeypatch.setattr(pynvml, "nvmlSystemGetDriverVersion", lambda: "550.54.15")


def of(figures: list[Figure], what: What) -> list[tuple[int | None, float]]:
    return [(one.gpu, one.value) for one in figures if one.what is what]


def test_gpus_that_are_well(monkeypatch: pytest.MonkeyPatch) -> None:
    driver(monkeypatch, {}, {})
    figures, versions = gpu_health.health(LOG[:2])
    assert versions == {"driver": "550.54.15"}
    assert of(figures, What.XID) == []
    for what, value in [(What.ECC, 0), (What.REMAPS, 0), (What.THERMAL, 0), (What.PCIE, 1), (What.NVLINK, 0)]:
        assert of(figures, what) == [(0, value), (1, value)]


def test_faults_of_one_gpu_are_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    bad = {
        "nvmlDeviceGetTotalEccErrors": 7,
        "nvmlDeviceGetRemappedRows": (3, 1, 1, 0),
        "nvmlDeviceGetCurrentClocksEventReasons": pynvml.nvmlClocksEventReasonHwThermalSlowdown,
        "nvmlDeviceGetCurrPcieLinkWidth": 8,
        "nvmlDeviceGetNvLinkErrorCounter": 2,
    }
    driver(monkeypatch, {}, bad)
    figures, _ = gpu_health.health(LOG)
    links = pynvml.NVML_NVLINK_MAX_LINKS
    expected = [
        (What.ECC, 7),
        (What.REMAPS, 1),
        (What.THERMAL, 1),
        (What.PCIE, 0.5),
        (What.NVLINK, 4 * links),
    ]
    assert [dict(of(figures, what))[1] for what, _ in expected] == [value for _, value in expected]
    assert of(figures, What.XID) == [(1, 79)]


def test_what_a_gpu_does_not_know_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
    driver(monkeypatch, dict.fromkeys(WELL, refused))
    figures, _ = gpu_health.health([])
    assert [one.what for one in figures] == [What.NVLINK]


def test_a_gpu_that_fell_off_the_bus_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    driver(monkeypatch, {}, {})

    def handle(index: int) -> int:
        if index == 1:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        return index

    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", handle)
    figures, _ = gpu_health.health([])
    assert of(figures, What.XID) == [(1, 79)]


def test_of_the_kernels_log_the_newest_fault_of_hardware_counts() -> None:
    assert xids(LOG) == {"0000:5e:00": 79}
    assert xids(LOG[:3]) == {"0000:5e:00": 63}
    assert xids(["nonsense", ""]) == {}
