"""One MLflow run: made once, written in batches, ended. Every call may be repeated after a failure.

Two small files in the run directory make a restarted process continue where the last one was:
``mlflow_run.json`` (for anybody: which MLflow run this is) and ``mlflow_sink.json`` (up to which record
everything has been written, and the key by which a run whose creation was cut short is found again).
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit
from urllib.request import url2pathname

from mlflow.entities import Metric, Param, RunInfo, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from orchestrator import papers
from orchestrator.files import atomic_write
from orchestrator.ledger.incidents import Incident
from orchestrator.ledger.mlflow.database import make_ready
from orchestrator.ledger.mlflow.database_server import check_database
from orchestrator.ledger.mlflow.description import placed, without
from orchestrator.ledger.mlflow.given_views import experiment_tags
from orchestrator.ledger.mlflow.names import INCIDENTS, JOURNAL, KEY_TAG, LOGS
from orchestrator.ledger.mlflow.points import Point, clean_key, clip
from orchestrator.ledger.mlflow.script_artifacts import files_to_upload
from orchestrator.ledger.mlflow.script_projection import MAX_PARAM_CHARACTERS
from orchestrator.ledger.mlflow.sweep import PARENT_TAG, Sweep, parent_of, tell_parent
from orchestrator.ledger.mlflow.tracking_file import Tracking
from orchestrator.ledger.mlflow.uri import artifacts_beside, is_database
from orchestrator.ledger.mlflow.views import NOTE
from orchestrator.rank.tracking import ARTIFACTS as SCRIPT_ARTIFACTS
from orchestrator.redact import redact, redact_text

METRICS_PER_BATCH = 1000
ENTITIES_PER_BATCH = 100
MAX_TAG_CHARACTERS = 8000
CONNECT_TIMEOUT_S = 3.0
MARGIN = 100  # for what is put between two parts of a description
LOG_TAIL_BYTES = 256 * 1024
MAX_LOGS = 256
# By HTTP: below the second it is no failure of the server's, and will not be otherwise next time.
REFUSED, SERVER_FAILED = 400, 500

_SWEEP = re.compile(r"[A-Za-z0-9-]{1,64}")  # it becomes a part of a query

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class MlflowRun:
    """``written_seq``: every point of the records up to this one is in MLflow. While the server is away
    methods raise whatever MLflow and what it is made of raise: there is no list of that."""

    def __init__(self, run_dir: Path, tracking: Tracking) -> None:
        self.run_id: str | None = None
        self._run_dir, self._tracking = run_dir, tracking
        self._state_path = run_dir / "mlflow_sink.json"
        state = _read_json(self._state_path)
        if state.get("uri") != tracking.uri or not _is_state(state):
            state = {"uri": tracking.uri, "key": uuid.uuid4().hex, "written_seq": -1}
            write_json(self._state_path, state)
        self._state = state
        self._client: MlflowClient | None = None
        self._experiment_id, self._parent = "", None  # type: str, str | None
        self._tags: dict[str, str] = {}
        self._note: tuple[str, str | None] | None = None
        self._params: dict[str, str] = {}  # that MLflow has
        self._uploaded: set[str] = set()

    @property
    def written_seq(self) -> int:
        return int(self._state["written_seq"])

    def open(self, start_ms: int | None) -> None:
        """Find or make the MLflow run; does nothing once that has worked."""
        if self.run_id is not None:
            return
        uri = self._tracking.uri
        if is_database(uri) and (reason := check_database(uri, CONNECT_TIMEOUT_S)):
            # MLflow would ask it for two minutes, and not hear that it has to stop
            raise ConnectionError(reason)
        artifacts = make_ready(uri) or artifacts_beside(uri, self._run_dir.parent)
        self._client = client = MlflowClient(tracking_uri=uri)
        experiment_id = _experiment(client, self._tracking.experiment, artifacts)
        _give_views(client, experiment_id)
        told = self._tracking.tags
        if _SWEEP.fullmatch(self._tracking.sweep):
            sweep = Sweep(self._tracking.sweep, redact(self._tracking.sweep_values))
            self._parent = parent_of(client, experiment_id, sweep, start_ms)
            told = told | sweep.tags() | {PARENT_TAG: self._parent}
        tags = {clean_key(k): clip(str(v), MAX_TAG_CHARACTERS) for k, v in told.items()}
        query = f"tags.`{KEY_TAG}` = '{self._state['key']}'"
        found = client.search_runs([experiment_id], query, max_results=1)
        run = found[0] if found else None
        if run is None:
            self._advance(-1)
            run = client.create_run(
                experiment_id,
                start_time=start_ms,
                tags=tags | {KEY_TAG: self._state["key"]},
                run_name=self._tracking.run_name,
            )
        elif run.info.status != "RUNNING":
            client.update_run(run.info.run_id, status="RUNNING")
        self._params = dict(run.data.params)
        self._add_params(client, run.info.run_id, run_params(self._tracking))
        where = {"uri": redact(self._tracking.uri), "experiment": self._tracking.experiment}
        write_json(
            self._run_dir / "mlflow_run.json",
            where | {"experiment_id": experiment_id, "run_id": run.info.run_id},
        )
        self.run_id, self._experiment_id = run.info.run_id, experiment_id

    def write(self, points: Sequence[Point], done_seq: int) -> None:
        """Points of whole records in order; afterwards everything up to ``done_seq`` is written."""
        client, run_id = self._opened()
        for chunk in _chunks(points, METRICS_PER_BATCH):
            metrics = [Metric(p.key, p.value, p.timestamp_ms, p.step) for p in chunk]
            client.log_batch(run_id, metrics=metrics, synchronous=True)
        self._advance(done_seq)

    def write_tags(self, tags: Mapping[str, str]) -> None:
        """Write those that are new or have changed."""
        client, run_id = self._opened()
        changed = {k: v for k, v in tags.items() if self._tags.get(k) != v}
        for chunk in _chunks(list(changed.items()), ENTITIES_PER_BATCH):
            batch = [RunTag(clean_key(k), clip(v, MAX_TAG_CHARACTERS)) for k, v in chunk]
            client.log_batch(run_id, tags=batch, synchronous=True)
            self._tags |= dict(chunk)

    def write_note(self, ours: str, scripts: str | None) -> None:
        """The run's description, where that has changed. The script's word stands above ours, or else what
        somebody has written on the page meanwhile."""
        if self._note == (ours, scripts):
            return
        client, run_id = self._opened()
        known = client.get_run(run_id).data.tags.get(NOTE, "")
        around = known if scripts is None else without(scripts)
        room = MAX_TAG_CHARACTERS - len(placed(ours, ""))
        if len(without(around)) > room - MARGIN:
            around = clip(without(around), max(0, room - MARGIN))
        client.set_tag(run_id, NOTE, placed(ours, around))
        self._note = ours, scripts

    def write_params(self, params: Mapping[str, str]) -> None:
        """Write those that are new."""
        if params.keys() - self._params.keys():
            client, run_id = self._opened()
            self._add_params(client, run_id, {k: v for k, v in params.items() if k not in self._params})

    def keep_incidents(self, incidents: Sequence[Incident]) -> None:
        """Write the file that is uploaded; what MLflow is told does not wait for a full disk."""
        try:
            write_json(self._run_dir / INCIDENTS, [dataclasses.asdict(incident) for incident in incidents])
        except OSError as error:
            _log.warning("%s not written: %s", INCIDENTS, error)

    def upload(self) -> None:
        """The artifacts that exist, the journal, and the ends of the logs; each once."""
        client, run_id = self._opened()
        if is_database(self._tracking.uri) and (place := _closed_folder(client.get_run(run_id).info)):
            _log.warning("no artifacts: %s cannot be written here; %s has them all", place, self._run_dir)
            return
        for name in [*self._tracking.artifacts, JOURNAL, INCIDENTS]:
            path = self._run_dir / name
            if name not in self._uploaded and _is_plain(path, self._run_dir):
                client.log_artifact(run_id, str(path))
                self._uploaded.add(name)
        for path, parent in files_to_upload(self._run_dir / SCRIPT_ARTIFACTS):
            if str(path) not in self._uploaded:
                client.log_artifact(run_id, str(path), parent)
                self._uploaded.add(str(path))
        folder = self._run_dir / LOGS
        logs = [path for path in sorted(folder.glob("*.log"))[:MAX_LOGS] if _is_plain(path, folder)]
        if logs and LOGS not in self._uploaded:
            with tempfile.TemporaryDirectory() as directory:
                for path in logs:
                    (Path(directory) / path.name).write_text(redact_text(_end_of(path)))
                client.log_artifacts(run_id, directory, LOGS)
            self._uploaded.add(LOGS)

    def end(self, status: str, end_ms: int) -> None:
        """Set MLflow's own status: FINISHED, FAILED or KILLED."""
        client, run_id = self._opened()
        client.set_terminated(run_id, status, end_ms)
        if self._parent is not None:
            with _refusal_is_no_failure("the sweep's comparison"):
                tell_parent(client, self._experiment_id, self._parent)

    def _add_params(self, client: MlflowClient, run_id: str, params: Mapping[str, str]) -> None:
        # MLflow refuses to change a parameter, and with it the whole batch.
        changed = sorted(k for k, v in params.items() if self._params.get(k, v) != v)
        if changed:
            _log.warning("parameters that differ from those recorded before stay as they were: %s", changed)
        new = [Param(k, v) for k, v in params.items() if k not in self._params]
        for chunk in _chunks(new, ENTITIES_PER_BATCH):
            client.log_batch(run_id, params=chunk, synchronous=True)
            self._params |= {param.key: param.value for param in chunk}

    def _opened(self) -> tuple[MlflowClient, str]:
        assert self._client is not None
        assert self.run_id is not None
        return self._client, self.run_id

    def _advance(self, seq: int) -> None:
        if seq != self.written_seq:
            self._state = self._state | {"written_seq": seq}
            write_json(self._state_path, self._state)


