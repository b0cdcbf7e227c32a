"""Runs as MLflow has them, under the names that the ledger's sink writes."""

from __future__ import annotations

import logging
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from orchestrator.errors import ConfigError, OrchestratorError, TrackingError, near_miss
from orchestrator.ledger.bill import Bucket
from orchestrator.ledger.mlflow.names import BUCKET_USD_METRICS
from orchestrator.ledger.mlflow.reaching import Past
from orchestrator.ledger.mlflow.searching import found_runs, histories
from orchestrator.ledger.mlflow.uri import check_tracking, sqlite_path

CHECK_TIMEOUT_S = 5.0
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
    owner: str | None = None  # who pays
    project: str | None = None  # what it belongs to
    hours: float | None = None  # from its beginning to its end, or so far, by its own clock
    predicted_cost_usd: float | None = None  # of the steps that were done, as planned
    actual_over_predicted_cost: float | None = None  # what it cost over that; above 1 it cost more
    actual_over_predicted_step_time: float | None = None  # the same of the median step
    bucket_usd: dict[str, float] = field(default_factory=dict)  # dollars by what they were spent on
    # spent when it first reached the loss of `--to-loss`; null where it never did, or none was asked for
    usd_to_loss: float | None = None
    gpu_hours_to_loss: float | None = None  # held by then, in the run's unit; null likewise
    hours_to_loss: float | None = None  # since it began, by the calendar; null likewise
    steps_to_loss: int | None = None  # at which it did; null likewise
    best_loss: float | None = None  # the lowest median of five that it came to; null where none was asked for


# What is read of a run's metrics.
_FIGURES = (
    "tokens", "mean_tokens_per_s", "mean_mfu", "core_hours", "gpu_hours", "cost_usd",
    "cost_usd_per_million_tokens", "goodput", "restarts", "final_loss", "predicted_cost_usd",
    "actual_over_predicted_cost", "actual_over_predicted_step_time",
    *BUCKET_USD_METRICS, *(f"seconds_{bucket.value}" for bucket in Bucket),
)  # fmt: skip


def load_runs(
    uri: str,
    experiment: str,
    limit: int | None,
    keep: Callable[[RunRow], bool] | None = None,
    filter_string: str = "",
) -> list[RunRow]:
    """At most ``limit`` runs, newest first; with ``keep`` those of all runs that it says yes to, and with
    ``filter_string`` those that MLflow's filter lets through.

    Raises :class:`TrackingError` when MLflow cannot be read, :class:`ConfigError` when there is no
    such experiment or no run in it, or the filter is none.
    """
    client = _reachable(uri)
    rows: list[RunRow] = []
    with _readable():
        found = client.get_experiment_by_name(experiment)
        if found is None:
            known = sorted(each.name for each in client.search_experiments() if each.name != "Default")
            raise ConfigError(_no_experiment(experiment, known))
        most = None if keep else limit
        for run in found_runs(client, uri, found.experiment_id, filter_string, _FIGURES, most):
            row = _row(run)
            if keep is None or keep(row):
                rows.append(row)
            if limit is not None and len(rows) >= limit:
                break
        if not rows and not client.search_runs([found.experiment_id], max_results=1):
            raise ConfigError(f"no runs yet in experiment {experiment!r}; {HOW_TO}")
    if not rows and filter_string:
        raise ConfigError(f"--filter {filter_string!r}: no run of experiment {experiment!r} passes it")
    return rows


def load_histories(uri: str, keys: Sequence[str], run_ids: Sequence[str]) -> dict[str, dict[str, list[Past]]]:
    """By metric and run what MLflow has of it over time; a run without it is left out.

    Raises :class:`TrackingError` when MLflow cannot be read.
    """
    client = _reachable(uri)
    with _readable():
        return {key: histories(client, uri, key, run_ids) for key in keys}


def _reachable(uri: str) -> Any:
    """A client of an MLflow that answers. Raises :class:`TrackingError` or :class:`ConfigError`."""
    if reason := check_tracking(uri, CHECK_TIMEOUT_S):
        raise TrackingError(reason)
    path = sqlite_path(uri)
    if path is not None and not path.exists():
        raise ConfigError(f"no runs yet: {path} does not exist; {HOW_TO}")
    return _client(uri)


@contextmanager
def _readable() -> Iterator[None]:
    """Whatever a client, or a database, makes of an answer that is none: there is no list of that."""
    try:
        yield
    except OrchestratorError:
        raise
    except Exception as error:
        raise _unreadable(error) from error


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
        owner=tags.get("owner"),
        project=tags.get("project"),
        hours=_hours(metrics),
        predicted_cost_usd=_number(metrics, "predicted_cost_usd"),
        actual_over_predicted_cost=_number(metrics, "actual_over_predicted_cost"),
        actual_over_predicted_step_time=_number(metrics, "actual_over_predicted_step_time"),
        bucket_usd=_bucket_usd(metrics),
    )


def _hours(metrics: Mapping[str, float]) -> float | None:
    """All that its clock has counted, whatever for."""
    seconds = [_number(metrics, f"seconds_{bucket.value}") for bucket in Bucket]
    known = [each for each in seconds if each is not None]
    return sum(known) / 3600 if known else None


def _bucket_usd(metrics: Mapping[str, float]) -> dict[str, float]:
    """Those that cost something, as the bill has them; of a run whose bill was told without them, none."""
    found = {bucket.value: _number(metrics, f"cost_usd_{bucket.value}") for bucket in Bucket}
    return {name: value for name, value in found.items() if value}


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
