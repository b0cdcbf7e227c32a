"""Runs and histories of metrics out of MLflow, many at once.

MLflow's own search makes an object of every tag, parameter and metric, which takes 20 seconds for ten
thousand runs, and its client gives the history of one metric of one run at a time. Where MLflow keeps its
runs in a database, the same rows are read from its tables in a second; of a server they are asked for as
MLflow's client does. What a filter means is MLflow's in both.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from orchestrator.errors import ConfigError
from orchestrator.ledger.mlflow.names import SWEEP_TAG
from orchestrator.ledger.mlflow.reaching import Past

PAGE_RUNS = 1000
# Names in one question: SQLite takes 32,766 of them, Microsoft's SQL Server 2,100.
_AT_ONCE = 1000
_CONNECTIONS = 8
EXAMPLE = "\"metrics.cost_usd < 100 and tags.cluster = 'aws_p5'\""


@dataclass(slots=True)
class Info:
    """What MLflow keeps of every run, under the names of its own ``RunInfo``."""

    run_id: str
    run_name: str | None
    status: str
    start_time: int | None
    end_time: int | None
    user_id: str | None
    artifact_uri: str | None


@dataclass(slots=True)
class Data:
    """What was logged, under the names of MLflow's ``RunData``; of a metric the latest value."""

    metrics: dict[str, float] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Found:
    """A run, in the form of MLflow's ``Run``, so that MLflow's own filter takes it."""

    info: Info
    data: Data = field(default_factory=Data)


def found_runs(
    client: Any, uri: str, experiment_id: str, filter_string: str, metrics: Collection[str], limit: int | None
) -> Iterator[Any]:
    """The runs of an experiment that a filter of MLflow's lets through, newest first, those that compare a
    sweep left out; ``limit`` at most. Each has at least these ``metrics``.

    Raises :class:`ConfigError` for a filter that MLflow does not take, and what MLflow and its database
    raise.
    """
    clauses = _clauses(filter_string)
    engine = _engine(uri) if not any(clause["type"] == "dataset" for clause in clauses) else None
    if engine is None:
        found = _from_client(client, experiment_id, filter_string)
    else:
        needed = None if clauses else limit
        found = _filtered(_from_database(engine, experiment_id, metrics, clauses, needed), filter_string)
    taken = 0
    for run in found:
        if SWEEP_TAG in run.data.tags:  # it compares the runs of a sweep, and is none
            continue
        if limit is not None and taken >= limit:
            return
        taken += 1
        yield run


def histories(client: Any, uri: str, key: str, run_ids: Sequence[str]) -> dict[str, list[Past]]:
    """Of each run all values of one metric, by time; a run without any is left out."""
    engine = _engine(uri)
    if engine is None:
        with ThreadPoolExecutor(_CONNECTIONS) as pool:
            asked = pool.map(lambda run_id: client.get_metric_history(run_id, key), run_ids)
            points = {
                run_id: [Past(one.timestamp, one.step, one.value) for one in told if one.value == one.value]
                for run_id, told in zip(run_ids, asked, strict=True)
            }
    else:
        points = _from_metrics(engine, key, run_ids)
    return {run_id: sorted(values) for run_id, values in points.items() if values}