def run_params(tracking: Tracking) -> dict[str, str]:
    """The run's own parameters as MLflow gets them."""
    return {clean_key(k): clip(str(redact(v, k)), MAX_PARAM_CHARACTERS) for k, v in tracking.params.items()}


def _closed_folder(info: RunInfo) -> str | None:
    """The folder that the run's artifacts would go to, where that cannot be made. An experiment in a database
    has the one of whoever ran first, perhaps on another machine; the run's own directory has all the same."""
    parts = urlsplit(info.artifact_uri)
    if parts.scheme not in ("", "file"):
        return None
    place = url2pathname(parts.path) if parts.scheme else str(info.artifact_uri)
    try:
        os.makedirs(place, mode=0o700, exist_ok=True)
    except OSError:
        return place
    return None if os.access(place, os.W_OK | os.X_OK) else place


def _is_plain(path: Path, folder: Path) -> bool:
    """Whether it is a file of this folder, and not a link or a way to somebody's keys elsewhere."""
    linked = path.is_symlink() or folder.is_symlink()
    return path.parent == folder and path.name not in ("", "..") and not linked and path.is_file()


def _is_state(state: Mapping[str, Any]) -> bool:
    """Whether we have written it: the key becomes a part of a query."""
    key, seq = state.get("key"), state.get("written_seq")
    return isinstance(key, str) and key.isalnum() and type(seq) is int and -1 <= seq <= papers.LARGEST


