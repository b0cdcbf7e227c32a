"""What a run has drawn: measured where its nodes have counters, modelled by the plan, and called so. Pure.

The plan models whole nodes with their building (PUE); counters know GPUs and processor packages alone, and
all of a node that a run may share with others. So the two stand beside each other and are never added up.
Carbon dioxide is the modelled energy, else the measured one, times what the grid is stated to emit.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.events import NodeSampled, Record, RunStarted
from orchestrator.text import figure

_J_PER_KWH = 3.6e6


@dataclass(frozen=True)
class Drawn:
    """The energy of a run so far."""

    measured_gpu_kwh: float | None  # of its nodes' GPUs, by NVML; null where no counter answered
    # of its nodes' processor packages, by RAPL; null where no counter answered
    measured_processor_kwh: float | None
    # of the nodes with their building, by the plan's power and the hours held; null where it has none
    modelled_kwh: float | None
    co2_kg: (
        float | None
    )  # of the modelled energy, else of the measured one; null where no intensity is stated

    def metrics(self) -> dict[str, float | None]:
        """Under the names that MLflow gets."""
        return {
            "measured_gpu_energy_kwh": self.measured_gpu_kwh,
            "measured_processor_energy_kwh": self.measured_processor_kwh,
            "modelled_energy_kwh": self.modelled_kwh,
            "co2_kg": self.co2_kg,
        }

    def in_words(self) -> str:
        """0.61 kWh measured (GPUs), 1.2 kWh modelled (nodes with PUE), 0.44 kg CO2; "" where nothing is
        known."""
        told = (
            (self.measured_gpu_kwh, "kWh measured (GPUs)"),
            (self.measured_processor_kwh, "kWh measured (processors)"),
            (self.modelled_kwh, "kWh modelled (nodes with PUE)"),
            (self.co2_kg, "kg CO2"),
        )
        return ", ".join(f"{figure(value)} {what}" for value, what in told if value is not None)


@dataclass
class EnergyMeter:
    """Folds records, in the journal's order."""

    _gpu_j: float | None = None
    _processor_j: float | None = None

    def fold(self, record: Record) -> None:
        """Take one record into account."""
        if isinstance(record.event, NodeSampled):
            self._gpu_j = _plus(self._gpu_j, record.event.metrics.get("gpu_energy_joules"))
            self._processor_j = _plus(self._processor_j, record.event.metrics.get("processor_energy_joules"))

    def drawn(self, facts: RunStarted | None, gpu_hours: float) -> Drawn:
        """Of a run that has held so many."""
        watts = facts.modelled_watts_per_gpu if facts else None
        modelled_kwh = None if watts is None else watts / 1000 * gpu_hours
        measured = [_kwh(joules) for joules in (self._gpu_j, self._processor_j) if joules is not None]
        kwh = modelled_kwh if modelled_kwh is not None else sum(measured) if measured else None
        intensity = facts.grid_gco2_per_kwh if facts else None
        return Drawn(
            measured_gpu_kwh=None if self._gpu_j is None else _kwh(self._gpu_j),
            measured_processor_kwh=None if self._processor_j is None else _kwh(self._processor_j),
            modelled_kwh=modelled_kwh,
            co2_kg=None if kwh is None or intensity is None else kwh * intensity / 1000,
        )


def _plus(before: float | None, more: float | None) -> float | None:
    # a journal is other people's paper
    return before if more is None or not 0 <= more < 1e15 else (before or 0.0) + more


def _kwh(joules: float) -> float:
    return joules / _J_PER_KWH
