"""Papers that others may have written: those of a run directory, of ``up``, of ``calibrate``, of a
checkpoint."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from orchestrator.checkpoint.manifest import Manifest
from orchestrator.checkpoint.store import scan
from orchestrator.cli import sync
from orchestrator.cluster.warm import record
from orchestrator.config import load
from orchestrator.config.composing import compose
from orchestrator.config.schema import Config
from orchestrator.driver import resume
from orchestrator.driver.cluster_status import other_runs
from orchestrator.driver.preflight import plan_of
from orchestrator.errors import ConfigError, ManifestError, OrchestratorError
from orchestrator.events import RunStarted
from orchestrator.ledger.journal import Journal
from orchestrator.ledger.mlflow.client import MlflowRun
from orchestrator.ledger.mlflow.tracking_file import Tracking
from orchestrator.ledger.mlflow.uri import check_tracking, refuse_unusable
from orchestrator.ledger.run_directory import holder
from orchestrator.plan.perf.calibration import Calibration, Group
from orchestrator.plan.plan import plan_json
from orchestrator.planner.calibration_file import read_calibrations, write_calibrations
from orchestrator.planner.measured_run import Unusable, configured
from tests.fuzz.inputs import ROUGH, as_yaml, bounded, damaged, files_of, fuzzed, is_one_line, nearly, rough
from tests.support.crashes import contents, manifest_of


@functools.cache
def config() -> Config:
    return compose("job=tiny_gpt")


@functools.cache
def planned() -> dict[str, Any]:
    plan: dict[str, Any] = json.loads(json.dumps(plan_json(plan_of(config())), default=str))
    return plan


TRACKING: dict[str, Any] = {
    "uri": "sqlite:////nowhere/mlflow.db",
    "experiment": "e",
    "run_name": "r",
    "flush_s": 2.0,
    "params": {"job.steps": 5},
    "tags": {"job": "j"},
    "artifacts": ["config.yaml"],
}
SINK = {"uri": TRACKING["uri"], "key": "0123abcd", "written_seq": 7}


@fuzzed(60)
@given(data=files_of(TRACKING))
@example(data=b"[" * 100_000)
@example(data=json.dumps(TRACKING | {"uri": "http://["}).encode())
@example(data=json.dumps(TRACKING | {"uri": "postgresql://h:x/d"}).encode())
def test_tracking(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "tracking.json").write_bytes(data)
    with bounded():
        try:
            uri = sync._tracking_uri(tmp_path)
            refuse_unusable(uri)
            sync._credentials_for(uri, None)
        except OrchestratorError as error:
            is_one_line(error)
        try:
            MlflowRun(tmp_path, Tracking.read(tmp_path / "tracking.json"))
        except ValueError as error:
            is_one_line(error)


@fuzzed(40)
@given(uri=nearly([TRACKING["uri"]]) | nearly(["http://[::1]:5000/x"]) | nearly(["mysql+x://u:p@h:1/d"]))
@example(uri=["http://["])
@example(uri=["postgresql://h:x/d"])
@example(uri=["sqlite:///" + "x" * 70_000])
@example(uri=["sqlite:///a\0b"])
def test_where_mlflow_is(uri: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "create_connection", only_numbers)
    if isinstance(uri, list) and uri and isinstance(uri[0], str):
        with bounded():
            try:
                check_tracking(uri[0], 0.1)
            except OrchestratorError as error:
                is_one_line(error)


@fuzzed(60)
@given(run=files_of({"run_id": "0123"}), state=files_of(SINK))
@example(run=b"{}", state=json.dumps(SINK | {"written_seq": "7"}).encode())
@example(run=b"[" * 100_000, state=json.dumps(SINK | {"key": "' OR 1=1"}).encode())
def test_how_far_mlflow_is(tmp_path: Path, run: bytes, state: bytes) -> None:
    (tmp_path / "mlflow_run.json").write_bytes(run)
    (tmp_path / "mlflow_sink.json").write_bytes(state)
    with bounded():
        assert sync._summary(tmp_path, sync._written(tmp_path), 9)
        found = MlflowRun(tmp_path, Tracking(TRACKING["uri"], "e", "r"))
        assert found.written_seq >= -1
        assert found._state["key"].isalnum()


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that began, and whose driver is gone."""
    folder = tmp_path_factory.mktemp("run")
    with Journal(folder / "journal.jsonl") as journal:
        journal.append(RunStarted("r", "j", "local", "cpu", 2, 0.1))
    return folder


