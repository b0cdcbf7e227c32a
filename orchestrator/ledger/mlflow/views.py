"""The saved views of an experiment: which columns and charts MLflow's page of runs shows first. Pure.

A new browser shows neither dollars nor hours nor the cluster, and draws every metric on its own. MLflow keeps
what its page's *Save view* makes as tags of the experiment, one for each view, and so do these: who opens the
link of one, or chooses it from the page's menu, sees the runs as a question asks for them.

The format is that of MLflow 3.17 (its page's ``ExperimentPageUIState``, ``SavedViews`` and
``RunsChartsCardConfig``): a name, two times, and the state as JSON, deflated since some servers take no more
than 5,000 characters of a tag. A page that knows a field no more ignores it.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

SHARED_VIEW = "mlflow.sharedViewState."
NOTE = "mlflow.note.content"
# The page draws so many runs at most, unless asked for more.
_RUNS_IN_A_CHART = 100
# The page of runs calls a chart what its metric is called, whatever we call it: its section has to say which
# of two charts of one metric it is.
_DURING, _EACH = "as runs go on", "of each run"
# What MLflow calls its own sections; charts of all other metrics come below these.
_MLFLOW_SECTIONS = ("Model metrics", "System metrics")
_FIRST_COLUMNS = ("attributes.`Run Name`", "attributes.`Created`")
# In pixels; a heading is shown whole where it has so many for each of its letters.
_LETTER, _LEAST, _SENTENCE = 8, 110, 400
_SENTENCES = ("tags.`status_reason`", "tags.`incidents`")
_NAME = 280


@dataclass(frozen=True)
class Chart:
    """``y`` over ``x``: steps, seconds, or another metric, which has a point at the same steps. Without ``x``
    a bar for each run; ``each_run`` draws a dot for each run instead of a line."""

    title: str
    y: str
    x: str | None = None
    each_run: bool = False
    logarithmic: bool = False


@dataclass(frozen=True)
class View:
    """``key`` is what its link ends with. The runs with most of ``order`` come first; by the time of their
    start, MLflow's own order, it would fold the runs of a sweep away below their parent."""

    key: str
    name: str
    question: str
    order: str
    columns: tuple[str, ...]
    charts: tuple[Chart, ...]


STEP, SECONDS = "step", "time-relative"
_WHERE = ("tags.cluster", "tags.gpu_type", "tags.gpus")
VIEWS = (
    View(
        "cost",
        "Cost",
        "what runs cost, and what that bought",
        "cost_usd",
        (
            "tags.status", "metrics.cost_usd", "metrics.gpu_hours", "metrics.core_hours",
            "metrics.final_loss", "tags.sweep_values", "metrics.cost_usd_per_million_tokens", *_WHERE,
            "metrics.predicted_cost_usd", "metrics.actual_over_predicted_cost",
            "metrics.incident_cost_usd", "metrics.goodput", "attributes.Duration", "attributes.User",
            "tags.project",
        ),
        (
            Chart("Loss against dollars", "loss", "cost_usd"),
            Chart("Final loss against dollars, a dot a run", "final_loss", "cost_usd", each_run=True),
            Chart("Dollars by the second", "cost_usd", SECONDS),
            Chart("Dollars of each run", "cost_usd"),
            Chart("Dollars per million tokens", "cost_usd_per_million_tokens"),
            Chart("Actual over predicted cost", "actual_over_predicted_cost"),
        ),
    ),
    View(
        "speed",
        "Speed",
        "how fast runs are, and how fast they should be",
        "mean_tokens_per_s",
        (
            "tags.status", "metrics.mean_tokens_per_s", "metrics.mean_mfu", "tags.sweep_values",
            "metrics.actual_step_time_s", "metrics.predicted_step_time_s",
            "metrics.actual_over_predicted_step_time", *_WHERE,
            "metrics.mean_tokens_per_s_per_gpu", "metrics.actual_memory_bytes",
            "metrics.predicted_memory_bytes", "metrics.goodput", "attributes.Duration",
        ),
        (
            Chart("Tokens per second", "tokens_per_s", STEP),
            Chart("Model FLOPs utilization", "mfu", STEP),
            Chart("Seconds of a step", "step_time_s", STEP, logarithmic=True),
            Chart("Loss by the second", "loss", SECONDS),
            Chart("Mean MFU of each run", "mean_mfu"),
            Chart("Actual over predicted step time", "actual_over_predicted_step_time"),
        ),
    ),
    View(
        "reliability",
        "Reliability",
        "what broke, and what that took",
        "incident_cost_usd",
        (
            "tags.status", "metrics.incidents", "metrics.restarts", "metrics.incident_cost_usd",
            "metrics.goodput", "metrics.seconds_recovering", "metrics.seconds_redone",
            "metrics.seconds_checkpoint", "metrics.seconds_unobserved", "tags.status_reason",
            "tags.incidents", "tags.cluster", "tags.gpus", "attributes.Duration",
        ),
        (
            Chart("Training's share of the time", "goodput", SECONDS),
            Chart("Dollars of incidents by the second", "incident_cost_usd", SECONDS),
            Chart("Dollars of incidents, each run", "incident_cost_usd"),
            Chart("Seconds to recover, each run", "seconds_recovering"),
            Chart("Seconds of steps done again, each run", "seconds_redone"),
            Chart("Seconds that checkpoints stood still, each run", "seconds_checkpoint"),
        ),
    ),
)  # fmt: skip


