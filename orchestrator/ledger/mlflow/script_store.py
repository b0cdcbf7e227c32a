"""The tracking store that the script's own calls of MLflow find in a rank: they arrive in the run.

MLflow loads it by its plugin entry point for ``orchestrator://``. It hands everything to the rank's
:class:`~orchestrator.rank.tracking.Recorder`, which sends it without ever waiting, and answers what is read
back from its own memory. Status, name and experiment of the run are the driver's: what the script says of
them is remembered here and goes no further. Every run that the script starts is that one run; a run nested
in it is a prefix of names there.

This module is imported in a rank beside whatever the script calls by the name of our package, so it imports
all that it needs when it is imported itself, and nothing later.
"""

from __future__ import annotations

import itertools
import sys
import threading
import time
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn, Protocol

from mlflow.entities import (
    DatasetInput,
    Experiment,
    FileInfo,
    LifecycleStage,
    LoggedModelInput,
    LoggedModelOutput,
    Metric,
    Param,
    Run,
    RunInfo,
    RunStatus,
    RunTag,
    ViewType,
)
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, RESOURCE_DOES_NOT_EXIST
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.entities import PagedList
from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_ARTIFACTS, MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME
from mlflow.utils.search_utils import SearchUtils

from orchestrator.ledger.mlflow.names import SCRIPT_SYSTEM_TAGS
from orchestrator.ledger.mlflow.script_models import ScriptModels
from orchestrator.ledger.mlflow.script_run import ScriptRun
from orchestrator.rank.tracking import MODULE, SCHEME, Point

EXPERIMENT_ID = "0"
NOWHERE = f"{SCHEME}://nowhere"
_ROOT_PREFIX = ""


class Taker(Protocol):
    """What is needed of :class:`~orchestrator.rank.tracking.Recorder`."""

    run_id: str
    run_name: str
    experiment: str
    artifacts: str | None

    def log(
        self,
        points: Iterable[Point] = (),
        params: Iterable[tuple[str, str]] = (),
        tags: Iterable[tuple[str, str]] = (),
    ) -> None: ...


class _Nobody:
    """In a process that a rank has started, which has no tie to the agent: what it logs goes nowhere."""

    run_id = uuid.UUID(int=0).hex
    run_name = experiment = "orchestrator"
    artifacts: str | None = None

    def log(self, points: Any = (), params: Any = (), tags: Any = ()) -> None:
        pass


def _taker() -> Taker:
    recorder: Taker | None = getattr(sys.modules.get(MODULE), "recorder", None)
    if recorder is None:
        print(
            "MLflow: this process was started by a rank and is none itself, so what it logs is not recorded;"
            " log it in the rank, or call mlflow.set_tracking_uri",
            file=sys.stderr,
        )
    return _Nobody() if recorder is None else recorder


