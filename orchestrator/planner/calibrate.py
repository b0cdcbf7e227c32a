"""Fits the planner to the runs that a cluster has done."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from orchestrator.config.schema import PlannerConfig
from orchestrator.errors import ConfigError
from orchestrator.ledger.run_directory import find_run
from orchestrator.plan.perf.calibration import (
    Calibration,
    Group,
    fit_memory,
    fit_steps,
    memory_sample,
    step_sample,
)
from orchestrator.plan.perf.least_squares import Fit
from orchestrator.planner.calibration_file import read_calibrations, write_calibrations
from orchestrator.planner.measured_run import MeasuredRun, Unusable, measured_run
from orchestrator.text import plural
from orchestrator.trust import why_not_ours

SIGNIFICANT_DIGITS = 6


@dataclasses.dataclass(frozen=True)
class Calibrated:
    """What came of some runs, which plans use from now on."""

    path: Path  # of the file that it was written to
    groups: tuple[Fitted, ...]  # one for each cluster, GPU, precision and one or several nodes
    skipped: Mapping[str, str]  # why, by the name of a run that could not be used


@dataclasses.dataclass(frozen=True)
class Fitted:
    """One group's runs and what came of them; ``left_out`` are names of runs whose figure no law explains."""

    group: Group
    runs: tuple[MeasuredRun, ...]
    calibration: Calibration
    steps_left_out: tuple[str, ...] = ()
    memory_left_out: tuple[str, ...] = ()


def calibrate(
    refs: Sequence[str],
    run_root: str,
    path: Path,
    constants: PlannerConfig,
    skipped: Callable[[str, str], None] | None = None,
    trust: bool = False,
) -> Calibrated:
    """Fit one calibration for each cluster, GPU, precision and one or several nodes, and write them to
    ``path``.

    ``refs`` are names below ``run_root`` or paths, none means all of ``run_root`` that have finished;
    ``skipped`` is told the name of each that cannot be used, and why; without it an error says so. Entries of
    the file for which there is no run are kept. Raises :class:`ConfigError` for a run that is not there, a
    file that is not a calibration, and where no run can be used.
    """
    known = read_calibrations(path)
    runs, others = _read(refs, run_root, constants, trust)
    if skipped is not None:
        for name, reason in others:
            skipped(name, reason)
    if not runs:
        looked = "none of the runs named" if refs else f"no run in {run_root}"
        each = "; ".join(f"{name}: {reason}" for name, reason in others)
        why = f" ({each})" if others and skipped is None else ""
        raise ConfigError(
            f"calibrate: {looked} can be used{why}; a run with a model needs some steps more than the first "
            "few, and to have finished unless it is named"
        )
    fitted = [fit_group(group, of_group) for group, of_group in _by_group(runs).items()]
    write_calibrations(path, known | {one.group: one.calibration for one in fitted})
    return Calibrated(path, tuple(fitted), dict(others))


def fit_group(group: Group, runs: Sequence[MeasuredRun]) -> Fitted:
    """The calibration of runs of one group, whatever their order."""
    runs = tuple(sorted(runs, key=lambda run: (run.ended_on, run.name)))
    timed = [run for run in runs if run.step is not None and run.step_time_s is not None]
    weighed = [run for run in runs if run.memory_bytes is not None]
    steps, memory = Fit((1.0, 0.0, 1.0)), Fit((1.0, 0.0))
    if timed:
        steps = fit_steps(
            [step_sample(run.step, run.step_time_s) for run in timed if run.step and run.step_time_s]
        )
    if weighed:
        samples = [memory_sample(run.memory, run.memory_bytes) for run in weighed if run.memory_bytes]
        memory = fit_memory(samples, min(run.memory.framework for run in weighed))
    compute_factor, overhead_s, communication_factor = steps.values
    where = (
        f"{group.cluster} with {group.gpu} in"
        f" {group.precision}{' over several nodes' if group.several_nodes else ''}"
    )
    used = len(runs)
    calibration = Calibration(
        compute_factor=_rounded(compute_factor),
        overhead_s=_rounded(overhead_s),
        communication_factor=_rounded(communication_factor),
        memory_factor=_rounded(memory.values[0]),
        memory_offset_bytes=round(memory.values[1]),
        runs=used,
        fitted=f"{plural(used, 'run')} of {where}, the last on {runs[-1].ended_on}",
    )
    return Fitted(
        group,
        runs,
        calibration,
        tuple(timed[place].name for place in steps.left_out),
        tuple(weighed[place].name for place in memory.left_out),
    )


def _read(
    refs: Sequence[str], run_root: str, constants: PlannerConfig, trust: bool
) -> tuple[list[MeasuredRun], list[tuple[str, str]]]:
    """The runs that can be used, and why the others cannot."""
    if refs:
        paths = [find_run(ref, run_root, trust) for ref in dict.fromkeys(refs)]
    else:
        paths = sorted(path.parent.resolve() for path in Path(run_root).glob("*/journal.jsonl"))
    runs: list[MeasuredRun] = []
    skipped: list[tuple[str, str]] = []
    for path in dict.fromkeys(paths):
        if not (refs or trust) and (reason := why_not_ours(path)) is not None:
            skipped.append((path.name, f"{reason}; --trust takes it all the same"))
            continue
        try:
            runs.append(measured_run(path, constants, unfinished=bool(refs)))
        except Unusable as error:
            skipped.append((path.name, str(error)))
    return runs, skipped


def _by_group(runs: Sequence[MeasuredRun]) -> dict[Group, list[MeasuredRun]]:
    groups: dict[Group, list[MeasuredRun]] = {}
    for run in sorted(runs, key=lambda run: (run.group, run.name)):
        groups.setdefault(run.group, []).append(run)
    return groups


def _rounded(value: float) -> float:
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}")
