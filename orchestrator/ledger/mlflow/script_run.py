"""One run as the script sees it: what it has logged in this process, to be read back.

The truth about it goes to the journal. Here is what MLflow's reading calls answer with, in bounded memory:
a metric keeps its last ten thousand points.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from mlflow.entities import (
    DatasetInput,
    LifecycleStage,
    LoggedModelInput,
    LoggedModelOutput,
    Metric,
    Param,
    Run,
    RunData,
    RunInfo,
    RunInputs,
    RunOutputs,
    RunStatus,
    RunTag,
)

MOST_POINTS_READ_BACK = 10_000


@dataclass
class ScriptRun:
    """``prefix`` leads every name in the run that MLflow gets in the end: ``""`` for the script's own run,
    ``NAME/`` for one below it."""

    run_id: str
    experiment_id: str
    name: str
    artifact_uri: str
    prefix: str = ""
    user: str = ""
    status: str = RunStatus.to_string(RunStatus.RUNNING)
    start_ms: int = field(default_factory=lambda: int(time.time() * 1000))
    end_ms: int | None = None
    deleted: bool = False
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    datasets: list[DatasetInput] = field(default_factory=list)
    model_inputs: list[LoggedModelInput] = field(default_factory=list)
    model_outputs: list[LoggedModelOutput] = field(default_factory=list)
    history: dict[str, deque[Metric]] = field(default_factory=dict)
    latest: dict[str, Metric] = field(default_factory=dict)

    def log(self, metric: Metric) -> None:
        """Keep a point; as in any store, the latest is that of the largest step."""
        self.history.setdefault(metric.key, deque(maxlen=MOST_POINTS_READ_BACK)).append(metric)
        latest = self.latest.get(metric.key)
        if latest is None or (metric.step, metric.timestamp) >= (latest.step, latest.timestamp):
            self.latest[metric.key] = metric

    def keep(self, params: Iterable[Param], tags: Iterable[RunTag]) -> None:
        """A parameter keeps its first value, a tag its last."""
        for param in params:
            self.params.setdefault(param.key, str(param.value))
        self.tags |= {tag.key: str(tag.value) for tag in tags}

    def info(self) -> RunInfo:
        return RunInfo(
            run_id=self.run_id,
            experiment_id=self.experiment_id,
            user_id=self.user,
            status=self.status,
            start_time=self.start_ms,
            end_time=self.end_ms,
            lifecycle_stage=LifecycleStage.DELETED if self.deleted else LifecycleStage.ACTIVE,
            artifact_uri=self.artifact_uri,
            run_name=self.name,
        )

    def entity(self) -> Run:
        """The run as MLflow has it."""
        return Run(
            self.info(),
            RunData(
                metrics=list(self.latest.values()),
                params=[Param(key, value) for key, value in self.params.items()],
                tags=[RunTag(key, value) for key, value in self.tags.items()],
            ),
            RunInputs(list(self.datasets), list(self.model_inputs)),
            RunOutputs(list(self.model_outputs)),
        )
