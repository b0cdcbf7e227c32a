"""A run's directory as the planner sees it: what its configuration asked for, and what it took."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator import papers
from orchestrator.config import load
from orchestrator.config.schema import Config, PlannerConfig
from orchestrator.errors import JournalError, OrchestratorError
from orchestrator.events import RunEnded, RunResumed, Status
from orchestrator.ledger.journal import replay
from orchestrator.ledger.predicted_actual import WARMING_STEPS, PredictedVsActual
from orchestrator.ledger.run_directory import RESUME, holder
from orchestrator.plan.layout.layout import Layout, derive_layout
from orchestrator.plan.perf.baseline import group_of, nominal
from orchestrator.plan.perf.calibration import Group
from orchestrator.plan.perf.memory import Memory
from orchestrator.plan.perf.step import StepTime
from orchestrator.text import plural

LEAST_STEADY_STEPS = 3


class Unusable(OrchestratorError):
    """Why a run says nothing about the planner, in a few words."""


@dataclass(frozen=True)
class MeasuredRun:
    """``step`` and ``memory`` are nominal, before any calibration; ``planned_*`` is what its own plan had
    said, None where it had said nothing; ``step_time_s`` and ``memory_bytes`` were measured."""

    name: str
    group: Group
    layout: Layout
    step: StepTime | None
    memory: Memory
    planned_step_time_s: float | None
    planned_memory_bytes: int | None
    step_time_s: float | None
    memory_bytes: int | None
    ended_on: str


def measured_run(path: Path, constants: PlannerConfig, unfinished: bool) -> MeasuredRun:
    """The run in a directory; one that is not ``finished`` only where ``unfinished`` allows it. ``constants``
    are the planner's of today, whatever the run was planned with: a calibration corrects those.

    Raises :class:`Unusable`.
    """
    if holder(path) is not None:
        raise Unusable("it is still running")
    measured, ended, last = PredictedVsActual(), None, None
    try:
        for last in replay(path / "journal.jsonl"):
            measured.fold(last)
            if isinstance(last.event, RunEnded | RunResumed):
                ended = last.event if isinstance(last.event, RunEnded) else None
    except (JournalError, OSError) as error:
        raise Unusable(f"its journal is damaged: {error}") from None
    if measured.facts is None or last is None:
        raise Unusable("it never began")
    if not unfinished and (ended is None or ended.status is not Status.FINISHED):
        raise Unusable(
            f"it has not finished ({ended.status.value if ended else 'its driver was lost'}); name it to"
            " use it"
        )
    if measured.steady_steps < LEAST_STEADY_STEPS:
        steps = f"{plural(measured.steady_steps, 'step')} after the first {WARMING_STEPS} of an attempt"
        raise Unusable(f"it has {steps}, and needs {LEAST_STEADY_STEPS}")
    config, layout = configured(path, constants)
    expected = nominal(config, layout)
    if expected is None:
        raise Unusable("its model was not described")
    if expected.step is None and measured.peak_memory_bytes is None:
        raise Unusable(
            f"{config.gpu.name} has no peak for {layout.precision} on record, and its memory was not measured"
        )
    return MeasuredRun(
        name=measured.facts.run,
        group=group_of(config, layout),
        layout=layout,
        step=expected.step,
        memory=expected.memory,
        planned_step_time_s=measured.facts.predicted_step_time_s,
        planned_memory_bytes=measured.facts.predicted_memory_bytes,
        step_time_s=measured.step_time_s,
        memory_bytes=measured.peak_memory_bytes,
        ended_on=time.strftime("%Y-%m-%d", time.gmtime(last.time_unix_s)),
    )


def configured(path: Path, constants: PlannerConfig) -> tuple[Config, Layout]:
    """A run's configuration and its layout, as it was run with them. Raises :class:`Unusable`."""
    try:
        config = load.from_container(_container(path) | {"planner": dataclasses.asdict(constants)})
        plan = papers.read_object(path / "plan.json")
        layout = derive_layout(_as_planned(config, plan) if config.layout.auto else config)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Unusable(
            f"its configuration cannot be read ({type(error).__name__}: {papers.one_line(str(error))})"
        ) from None
    except OrchestratorError as error:
        raise Unusable(f"its configuration is of another version ({papers.one_line(str(error))})") from None
    return config, layout


def _container(path: Path) -> dict[str, Any]:
    """The whole configuration where it is ours to read, else the one without secrets."""
    try:
        container = papers.read_object(path / RESUME)["config"]
    except (FileNotFoundError, PermissionError):
        container = papers.yaml_of(papers.read_text(path / "config.yaml"))
    if not isinstance(container, dict):
        raise papers.PaperError(f"it is {papers.short(container)} and no map of keys")
    return container


def _as_planned(config: Config, plan: dict[str, Any]) -> Config:
    """With the layout and the DeepSpeed keys that ``layout=auto`` had chosen."""
    chosen, of_layout = plan["layout"], {field.name for field in dataclasses.fields(config.layout)}
    for name in of_layout & set(chosen):
        setattr(config.layout, name, chosen[name])
    config.layout.auto = False
    config.job.micro_batch, config.job.gradient_accumulation = chosen["micro_batch"], chosen["accumulation"]
    config.job.global_batch = chosen["global_batch"]
    if (zero := plan["deepspeed"].get("zero_optimization")) is not None:
        config.deepspeed = {**config.deepspeed, "zero_optimization": zero}
    return config
