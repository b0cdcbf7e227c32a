"""Runs as MLflow has them, under the names that the ledger's sink writes."""

from __future__ import annotations

import logging
import math
import os
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from orchestrator.errors import ConfigError, TrackingError, near_miss
from orchestrator.ledger.tracking_check import check_tracking, sqlite_path

CHECK_TIMEOUT_S = 5.0
PAGE_RUNS = 1000
# SQL databases keep an infinity as the largest float.
LARGEST = 1.7e308
HOW_TO = "python -m orchestrator job=... makes one"


@dataclass(frozen=True)
class RunRow:
    """One run. The field names are those of the JSON export; None is unknown, NaN never occurs."""

    run_id: str
    name: str
    job: str | None
    status: str
    started_at: str | None
    cluster: str | None
    gpu_type: str | None
    gpus: int | None
    unit: str | None
    tokens: int | None
    tokens_per_s: float | None
    mfu: float | None
    gpu_hours: float | None
    cost_usd: float | None
    cost_usd_per_million_tokens: float | None
    goodput: float | None
    restarts: int | None
    final_loss: float | None


def load_runs(uri: str, experiment: str, limit: int) -> list[RunRow]:
    """At most ``limit`` runs, newest first.

    Raises :class:`TrackingError` when MLflow can not be read, :class:`ConfigError` when there is no
    such experiment or no run in it.
    """
    if reason := check_tracking(uri, CHECK_TIMEOUT_S):
        raise TrackingError(reason)
    path = sqlite_path(uri)
    if path is not None and not path.exists():
        raise ConfigError(f"no runs yet: {path} does not exist; {HOW_TO}")
    client, failures = _client(uri)
    try:
        found = client.get_experiment_by_name(experiment)
        if found is None:
            known = sorted(each.name for each in client.search_experiments() if each.name != "Default")
            raise ConfigError(_no_experiment(experiment, known))
        runs = _newest(client, found.experiment_id, limit)
    except failures as error:
        raise TrackingError(f"MLflow can not be read: {' '.join(str(error).split())[:300]}") from error
    if not runs:
        raise ConfigError(f"no runs yet in experiment {experiment!r}; {HOW_TO}")
    return [_row(run) for run in runs]


def _client(uri: str) -> tuple[Any, tuple[type[Exception], ...]]:
    """An MLflow client that says nothing, and what it raises; imported here because that takes seconds."""
    quiet = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    }
    for name, value in quiet.items():
        os.environ.setdefault(name, value)
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient
    from sqlalchemy.exc import SQLAlchemyError

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    from orchestrator.ledger.mlflow_database import DatabaseUnusable, make_ready

    failures = (MlflowException, SQLAlchemyError, sqlite3.Error, DatabaseUnusable, OSError)
    try:
        make_ready(uri)
        return MlflowClient(tracking_uri=uri), failures
    except failures as error:
        raise TrackingError(f"MLflow can not be read: {' '.join(str(error).split())[:300]}") from error


def _newest(client: Any, experiment_id: str, limit: int) -> list[Any]:
    runs: list[Any] = []
    token = None
    while len(runs) < limit:
        page = client.search_runs(
            [experiment_id],
            max_results=min(PAGE_RUNS, limit - len(runs)),
            order_by=["attributes.start_time DESC"],
            page_token=token,
        )
        runs += page
        token = page.token
        if not token:
            break
    return runs


def _no_experiment(name: str, known: list[str]) -> str:
    there = f"there are {', '.join(known[:8])}" if known else "there is none yet"
    return f"no experiment {name!r}{near_miss(name, known)} ({there}); {HOW_TO}"


def _row(run: Any) -> RunRow:
    tags, metrics, info = run.data.tags, run.data.metrics, run.info
    started_s = info.start_time / 1000 if info.start_time is not None else None
    return RunRow(
        run_id=info.run_id,
        name=info.run_name or tags.get("run") or info.run_id,
        job=tags.get("job"),
        status=tags.get("status") or info.status.lower(),
        started_at=None if started_s is None else datetime.fromtimestamp(started_s, UTC).isoformat(),
        cluster=tags.get("cluster"),
        gpu_type=tags.get("gpu_type"),
        gpus=_whole(_parsed(tags.get("gpus"))),
        unit=tags.get("unit"),
        tokens=_whole(_number(metrics, "tokens")),
        tokens_per_s=_number(metrics, "mean_tokens_per_s"),
        mfu=_number(metrics, "mean_mfu"),
        gpu_hours=_number(metrics, "gpu_hours"),
        cost_usd=_number(metrics, "cost_usd"),
        cost_usd_per_million_tokens=_number(metrics, "cost_usd_per_million_tokens"),
        goodput=_number(metrics, "goodput"),
        restarts=_whole(_number(metrics, "restarts")),
        final_loss=_number(metrics, "final_loss"),
    )


def _number(metrics: Mapping[str, float], name: str) -> float | None:
    value = metrics.get(name)
    return value if value is not None and math.isfinite(value) and abs(value) < LARGEST else None


def _parsed(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)