def write_json(path: Path, body: Any) -> None:
    """Write beside and rename, so that a reader sees the old file or the new one."""
    atomic_write(path, json.dumps(body, indent=2) + "\n", 0o600)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return papers.read_object(path)
    except (FileNotFoundError, ValueError):
        return {}


# MLflow's pages then show metrics first, not what generative applications need.
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}


def _experiment(client: MlflowClient, name: str, artifacts: str | None) -> str:
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, artifact_location=artifacts, tags=EXPERIMENT_TAGS))
        except MlflowException:
            found = client.get_experiment_by_name(name)  # another run made it at the same moment
            if found is None:
                raise
    if found.lifecycle_stage != "active":
        raise MlflowException(
            f"experiment {name!r} is deleted; run mlflow experiments restore -x {found.experiment_id}"
        )
    return str(found.experiment_id)


def _give_views(client: MlflowClient, experiment_id: str) -> None:
    """Once in an experiment's life for each version of them: what somebody has made of its views and its note
    stays. Who may write runs but not change the experiment does without."""
    known = client.get_experiment(experiment_id).tags
    with _refusal_is_no_failure("the experiment's saved views"):
        for key, value in experiment_tags(known, int(time.time() * 1000)).items():
            client.set_experiment_tag(experiment_id, key, value)


@contextmanager
def _refusal_is_no_failure(what: str) -> Iterator[None]:
    """What a server refuses to write it will refuse again; a run's own record does not wait for it."""
    try:
        yield
    except MlflowException as error:
        if not REFUSED <= error.get_http_status_code() < SERVER_FAILED:
            raise
        _log.warning("%s not written: %s", what, error)


def _chunks(items: Sequence[_T], size: int) -> Iterator[list[_T]]:
    for start in range(0, len(items), size):
        yield list(items[start : start + size])


def _end_of(path: Path) -> str:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        skipped = max(0, size - LOG_TAIL_BYTES)
        file.seek(skipped)
        note = f"[the first {skipped} bytes are left out]\n" if skipped else ""
        return note + file.read().decode(errors="replace")
