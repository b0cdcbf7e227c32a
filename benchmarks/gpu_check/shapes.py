"""Memory and step time of models of several shapes: planned, planned after a calibration, and measured."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from benchmarks.clusters import kept_cluster
from benchmarks.gpu_check.outcome import Figure, Setting, Tell
from benchmarks.ground import ground
from benchmarks.launch import chosen_device
from benchmarks.planner_on_this_machine import ON_CORES, ON_GPUS, trained
from orchestrator.planner.calibrate import fit_group
from orchestrator.planner.measured_run import MeasuredRun

SHAPES, STEPS, STEPS_ON_CORES = 5, 16, 8
GOAL = 0.15


def shapes(setting: Setting, tell: Tell) -> None:
    """Each shape is told as soon as it has run; the calibrated figures of one come from the others."""
    task = chosen_device(setting.device, 1)
    chosen = (ON_GPUS if setting.cuda else ON_CORES)[:SHAPES]
    runs: list[MeasuredRun] = []
    with ground(device=setting.device) as here, kept_cluster(here, task) as there:
        for shape in chosen:
            run = trained(here, there, shape, STEPS if setting.cuda else STEPS_ON_CORES, alone=False)
            runs.append(run)
            tell_run(tell, run)
    for run in runs:
        tell_calibrated(tell, run, [other for other in runs if other is not run])
    tell_errors(tell, runs)


def tell_run(tell: Tell, run: MeasuredRun) -> None:
    if run.step_time_s is not None:
        tell(Figure(f"{run.name}, step, measured", run.step_time_s * 1e3, "ms"))
    if run.step is not None:
        tell(Figure(f"{run.name}, step, planned", run.step.total_s * 1e3, "ms"))
    if run.memory_bytes is not None:
        tell(Figure(f"{run.name}, memory, measured", run.memory_bytes / 2**30, "GiB"))
    tell(Figure(f"{run.name}, memory, planned", run.memory.total_bytes / 2**30, "GiB"))


def tell_calibrated(tell: Tell, run: MeasuredRun, others: Sequence[MeasuredRun]) -> None:
    calibration = fit_group(run.group, others).calibration
    if run.step is not None:
        seconds = calibration.apply(run.step).total_s
        tell(Figure(f"{run.name}, step, calibrated on the others", seconds * 1e3, "ms"))
    size = calibration.apply_memory(run.memory).total_bytes
    tell(Figure(f"{run.name}, memory, calibrated on the others", size / 2**30, "GiB"))


def tell_errors(tell: Tell, runs: Sequence[MeasuredRun]) -> None:
    """Medians of the sizes of relative errors."""
    plain_steps, steps, plain_memory, memory = [], [], [], []
    for run in runs:
        calibration = fit_group(run.group, [other for other in runs if other is not run]).calibration
        if run.step is not None and run.step_time_s:
            plain_steps.append(abs(run.step.total_s / run.step_time_s - 1))
            steps.append(abs(calibration.apply(run.step).total_s / run.step_time_s - 1))
        if run.memory_bytes:
            plain_memory.append(abs(run.memory.total_bytes / run.memory_bytes - 1))
            memory.append(abs(calibration.apply_memory(run.memory).total_bytes / run.memory_bytes - 1))
    for name, before, after in (("step time", plain_steps, steps), ("memory", plain_memory, memory)):
        if not before:
            raise RuntimeError(f"no run has measured its {name}")
        tell(Figure(f"error of {name}, as planned", 100 * median(before), "%"))
        good = median(after) <= GOAL
        tell(Figure(f"error of {name}, calibrated", 100 * median(after), "%", f"at most {GOAL:.0%}", good))