def saved(view: View, now_ms: int) -> str:
    """A view as MLflow's page saves it."""
    state = json.dumps(_state(view), separators=(",", ":")).encode()
    deflated = base64.b64encode(zlib.compress(state, 9)).decode()
    return json.dumps(
        {"name": view.name, "createdAt": now_ms, "updatedAt": now_ms, "state": f"deflate;{deflated}"}
    )


def page_of(experiment_id: str, view: View = VIEWS[0], charts: bool = False) -> str:
    """Where a view is shown, below the address of a server: as a table, or with its ``charts``. A browser
    that has never been there would show what is for generative applications around it."""
    words = f"viewStateShareKey={view.key}&workflowType=machine_learning"
    return f"/#/experiments/{experiment_id}/runs?{words}{'&compareRunsMode=CHART' if charts else ''}"


def note() -> str:
    """What the experiment says of itself."""
    lines = [
        "Views of these runs are in the menu at the top right, or by the end of this page's address:",
        "",
    ]
    lines += [f"- **{view.name}**: {view.question} (`runs?viewStateShareKey={view.key}`)" for view in VIEWS]
    lines += [
        "",
        "The charts of a view come with its button *Chart view*. Dollars are what the GPUs held cost",
    ]
    lines += ["until they were given back, at the price that the tag `price_source` names. Each run is a"]
    lines += ["projection of its journal: what is missing here comes with `sync RUN`."]
    return "\n".join(lines)


def _state(view: View) -> dict[str, Any]:
    columns = [_column(name) for name in view.columns]
    own = [
        {
            "uuid": _section(view, each),
            "name": f"{view.name} {_EACH if each else _DURING}",
            "display": True,
            "isReordered": True,
        }
        for each in (False, True)
    ]
    theirs = [
        {
            "uuid": f"{view.key}-{name.split()[0].lower()}",
            "name": name,
            "display": False,
            "isReordered": False,
        }
        for name in _MLFLOW_SECTIONS
    ]
    return {
        "searchFilter": "",
        "orderByKey": _column(f"metrics.{view.order}"),
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": columns,
        "columnOrder": [*_FIRST_COLUMNS, *columns],
        "columnWidths": {_FIRST_COLUMNS[0]: _NAME} | {name: _width(name) for name in columns},
        "runsHiddenMode": "FIRST_20_RUNS",
        "compareRunCharts": _cards(view),
        "compareRunSections": [*own, *theirs],
        "viewMaximized": False,
        "runListHidden": False,
        "isAccordionReordered": True,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "groupBy": None,
        "groupsExpanded": {},
        "globalLineChartConfig": {"xAxisKey": STEP, "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
    }


def _column(name: str) -> str:
    kind, _, key = name.partition(".")
    return f"{kind}.`{key}`"


def _width(column: str) -> int:
    if column in _SENTENCES:
        return _SENTENCE
    return max(_LEAST, _LETTER * len(column.partition(".")[2]) + 2 * _LETTER)


def _section(view: View, each: bool) -> str:
    return f"{view.key}-{'each' if each else 'during'}"


def _cards(view: View) -> Sequence[dict[str, Any]]:
    return [
        {
            "uuid": f"{view.key}-{number}",
            "metricSectionId": _section(view, chart.each_run or chart.x is None),
            "displayName": chart.title,
            "deleted": False,
            "isGenerated": False,
            "runsCountToCompare": _RUNS_IN_A_CHART,
            **_kind(chart),
        }
        for number, chart in enumerate(view.charts)
    ]


def _kind(chart: Chart) -> dict[str, Any]:
    if chart.each_run:
        axes = {"xaxis": chart.x, "yaxis": chart.y}
        return {"type": "SCATTER"} | {axis: {"key": key, "type": "METRIC"} for axis, key in axes.items()}
    if chart.x is None:
        return {"type": "BAR", "metricKey": chart.y}
    by_metric = chart.x not in (STEP, SECONDS)
    return {
        "type": "LINE",
        "metricKey": chart.y,
        "selectedMetricKeys": [chart.y],
        "xAxisKey": "metric" if by_metric else chart.x,
        "selectedXAxisMetricKey": chart.x if by_metric else "",
        "useGlobalXaxisKey": False,
        "useGlobalLineSmoothing": True,
        "lineSmoothness": 0,
        "xAxisScaleType": "linear",
        "scaleType": "log" if chart.logarithmic else "linear",
        "yAxisKey": "metric",
        "yAxisExpressions": [],
        "ignoreOutliers": False,
        "range": {},
    }