def remembered() -> dict[str, Any]:
    return {"cwd": "/", "config": load.to_container(config()), "forwarded": ["A"], "secrets": ["hunter22"]}


def resumes(folder: Path) -> None:
    """Take the run up as far as to its plan."""

    before = os.getcwd()
    try:
        found, run = resume.resumable(folder)
        assert resume.missing_names(found, run) != ""
        plan_json(plan_of(found, observed=False))
    except OrchestratorError as error:
        is_one_line(error)
    finally:
        os.chdir(before)


@fuzzed(60)
@given(data=st.data())
def test_resume(run_dir: Path, data: st.DataObject) -> None:
    (run_dir / "resume.json").write_bytes(data.draw(files_of(remembered())))
    with bounded():
        resumes(run_dir)


@pytest.mark.parametrize(
    "change",
    [
        *(
            {"cwd": 5},
            {"config": []},
            {"config": None},
            {"forwarded": 5},
            {"secrets": {"a": 1}},
            {"mo\nre": 1},
            None,
        ),
        *(
            {"config": {"clus\nter": 1}},
            {"config": {"cluster": {"\nnodes": 1}}},
            {"config": {"deepspeed": 5}},
        ),
    ],
)
def test_resume_refuses(run_dir: Path, change: dict[str, Any] | None) -> None:
    for text in ROUGH if change is None else [json.dumps(remembered() | change).encode()]:
        (run_dir / "resume.json").write_bytes(text)
        with bounded(), pytest.raises(OrchestratorError) as refusal:
            resume.resumable(run_dir)
        is_one_line(refusal.value)


@fuzzed(60)
@given(data=st.data())
def test_what_a_run_was_configured_with(tmp_path: Path, data: st.DataObject) -> None:
    container = load.to_container(config())
    auto = container | {"layout": container["layout"] | {"auto": True}}
    for name in ("resume.json", "config.yaml"):
        (tmp_path / name).unlink(missing_ok=True)
    if data.draw(st.booleans()):
        (tmp_path / "resume.json").write_bytes(
            data.draw(st.just(json.dumps({"config": auto}).encode()) | files_of({"config": auto}))
        )
    else:
        (tmp_path / "config.yaml").write_bytes(data.draw(nearly(auto).map(as_yaml) | rough()))
    (tmp_path / "plan.json").write_bytes(data.draw(files_of(planned())))
    with bounded():
        try:
            configured(tmp_path, config().planner)
        except Unusable as error:
            is_one_line(error)


@functools.cache
def calibration() -> dict[str, Any]:
    kinds = {"int": 1, "float": 1.0, "str": "x", "bool": True}
    entry = {
        field.name: kinds[str(field.type)]
        for kind in (Group, Calibration)
        for field in dataclasses.fields(kind)
    }
    return {"calibrations": [entry, entry | {"runs": 2}]}


