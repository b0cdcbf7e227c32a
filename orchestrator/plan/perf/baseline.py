"""What a configuration would take by the constants on record alone, which a calibration then scales."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from orchestrator.config.schema import Config, Device
from orchestrator.plan.layout.layout import Layout
from orchestrator.plan.layout.zero import Zero
from orchestrator.plan.perf.calibration import Group
from orchestrator.plan.perf.machine import NOT_SPREAD, Machine
from orchestrator.plan.perf.memory import Memory, memory_of
from orchestrator.plan.perf.software import software_of
from orchestrator.plan.perf.spread import Spread
from orchestrator.plan.perf.step import StepModel, StepTime

# of the peak, to memory: 10 GB/s for a core of 80 GFLOP/s; where no bandwidth is on record
FLOPS_PER_BYTE = 8.0
# What DeepSpeed's gradients and weights reach between ranks on processors, through gloo and the loopback
# interface: measured with two ranks on four cores of a virtual machine.
GLOO_BYTES_PER_S = 0.1e9


@dataclass(frozen=True)
class Nominal:
    """``step`` is None where the accelerator has no peak for the precision."""

    step: StepTime | None
    memory: Memory


def group_of(config: Config, layout: Layout) -> Group:
    """What a calibration of this configuration's runs holds for."""
    return Group(config.cluster.name, config.gpu.name, layout.precision, layout.nodes > 1)


def nominal(config: Config, layout: Layout, spread: Spread = NOT_SPREAD) -> Nominal | None:
    """Step time and memory before any calibration, of nodes that are ``spread`` so; None without a model.

    An accelerator without a matmul_efficiency for the precision, a processor for instance, is taken at all of
    its peak: a figure to be scaled, and not to be shown.
    """
    if config.model is None:
        return None
    zero = Zero.from_config(config.deepspeed)
    memory = memory_of(config.model, config.gpu, layout, zero)
    machine = nominal_machine(config, layout.precision)
    if machine is None:
        return Nominal(None, memory)
    constants = config.planner
    if config.gpu.device is Device.cpu:
        # A core has no waves of tiles and no pipelines to fill, and nobody starts its kernels but itself.
        constants = dataclasses.replace(
            constants, wave_tail=0.0, ramp_depth=0.0, host_s_per_layer=0.0, host_s_per_step=0.0
        )
    machine = dataclasses.replace(machine, spread=spread)
    times = StepModel(config.model, machine, constants, layout.precision, software_of(layout))
    return Nominal(times.time(layout, zero), memory)


def nominal_machine(config: Config, precision: str) -> Machine | None:
    """The machine of a configuration, at its peak and with rates to match where none are on record; None
    without a peak for the precision."""
    machine = Machine.of_config(config)
    peak = machine.peak_flops.get(precision)
    if peak is None:
        return None
    gloo = config.gpu.device is Device.cpu and config.gpu.nvlink_bytes_per_s is None
    return dataclasses.replace(
        machine,
        matmul_efficiency={precision: 1.0, **machine.matmul_efficiency},
        hbm_bytes_per_s=machine.hbm_bytes_per_s or peak / FLOPS_PER_BYTE,
        link_bytes_per_s=GLOO_BYTES_PER_S if gloo else machine.link_bytes_per_s,
    )
