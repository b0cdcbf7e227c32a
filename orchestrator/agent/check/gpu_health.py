"""What NVIDIA's driver has counted of each GPU: memory errors, rows, links, throttling, XIDs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pynvml

from orchestrator.agent.check.counters import xids
from orchestrator.check.reports import Figure, What

_BRAKES = (
    pynvml.nvmlClocksEventReasonHwSlowdown
    | pynvml.nvmlClocksEventReasonHwThermalSlowdown
    | pynvml.nvmlClocksEventReasonHwPowerBrakeSlowdown
    | pynvml.nvmlClocksEventReasonSwThermalSlowdown
)


def health(log: Iterable[str]) -> tuple[list[Figure], dict[str, str]]:
    """Figures of every GPU, and the driver's version; nothing without a driver. ``log`` is the kernel's."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return [], {}
    try:
        lines, found = list(log), []
        newest = {What.XID: xids(lines), What.PROGRAM_XID: xids(lines, of_programs=True)}
        for index in range(pynvml.nvmlDeviceGetCount()):
            found += _of(index, newest)
        return found, {"driver": str(pynvml.nvmlSystemGetDriverVersion())}
    finally:
        pynvml.nvmlShutdown()


def _of(index: int, newest: dict[What, dict[str, int]]) -> list[Figure]:
    try:
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    except pynvml.NVMLError as error:
        return [Figure(What.XID, 79.0, index, f"the driver does not reach it: {error}")]
    asked: dict[What, Callable[[Any], float]] = {
        What.ECC: _ecc,
        What.REMAPS: _remaps,
        What.THERMAL: _braked,
        What.PCIE: _pcie,
        What.NVLINK: _nvlink,
    }
    figures = [
        Figure(what, value, index) for what, ask in asked.items() if (value := _told(ask, handle)) is not None
    ]
    place = _told(_bus, handle)
    logged = [(what, places[place]) for what, places in newest.items() if place in places]
    return [*figures, *(Figure(what, float(number), index, place) for what, number in logged)]


def _told(ask: Callable[[Any], Any], handle: Any) -> Any:
    """None for what this GPU or driver does not know."""
    try:
        return ask(handle)
    except pynvml.NVMLError:
        return None


def _bus(handle: Any) -> str:
    """As the kernel's log names it: ``0000:3b:00`` of ``00000000:3B:00.0``."""
    domain, _, rest = str(pynvml.nvmlDeviceGetPciInfo(handle).busId).lower().partition(":")
    return f"{domain[-4:]}:{rest.rpartition('.')[0]}"


def _ecc(handle: Any) -> float:
    kinds = pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, pynvml.NVML_VOLATILE_ECC
    return float(pynvml.nvmlDeviceGetTotalEccErrors(handle, *kinds))


def _remaps(handle: Any) -> float:
    _, _, pending, failed = pynvml.nvmlDeviceGetRemappedRows(handle)
    return float(bool(pending or failed))


def _braked(handle: Any) -> float:
    return float(bool(pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle) & _BRAKES))


def _pcie(handle: Any) -> float:
    most = pynvml.nvmlDeviceGetMaxPcieLinkWidth(handle)
    return pynvml.nvmlDeviceGetCurrPcieLinkWidth(handle) / most if most else 1.0


def _nvlink(handle: Any) -> float:
    """Of all links that are there, since they were last reset."""
    total = 0.0
    counters = (pynvml.NVML_NVLINK_ERROR_DL_REPLAY, pynvml.NVML_NVLINK_ERROR_DL_RECOVERY)
    for link in range(pynvml.NVML_NVLINK_MAX_LINKS):
        try:
            if not pynvml.nvmlDeviceGetNvLinkState(handle, link):
                continue
            total += sum(pynvml.nvmlDeviceGetNvLinkErrorCounter(handle, link, one) for one in counters)
        except pynvml.NVMLError:
            break  # there are no more
    return total
