from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.driver.tracking import runs_page
from orchestrator.ledger.mlflow import names
from orchestrator.ledger.mlflow.views import (
    VIEWS,
    View,
    page_of,
    saved,
)

# The least that a server of the last years takes of an experiment's tag.
SMALLEST_TAG = 5000
ATTRIBUTES = {"attributes.Duration", "attributes.User"}


def state_of(envelope: str) -> dict[str, Any]:
    """As MLflow's page reads it (``getStateFromSavedView``, ``textDecompressDeflate``)."""
    told = json.loads(envelope)
    assert isinstance(told["name"], str)
    assert isinstance(told["createdAt"], int)
    mark, _, body = told["state"].partition(";")
    assert mark == "deflate"
    state: dict[str, Any] = json.loads(zlib.decompress(base64.b64decode(body)))
    return state


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.key)
def test_a_view_has_columns_and_charts_of_what_mlflow_is_told(view: View) -> None:
    metrics = {*names.STEP_METRICS, *names.RUN_METRICS, *names.END_METRICS}
    tags = {*names.START_TAGS, *names.RUN_TAGS, *names.SWEEP_TAGS}
    assert set(view.columns) <= ATTRIBUTES | {f"metrics.{name}" for name in metrics} | {
        f"tags.{name}" for name in tags
    }
    assert view.order in metrics
    envelope = saved(view, 1)
    assert len(envelope) < SMALLEST_TAG
    state = state_of(envelope)
    assert state["selectedColumns"] == [
        f"{kind}.`{key}`" for kind, key in (name.split(".") for name in view.columns)
    ]
    drawn = {card["metricKey"] for card in state["compareRunCharts"] if "metricKey" in card}
    drawn |= {card["selectedXAxisMetricKey"] for card in state["compareRunCharts"] if card["type"] == "LINE"}
    assert drawn - {""} <= metrics
    sections = {section["uuid"] for section in state["compareRunSections"]}
    assert {card["metricSectionId"] for card in state["compareRunCharts"]} <= sections


def test_loss_is_drawn_against_dollars() -> None:
    first = state_of(saved(VIEWS[0], 1))["compareRunCharts"][0]
    axes = ("type", "metricKey", "xAxisKey", "selectedXAxisMetricKey", "useGlobalXaxisKey")
    assert [first[key] for key in axes] == ["LINE", "loss", "metric", "cost_usd", False]


def test_two_charts_of_one_metric_are_in_sections_that_say_which_is_which() -> None:
    """MLflow's page calls a chart what its metric is called."""
    for view in VIEWS:
        state = state_of(saved(view, 1))
        names = {section["uuid"]: section["name"] for section in state["compareRunSections"]}
        shown = [
            (names[card["metricSectionId"]], card["type"], card.get("metricKey"))
            for card in state["compareRunCharts"]
        ]
        assert len({(section, metric) for section, _, metric in shown}) == len(shown)
        for section, kind, _ in shown:
            assert section == f"{view.name} {'as runs go on' if kind == 'LINE' else 'of each run'}"


def test_who_may_not_change_the_experiment_records_runs_all_the_same() -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, PERMISSION_DENIED

    from orchestrator.ledger.mlflow.client import _give_views

    def client(code: int) -> Any:
        def refuse(*_: str) -> None:
            raise MlflowException("no", error_code=code)

        return SimpleNamespace(get_experiment=lambda _: SimpleNamespace(tags={}), set_experiment_tag=refuse)

    _give_views(client(PERMISSION_DENIED), "7")
    with pytest.raises(MlflowException):  # a server that fails is asked again
        _give_views(client(INTERNAL_ERROR), "7")


@pytest.mark.parametrize(
    ("uri", "server"),
    [
        ("https://ada:secret@lab.example:8443/tracking/", "https://lab.example:8443/tracking"),
        ("sqlite:////tmp/mlflow.db", "http://127.0.0.1:5000"),
        ("postgresql://ada:secret@db/mlflow", "http://127.0.0.1:5000"),
    ],
)
def test_the_page_of_a_run_is_known_once_mlflow_has_it(uri: str, server: str, tmp_path: Path) -> None:
    assert runs_page(uri, tmp_path) is None
    (tmp_path / "mlflow_run.json").write_text(json.dumps({"experiment_id": "12", "run_id": "a"}))
    page = runs_page(uri, tmp_path)
    has_pages = uri.startswith("https:")
    assert page == server + page_of("12") + ("" if has_pages else " (once 'mlflow ui' is started)")
    (tmp_path / "mlflow_run.json").write_text(json.dumps({"experiment_id": "1\x1b[31m"}))
    assert runs_page(uri, tmp_path) is None
