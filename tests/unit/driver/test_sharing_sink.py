"""Which runs share a process that tells MLflow, and what a run does where that cannot be had."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from orchestrator.agent.facts import OWN
from orchestrator.config.schema import Config
from orchestrator.config.tracking_schema import TrackingConfig
from orchestrator.driver import sharing_sink, tracking
from orchestrator.driver.tracking import MOST_SHARED, MlflowSink
from orchestrator.ledger.mlflow.shared_process import KEY, Place, place_of
from orchestrator.ledger.run_directory import RunDirectory

if TYPE_CHECKING:
    from orchestrator.plan.plan import Plan

URI = "http://mlflow:5000"
ADA = {"MLFLOW_TRACKING_PASSWORD": "lovelace", "PWD": "/home/ada"}


def test_those_share_a_sink_whose_mlflow_credentials_and_code_are_the_same(tmp_path: Path) -> None:
    def name(folder: Path = tmp_path, uri: str = URI, code: str = "1", env: Mapping[str, str] = ADA) -> str:
        return place_of(folder, uri, code, env).address

    same = {name(), name(), name(env=ADA | {"PWD": "/elsewhere"})}
    others = {
        name(uri="http://other:5000"),
        name(code="2"),
        name(env=ADA | {"MLFLOW_TRACKING_PASSWORD": "hopper"}),
        name(folder=tmp_path / "other"),
    }
    assert (len(same), len(others), same & others) == (1, 4, set())
    assert stat.S_IMODE((tmp_path / KEY).stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [KEY]


def test_a_run_of_no_queue_shares_with_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, plan = Config(tracking=TrackingConfig(uri=URI)), cast("Plan", SimpleNamespace(facts={OWN: "1"}))
    monkeypatch.setattr(sharing_sink, "_folder", None)
    assert sharing_sink.shared_place(config, plan) is None
    sharing_sink.share_in(tmp_path)
    found = sharing_sink.shared_place(config, plan)
    assert found == place_of(tmp_path, URI, "1", os.environ)
    (tmp_path / "a file").touch()
    sharing_sink.share_in(tmp_path / "a file")
    assert sharing_sink.shared_place(config, plan) is None, "where there can be no key each has its own"


def test_a_file_is_written_by_one_at_a_time_and_a_server_by_several(tmp_path: Path) -> None:
    assert place_of(tmp_path, "sqlite:////runs/mlflow.db", "", {}).most_calls == 1
    assert place_of(tmp_path, URI, "", {}).most_calls > 1


class Shared:
    """Stands for the process that is shared."""

    listener = None
    pid = 1

    def poll(self) -> int | None:
        return None

    def kill(self) -> None: ...


@pytest.fixture
def sink(tmp_path: Path) -> MlflowSink:
    config = Config(tracking=TrackingConfig(uri=URI))
    return MlflowSink(config, RunDirectory(tmp_path / "runs" / "a"), None, Place("\0nobody", tmp_path, 1))


def test_a_run_has_a_process_of_its_own_where_none_can_be_shared(
    sink: MlflowSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, said = object(), list[str]()

    def no_socket(*_: object) -> None:
        raise TimeoutError("its socket cannot be reached")

    monkeypatch.setattr(tracking, "SharedSink", no_socket)
    monkeypatch.setattr(sink, "_start_own", lambda: own)
    monkeypatch.setattr(sink, "_say", said.append)
    assert sink._start() is own
    assert said == [
        "MLflow: the process that runs share: its socket cannot be reached; this run has one of its own"
    ]


def test_a_run_has_a_process_of_its_own_once_the_shared_one_has_ended_again_and_again(
    sink: MlflowSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, shared, now_s = object(), Shared(), [100.0]
    said: list[str] = []
    monkeypatch.setattr(tracking, "SharedSink", lambda *_: shared)
    monkeypatch.setattr(tracking, "time", SimpleNamespace(monotonic=lambda: now_s[0]))
    monkeypatch.setattr(sink, "_start_own", lambda: own)
    monkeypatch.setattr(sink, "_say", said.append)
    for _ in range(2 * MOST_SHARED):  # an end a day is none of this run's making
        now_s[0] += 86_400
        assert sink._start() is shared
    now_s[0] += 86_400
    assert [sink._start() for _ in range(MOST_SHARED + 2)] == [*[shared] * MOST_SHARED, own, shared]
    assert said == [
        f"MLflow: the process that runs share ended {MOST_SHARED} times; this run has one of its own"
    ]