class ScriptStore(ScriptModels):
    """One in a rank's process; MLflow calls it from any thread."""

    def __init__(
        self, store_uri: str | None = None, artifact_uri: str | None = None, taker: Taker | None = None
    ) -> None:
        super().__init__()
        self._taker = _taker() if taker is None else taker
        self._lock = threading.RLock()
        taker = self._taker
        self._main = ScriptRun(taker.run_id, EXPERIMENT_ID, taker.run_name, self._artifacts_of(_ROOT_PREFIX))
        self._runs = {self._main.run_id: self._main}

    def _artifacts_of(self, prefix: str) -> str:
        """A folder of the run's directory: MLflow copies files there by itself."""
        folder = self._taker.artifacts
        return NOWHERE if folder is None else str(Path(folder, prefix))

    def _get(self, run_id: str) -> ScriptRun:
        run = self._runs.get(run_id)
        if run is None:
            raise MlflowException(
                f"Run with id={run_id} is not in this run's store: a script that runs under orchestrator has"
                " the runs that it has started itself",
                RESOURCE_DOES_NOT_EXIST,
            )
        return run

    # Experiments: whatever the script calls it, it is the one of the run.

    def _experiment(self) -> Experiment:
        return Experiment(
            EXPERIMENT_ID,
            self._taker.experiment,
            self._artifacts_of(_ROOT_PREFIX),
            LifecycleStage.ACTIVE,
            creation_time=self._main.start_ms,
            last_update_time=self._main.start_ms,
        )

    def search_experiments(
        self,
        view_type: int = ViewType.ACTIVE_ONLY,
        max_results: int = 1000,
        filter_string: str | None = None,
        order_by: list[str] | None = None,
        page_token: str | None = None,
    ) -> PagedList[Experiment]:
        return PagedList([self._experiment()], None)

    def create_experiment(self, name: str, artifact_location: str | None = None, tags: Any = None) -> str:
        return EXPERIMENT_ID

    def get_experiment(self, experiment_id: str) -> Experiment:
        return self._experiment()

    def get_experiment_by_name(self, experiment_name: str) -> Experiment:
        return self._experiment()

    def set_experiment_tag(self, experiment_id: str, tag: Any) -> None:
        """An experiment has many runs, and what it is called is not for one of them to say."""

    def delete_experiment(self, experiment_id: str) -> NoReturn:
        _refuse("the experiment is the run's, and cannot be deleted in its script")

    def restore_experiment(self, experiment_id: str) -> None:
        """It is there."""

    def rename_experiment(self, experiment_id: str, new_name: str) -> NoReturn:
        _refuse("the experiment is the run's; name it with tracking.experiment=NAME")

    # Runs.

    def create_run(
        self,
        experiment_id: str,
        user_id: str,
        start_time: int,
        tags: Sequence[RunTag],
        run_name: str | None,
    ) -> Run:
        named = {tag.key: str(tag.value) for tag in tags or ()}
        with self._lock:
            parent = self._runs.get(named.get(MLFLOW_PARENT_RUN_ID, ""))
            if parent is None:
                run = self._main
                run.status, run.end_ms = RunStatus.to_string(RunStatus.RUNNING), None
            else:
                run = self._child(parent, run_name or named.get(MLFLOW_RUN_NAME), start_time)
            run.user = user_id or run.user
        self.log_batch(run.run_id, [], [], list(tags or ()))
        return run.entity()

    def _child(self, parent: ScriptRun, name: str | None, start_ms: int) -> ScriptRun:
        """Without a name it has a number, so that the next attempt's goes on where this one's ends."""
        taken = {run.prefix for run in self._runs.values()}
        name = (name or f"child-{len(self._runs)}").replace("/", "-").strip(".") or "child"
        prefix = f"{parent.prefix}{name}/"
        for number in itertools.count(2):
            if prefix not in taken:
                break
            prefix = f"{parent.prefix}{name}-{number}/"
        run = ScriptRun(
            uuid.uuid4().hex, EXPERIMENT_ID, name, self._artifacts_of(prefix), prefix, start_ms=start_ms
        )
        self._runs[run.run_id] = run
        return run

    def get_run(self, run_id: str) -> Run:
        with self._lock:
            return self._get(run_id).entity()

    def update_run_info(
        self, run_id: str, run_status: Any, end_time: int | None, run_name: str | None
    ) -> RunInfo:
        """What the script thinks of its run; the run goes on, and is called as it is."""
        with self._lock:
            run = self._get(run_id)
            if run_status is not None:
                run.status = RunStatus.to_string(run_status)
            run.end_ms = end_time if end_time is not None else run.end_ms
            return run.info()

    def delete_run(self, run_id: str) -> None:
        with self._lock:
            run = self._get(run_id)
            if run is self._main:
                _refuse("this run cannot be deleted in its own script")
            run.deleted = True

    def restore_run(self, run_id: str) -> None:
        with self._lock:
            self._get(run_id).deleted = False

    def _search_runs(
        self,
        experiment_ids: Sequence[str],
        filter_string: str | None,
        run_view_type: int,
        max_results: int,
        order_by: list[str] | None,
        page_token: str | None,
    ) -> tuple[list[Run], str | None]:
        with self._lock:
            stages = LifecycleStage.view_type_to_stages(run_view_type)
            runs = [run.entity() for run in self._runs.values()]
        runs = [run for run in runs if run.info.lifecycle_stage in stages]
        found = SearchUtils.sort(SearchUtils.filter(runs, filter_string), order_by)
        page: tuple[list[Run], str | None] = SearchUtils.paginate(found, page_token, max_results)
        return page

    # What is logged.

    def log_batch(
        self, run_id: str, metrics: Sequence[Metric], params: Sequence[Param], tags: Sequence[RunTag]
    ) -> None:
        with self._lock:
            run = self._get(run_id)
            points = [_point(run.prefix, metric) for metric in metrics]
            for metric in metrics:
                run.log(metric)
            if self._taker.artifacts is None:
                # MLflow would read what it has written before, and here nothing is written.
                tags = [tag for tag in tags if tag.key != MLFLOW_LOGGED_ARTIFACTS]
            run.keep(params, tags)
        told = [tag for tag in tags if not tag.key.startswith("mlflow.") or tag.key in SCRIPT_SYSTEM_TAGS]
        self._taker.log(
            points,
            [(run.prefix + param.key, str(param.value)) for param in params],
            [(run.prefix + tag.key, str(tag.value)) for tag in told],
        )

    def log_metric(self, run_id: str, metric: Metric) -> None:
        self.log_batch(run_id, [metric], [], [])

    def log_param(self, run_id: str, param: Param) -> None:
        self.log_batch(run_id, [], [param], [])

    def set_tag(self, run_id: str, tag: RunTag) -> None:
        self.log_batch(run_id, [], [], [tag])

    def delete_tag(self, run_id: str, key: str) -> None:
        """Here alone: what the run has been told stays on its record."""
        with self._lock:
            if self._get(run_id).tags.pop(key, None) is None:
                raise MlflowException(f"No tag with name: {key} in run {run_id}", RESOURCE_DOES_NOT_EXIST)

    def get_metric_history(
        self, run_id: str, metric_key: str, max_results: int | None = None, page_token: str | None = None
    ) -> PagedList[Metric]:
        with self._lock:
            return PagedList(list(self._get(run_id).history.get(metric_key, ())), None)

    def log_inputs(
        self,
        run_id: str,
        datasets: list[DatasetInput] | None = None,
        models: list[LoggedModelInput] | None = None,
    ) -> None:
        """A data set is a tag of the run: its name, and what its content is known by."""
        with self._lock:
            run = self._get(run_id)
            run.datasets += datasets or []
            run.model_inputs += models or []
        named = [(f"{run.prefix}dataset.{one.dataset.name}", one.dataset.digest) for one in datasets or []]
        self._taker.log(tags=named)

    def log_outputs(self, run_id: str, models: list[LoggedModelOutput]) -> None:
        with self._lock:
            self._get(run_id).model_outputs += models

    def record_logged_model(self, run_id: str, mlflow_model: Any) -> None:
        """It is among the artifacts."""

    def link_traces_to_run(self, trace_ids: list[str], run_id: str) -> NoReturn:
        _refuse("traces are not recorded with a training run")

    def _model_folder(self, model_id: str) -> str:
        folder = self._taker.artifacts
        return NOWHERE if folder is None else str(Path(folder, "models", model_id))


