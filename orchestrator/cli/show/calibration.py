"""A calibration and the runs that it was fitted to, as a table."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestrator.cli.show.tables import GAP
from orchestrator.plan.perf.calibration import Calibration, Group
from orchestrator.planner.calibrate import Calibrated
from orchestrator.planner.measured_run import MeasuredRun
from orchestrator.text import UNKNOWN, bytes_in_words, ending, number, plural, seconds_in_words

LEAST_NAME = 8
LEAST_DISAGREEMENT = 0.15


def show_skipped(name: str, reason: str, console: Console) -> None:
    """A run that cannot be used."""
    console.print(f"{name}: skipped, {reason}", style="yellow", highlight=False, soft_wrap=True, markup=False)


def show_calibrations(found: Calibrated, console: Console) -> None:
    """All that was found, and where it was written."""
    for one in found.groups:
        show_group(one.calibration, one.group, one.runs, {*one.steps_left_out, *one.memory_left_out}, console)
    runs = sum(len(one.runs) for one in found.groups)
    used = f"{plural(len(found.groups), 'calibration')} from {plural(runs, 'run')}"
    console.print(
        f"{used} written to {found.path}; plans and runs there use it from now on",
        highlight=False,
        soft_wrap=True,
    )


def show_group(
    calibration: Calibration,
    group: Group,
    runs: Sequence[MeasuredRun],
    left_out: Collection[str],
    console: Console,
) -> None:
    """Each run's step time and memory: what its plan had said, what it took, what would be said now."""
    nodes = "several nodes" if group.several_nodes else "one node"
    title = f"{group.cluster}, {group.gpu}, {group.precision}, {nodes}: {plural(len(runs), 'run')}"
    console.print(_table(title, calibration, runs, left_out, console.width))
    for line in in_words(calibration):
        console.print(f"  {line}", highlight=False, soft_wrap=True, style="dim")
    if (told := disagreement(calibration, runs, left_out)) is not None:
        console.print(f"  {told}", style="yellow", highlight=False, soft_wrap=True)
    if left_out:
        console.print(
            f"  left out, nothing like the others: {', '.join(sorted(left_out))}",
            style="yellow",
            soft_wrap=True,
        )
    console.print()


def disagreement(
    calibration: Calibration, runs: Sequence[MeasuredRun], left_out: Collection[str]
) -> str | None:
    """How far step times of the runs are from what would be said of them now, where that is far: no figures
    fit them all, and a plan is off by as much. None where they agree."""
    errors = {}
    for run in runs:
        after_s = calibration.apply(run.step).total_s if run.step else None
        if after_s and run.step_time_s and run.name not in left_out:
            errors[run.name] = after_s / run.step_time_s - 1
    if len(errors) < 2 or max(map(abs, errors.values())) < LEAST_DISAGREEMENT:
        return None
    low, high = min(errors, key=errors.__getitem__), max(errors, key=errors.__getitem__)
    return (
        f"these runs disagree: what would be said of {ending(high, 40)} now is {errors[high]:+.0%} off, of"
        f" {ending(low, 40)} {errors[low]:+.0%}; a plan here may be off by as much. Calibrate with those that"
        " are like what you plan"
    )


def _table(
    title: str, calibration: Calibration, runs: Sequence[MeasuredRun], left_out: Collection[str], width: int
) -> Table:
    """Where it is narrow, what had been predicted before is left out, and of a run's name its beginning."""
    columns = _columns(calibration, runs, before=True)
    if _room(columns, width) < max(len(run.name) for run in runs):
        columns = _columns(calibration, runs, before=False)
    room = max(LEAST_NAME, _room(columns, width))
    table = Table(
        title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="dim"
    )
    table.padding = (0, GAP, 0, 0)
    table.add_column("\n\nrun", no_wrap=True)
    for heading, *_ in columns:
        table.add_column(heading, justify="right", no_wrap=True)
    for place, run in enumerate(runs, 1):
        named = Text(ending(run.name, room), style="yellow" if run.name in left_out else "")
        table.add_row(named, *(column[place] for column in columns))
    return table


def _columns(calibration: Calibration, runs: Sequence[MeasuredRun], before: bool) -> list[list[str]]:
    """Heading and cells of each."""
    figures = ["predicted\nbefore", "actual\n", "predicted\nafter", "error\n"][not before :]
    headings = [
        f"{'' if place else what}\n{f}" for what in ("step time", "memory") for place, f in enumerate(figures)
    ]
    cells = [
        [*_step_cells(calibration, run)[not before :], *_memory_cells(calibration, run)[not before :]]
        for run in runs
    ]
    return [[heading, *column] for heading, *column in zip(headings, *cells, strict=True)]


def _room(columns: Sequence[Sequence[str]], width: int) -> int:
    """For names."""
    return width - sum(
        GAP + max(len(line) for text in column for line in text.splitlines()) for column in columns
    )


def in_words(calibration: Calibration) -> list[str]:
    """What the figures mean, a line each for time and memory."""
    time = f"compute takes {number(calibration.compute_factor, 3)} times what it would nominally"
    time += f" ({number(100 * calibration.compute_efficiency, 3)}% of that speed)"
    if calibration.overhead_s:
        time += f", and {seconds_in_words(calibration.overhead_s)} more per step"
    if calibration.communication_factor != 1:
        time += f"; communication {number(calibration.communication_factor, 3)} times"
    sign = "-" if calibration.memory_offset_bytes < 0 else "+"
    memory = f"memory: framework {sign}{bytes_in_words(abs(calibration.memory_offset_bytes))}"
    if calibration.memory_factor != 1:
        memory += (
            f", activations, logits and fragmentation {number(calibration.memory_factor, 3)} times as planned"
        )
    return [time, memory]


def _step_cells(calibration: Calibration, run: MeasuredRun) -> list[str]:
    after_s = calibration.apply(run.step).total_s if run.step else None
    cells = [seconds_in_words(value) for value in (run.planned_step_time_s, run.step_time_s, after_s)]
    return [*cells, _error(after_s, run.step_time_s)]


def _memory_cells(calibration: Calibration, run: MeasuredRun) -> list[str]:
    after_bytes = calibration.apply_memory(run.memory).total_bytes
    figures = (run.planned_memory_bytes, run.memory_bytes, after_bytes)
    cells = [UNKNOWN if value is None else bytes_in_words(value) for value in figures]
    return [*cells, _error(after_bytes, run.memory_bytes)]


def _error(predicted: float | None, actual: float | None) -> str:
    return f"{predicted / actual - 1:+.1%}" if predicted and actual else UNKNOWN