def _clauses(filter_string: str) -> list[dict[str, Any]]:
    """What a filter asks for, as MLflow reads it: each clause with its type, key, comparison and value."""
    from mlflow.exceptions import MlflowException
    from mlflow.utils.search_utils import SearchUtils

    try:
        clauses: list[dict[str, Any]] = SearchUtils.parse_search_filter(filter_string)
        SearchUtils.filter([Found(Info("", "", "", 0, 0, "", ""))], filter_string)
    except (MlflowException, AttributeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(f"--filter {filter_string!r}: {reason}; as in {EXAMPLE}") from error
    return clauses


def _filtered(runs: Iterator[Found], filter_string: str) -> Iterator[Found]:
    from mlflow.utils.search_utils import SearchUtils

    return iter(SearchUtils.filter(runs, filter_string))


def _from_client(client: Any, experiment_id: str, filter_string: str) -> Iterator[Any]:
    token = None
    while True:
        page = client.search_runs(
            [experiment_id],
            filter_string,
            max_results=PAGE_RUNS,
            order_by=["attributes.start_time DESC"],
            page_token=token,
        )
        yield from page
        token = page.token
        if not token or not page:  # a server may go on giving tokens to nothing
            return


def _engine(uri: str) -> Any:
    """Of a database that MLflow keeps its runs in; None for a server."""
    if uri.partition("://")[0] in ("http", "https", "databricks") or "://" not in uri:
        return None
    from sqlalchemy import create_engine
    from sqlalchemy.pool import NullPool

    return create_engine(uri, poolclass=NullPool)


def _from_database(
    engine: Any,
    experiment_id: str,
    metrics: Collection[str],
    clauses: Sequence[dict[str, Any]],
    limit: int | None,
) -> Iterator[Found]:
    """Page by page, so that whoever has enough of them reads no more."""
    from sqlalchemy import select

    names = ("run_uuid", "name", "status", "start_time", "end_time", "user_id", "artifact_uri")
    runs = _table("runs", *names, "experiment_id", "lifecycle_stage")
    # A run of a thousand nodes has ten thousand metrics of theirs.
    wanted = sorted({*metrics, *(clause["key"] for clause in clauses if clause["type"] == "metric")})
    size = min(_AT_ONCE, limit or _AT_ONCE)
    asked = (
        select(*(runs.c[name] for name in names))
        .where(runs.c.experiment_id == int(experiment_id), runs.c.lifecycle_stage == "active")
        .order_by(runs.c.start_time.desc(), runs.c.run_uuid)
    )
    with engine.connect() as connection:
        rows = connection.execute(asked).fetchall()
        for first in range(0, len(rows), size):
            found = {row[0]: Found(Info(*row)) for row in rows[first : first + size]}
            _fill(connection, found, wanted)
            yield from found.values()


def _fill(connection: Any, found: dict[str, Found], metrics: Sequence[str]) -> None:
    from sqlalchemy import false, select

    for name, kind in (("tags", "tags"), ("params", "params"), ("latest_metrics", "metrics")):
        told = _table(name, "run_uuid", "key", "value", "is_nan")
        asked = select(told.c.run_uuid, told.c.key, told.c.value).where(told.c.run_uuid.in_(list(found)))
        if kind == "metrics":
            asked = asked.where(told.c.is_nan == false(), told.c.key.in_(metrics))
        for run_id, key, value in connection.execute(asked).fetchall():
            getattr(found[run_id].data, kind)[key] = value


def _from_metrics(engine: Any, key: str, run_ids: Sequence[str]) -> dict[str, list[Past]]:
    from sqlalchemy import false, select

    told = _table("metrics", "run_uuid", "timestamp", "step", "value", "key", "is_nan")
    points: dict[str, list[Past]] = {run_id: [] for run_id in run_ids}
    with engine.connect() as connection:
        for first in range(0, len(run_ids), _AT_ONCE):
            part = list(run_ids[first : first + _AT_ONCE])
            asked = select(told.c.run_uuid, told.c.timestamp, told.c.step, told.c.value).where(
                told.c.run_uuid.in_(part), told.c.key == key, told.c.is_nan == false()
            )
            for run_id, time_ms, step, value in connection.execute(asked).fetchall():
                points[run_id].append(Past(time_ms, step, value))
    return points


def _table(name: str, *columns: str) -> Any:
    """One of MLflow's, with those columns that are asked for; SQLAlchemy quotes what has to be quoted."""
    from sqlalchemy import Boolean, column, table

    return table(name, *(column(each, Boolean) if each == "is_nan" else column(each) for each in columns))