def _point(prefix: str, metric: Metric) -> Point:
    try:
        value = float(metric.value)
    except (TypeError, ValueError, OverflowError):
        raise MlflowException(
            f"Got invalid value {metric.value!r:.80} for metric '{metric.key}': it has to be a number",
            INVALID_PARAMETER_VALUE,
        ) from None
    timestamp = int(time.time() * 1000) if metric.timestamp is None else int(metric.timestamp)
    return prefix + str(metric.key), int(metric.step or 0), timestamp, value


def _refuse(why: str) -> NoReturn:
    raise MlflowException(f"under orchestrator {why}", INVALID_PARAMETER_VALUE)


def refuse_registry(store_uri: str | None = None, tracking_uri: str | None = None) -> NoReturn:
    """MLflow's model registry belongs to a server, which a rank does not talk to."""
    _refuse(
        "a script has no model registry: register the model from the run's artifacts when it has ended, or"
        " set +env.MLFLOW_REGISTRY_URI=http://HOST:PORT"
    )


class NoArtifacts(ArtifactRepository):  # type: ignore[misc]
    """Those of a rank that is not listened to."""

    def log_artifact(self, local_file: str, artifact_path: str | None = None) -> None:
        pass

    def log_artifacts(self, local_dir: str, artifact_path: str | None = None) -> None:
        pass

    def list_artifacts(self, path: str | None = None) -> list[FileInfo]:
        return []

    def _download_file(self, remote_file_path: str, local_path: str) -> NoReturn:
        raise MlflowException(f"No such artifact: {remote_file_path}", RESOURCE_DOES_NOT_EXIST)