@fuzzed(80)
@given(data=nearly(calibration()).map(as_yaml) | damaged(as_yaml(calibration())) | rough())
@example(data=as_yaml({"calibrations": [calibration()["calibrations"][0] | {"overhead_s": 10**400}]}))
@example(
    data=ROUGH[10].replace(b"a0: ", b"calibrations: &c [{cluster: *a11}]\na0: ")
    + b"calibrations: [{cluster: *a11}]\n"
)
@example(data=b"calibrations: [{cluster: 2020-13-45}]\n")
def test_calibrations(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "calibration.yaml"
    path.write_bytes(data)
    with bounded():
        try:
            found = read_calibrations(path)
        except ConfigError as error:
            is_one_line(error)
        else:
            write_calibrations(path, found)
            assert read_calibrations(path) == found


KEPT = dataclasses.asdict(
    record.WarmCluster("127.0.0.1:6379", "127.0.0.1:8265", "/s", 4_194_000, 1.8e9, 1.8e9, 60.0)
)


def only_numbers(address: tuple[str, int], *_timeout: float) -> socket.socket:
    """Asks nobody's name server, and nobody else either."""
    socket.getaddrinfo(*address, flags=socket.AI_NUMERICHOST)
    raise ConnectionRefusedError


@fuzzed(80)
@given(data=files_of(KEPT))
@example(data=json.dumps(KEPT | {"address": 5}).encode())
@example(data=json.dumps(KEPT | {"address": "h:99999", "head_pid": None}).encode())
@example(data=json.dumps(KEPT | {"address": "\ud800." + "x" * 99 + ":1", "head_pid": None}).encode())
@example(data=json.dumps(KEPT | {"head_pid": -1}).encode())
@example(data=json.dumps(KEPT | {"head_pid": "1"}).encode())
@example(data=json.dumps(KEPT | {"since_unix_s": 1e300}).encode())
def test_the_record_of_up(tmp_path: Path, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    from orchestrator.driver.warm_cluster import _when

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(socket, "create_connection", only_numbers)
    monkeypatch.setattr(record, "why_not_ours", lambda folder: None)
    (tmp_path / "orchestrator").mkdir(exist_ok=True)
    (tmp_path / "orchestrator" / "cluster.json").write_bytes(data)
    with bounded():
        found = record.find()
        if found is not None:
            assert not found.answers()
            assert _when(found)
            assert found.head() is None


MANIFEST: dict[str, Any] = json.loads(manifest_of(contents(3), 3, "step-3").to_json())


@fuzzed(80)
@given(data=files_of(MANIFEST))
@example(data=b"[" + b"[]," * 20_000_000 + b"[]]")
def test_manifests(tmp_path: Path, data: bytes) -> None:
    folder = tmp_path / "step-3"
    folder.mkdir(exist_ok=True)
    (folder / "manifest.json").write_bytes(data)
    with bounded():
        found = scan(tmp_path)
        assert all(map(is_shown, found.odd.values()))
        try:
            assert Manifest.from_json(Manifest.read(folder / "manifest.json").to_json()).tag
        except ManifestError as error:
            is_one_line(error)


def is_shown(text: str) -> bool:
    is_one_line(ValueError(text))
    return True


def in_the_place_of(path: Path, kind: str) -> None:
    path.unlink(missing_ok=True)
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a folder":
        path.mkdir()
    elif kind == "a terabyte":
        with path.open("wb") as file:
            file.truncate(1 << 40)
    else:
        path.symlink_to("/dev/zero")


READERS: dict[str, Callable[[Path], object]] = {
    "tracking.json": sync._tracking_uri,
    "mlflow_sink.json": sync._written,
    "resume.json": lambda folder: configured(folder, config().planner),
    "plan.json": lambda folder: configured(folder, config().planner),
    "calibration.yaml": lambda folder: read_calibrations(folder / "calibration.yaml"),
    "journal.jsonl": lambda folder: (resume.unfinished(folder), other_runs(folder.parent, "a:1", 0.0, set())),
    "lock": holder,
    "step-3/manifest.json": scan,
    "step-3/latest": lambda folder: scan(folder / "step-3"),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", ["a pipe", "a folder", "a terabyte", "zeros without end"])
@pytest.mark.parametrize("name", READERS)
def test_what_is_no_file_of_a_size_is_refused_and_not_waited_for(
    tmp_path: Path, name: str, kind: str
) -> None:
    (tmp_path / "step-3").mkdir()
    (tmp_path / "resume.json").write_text(json.dumps({"config": load.to_container(config())}))
    in_the_place_of(tmp_path / name, kind)
    with bounded():
        try:
            READERS[name](tmp_path)
        except (OrchestratorError, Unusable) as error:
            is_one_line(error)
