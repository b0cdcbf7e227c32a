"""Runs as MLflow has them, under the names that the ledger's sink writes."""

from __future__ import annotations

import logging
import math
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from orchestrator.errors import ConfigError, OrchestratorError, TrackingError, near_miss
from orchestrator.ledger.mlflow.names import SWEEP_TAG
from orchestrator.ledger.mlflow.uri import check_tracking, sqlite_path

CHECK_TIMEOUT_S = 5.0
PAGE_RUNS = 1000
# SQL databases keep an infinity as the largest float.
LARGEST = 1.7e308
# What is counted fits into 64 bits.
WHOLE = 2.0**63
HOW_TO = "python -m orchestrator job=... makes one"


@dataclass(frozen=True)
class RunRow:
    """One run. The field names are those of the JSON export; None where MLflow does not have it; NaN never
    occurs."""

    run_id: str  # MLflow's
    name: str  # of the run
    job: str | None  # name of the job
    # `running`, `finished`, `failed`, `interrupted`, `budget_reached`, or `unknown` where the driver was lost
    status: str
    started_at: str | None  # ISO 8601, UTC
    cluster: str | None  # name of the cluster
    gpu_type: str | None  # name of the GPU, or of the processor
    gpus: int | None  # of the whole run
    unit: str | None  # what an hour is counted of: GPU or core
    tokens: int | None  # trained on, each new step once; null also where the job has no model
    tokens_per_s: float | None  # of the whole run, mean of the steady state
    mfu: float | None  # mean, 0 to 1
    gpu_hours: float | None  # held, in the run's unit
    cost_usd: float | None  # spent
    cost_usd_per_million_tokens: float | None  # spent over what was trained
    goodput: float | None  # training's share of the GPU-seconds held, 0 to 1
    restarts: int | None  # attempts after the first
    final_loss: float | None  # of the last step; null also before the run has ended
    model: str | None = None  # name of the model; null where the job describes none
    settings: dict[str, str] = field(default_factory=dict)  # by key, where comparable runs of the list differ


def load_runs(
    uri: str, experiment: str, limit: int, keep: Callable[[RunRow], bool] | None = None
) -> list[RunRow]:
    """At most ``limit`` runs, newest first; with ``keep`` those of all runs that it says yes to.

    Raises :class:`TrackingError` when MLflow cannot be read, :class:`ConfigError` when there is no
    such experiment or no run in it.
    """
    if reason := check_tracking(uri, CHECK_TIMEOUT_S):
        raise TrackingError(reason)
    path = sqlite_path(uri)
    if path is not None and not path.exists():
        raise ConfigError(f"no runs yet: {path} does not exist; {HOW_TO}")
    client = _client(uri)
    try:
        found = client.get_experiment_by_name(experiment)
        if found is None:
            known = sorted(each.name for each in client.search_experiments() if each.name != "Default")
            raise ConfigError(_no_experiment(experiment, known))
        runs, any_there = _newest(client, found.experiment_id, limit, keep)
    except OrchestratorError:
        raise
    # whatever its client makes of an answer that is none: there is no list of that
    except Exception as error:
        raise _unreadable(error) from error
    if not any_there:
        raise ConfigError(f"no runs yet in experiment {experiment!r}; {HOW_TO}")
    return runs


def _unreadable(error: Exception) -> TrackingError:
    reason = " ".join(str(error).split())[:300]
    return TrackingError(f"MLflow cannot be read: {reason or type(error).__name__}")


def _client(uri: str) -> Any:
    """An MLflow client that says nothing; imported here because that takes seconds."""
    quiet = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    }
    for name, value in quiet.items():
        os.environ.setdefault(name, value)
    from orchestrator.ledger.mlflow.database import make_ready

    try:
        with warnings.catch_warnings():  # of MLflow's own models, with which its user can do nothing
            warnings.simplefilter("ignore")
            from mlflow.tracking import MlflowClient

            for name in ("mlflow", "alembic"):
                logging.getLogger(name).setLevel(logging.ERROR)
            make_ready(uri)
            return MlflowClient(tracking_uri=uri)
    except OrchestratorError:
        raise
    except Exception as error:
        raise _unreadable(error) from error


def _newest(
    client: Any, experiment_id: str, limit: int, keep: Callable[[RunRow], bool] | None
) -> tuple[list[RunRow], bool]:
    """The runs, and whether the experiment has any at all."""
    runs: list[RunRow] = []
    token, any_there = None, False
    while len(runs) < limit:
        page = client.search_runs(
            [experiment_id],
            max_results=PAGE_RUNS if keep else min(PAGE_RUNS, limit - len(runs)),
            order_by=["attributes.start_time DESC"],
            page_token=token,
        )
        any_there = any_there or bool(page)
        own = (run for run in page if SWEEP_TAG not in run.data.tags)  # not what compares the runs of a sweep
        runs += [row for row in map(_row, own) if keep is None or keep(row)]
        token = page.token
        if not token or not page:  # a server may go on giving tokens to nothing
            break
    return runs[:limit], any_there


def _no_experiment(name: str, known: list[str]) -> str:
    there = f"there are {', '.join(known[:8])}" if known else "there is none yet"
    return f"no experiment {name!r}{near_miss(name, known)} ({there}); {HOW_TO}"


def _row(run: Any) -> RunRow:
    tags, metrics, info = run.data.tags, run.data.metrics, run.info
    return RunRow(
        run_id=info.run_id,
        name=info.run_name or tags.get("run") or info.run_id,
        job=tags.get("job"),
        status=tags.get("status") or str(info.status).lower(),
        started_at=_day(info.start_time),
        cluster=tags.get("cluster"),
        gpu_type=tags.get("gpu_type"),
        gpus=_whole(_parsed(tags.get("gpus"))),
        unit=tags.get("unit"),
        tokens=_whole(_number(metrics, "tokens")),
        tokens_per_s=_number(metrics, "mean_tokens_per_s"),
        mfu=_number(metrics, "mean_mfu"),
        # of cores it has a name of its own; that of all runs once was the first
        gpu_hours=_number(metrics, "core_hours" if "core_hours" in metrics else "gpu_hours"),
        cost_usd=_number(metrics, "cost_usd"),
        cost_usd_per_million_tokens=_number(metrics, "cost_usd_per_million_tokens"),
        goodput=_number(metrics, "goodput"),
        restarts=_whole(_number(metrics, "restarts")),
        final_loss=_number(metrics, "final_loss"),
        model=run.data.params.get("model.name"),
        settings=dict(run.data.params),
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
    return None if value is None or not abs(value) < WHOLE else round(value)


def _day(unix_ms: int | None) -> str | None:
    """None for a time of which no calendar has the day."""
    try:
        return None if unix_ms is None else datetime.fromtimestamp(unix_ms / 1000, UTC).isoformat()
    except (OverflowError, ValueError, OSError):
        return None
