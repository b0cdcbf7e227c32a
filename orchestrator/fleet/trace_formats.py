"""Traces as others write them, read into jobs. What cannot be a job is refused by its line.

Known by what stands at their beginning: our own CSV, Muri's, that of Acme (Shanghai AI Laboratory), what
`sacct -P` of Slurm prints, the JSON of Microsoft's Philly, and that of
`kubectl get workloads -o json` with Kueue.
"""

from __future__ import annotations

import csv
import datetime
import io
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from orchestrator.errors import ConfigError
from orchestrator.fleet.trace import UNSAID_USD_PER_HOUR, TraceJob, in_order

Row = Mapping[str, Any]
OURS = ("submit_time_s", "duration_s", "gpus")
_NAMES = ("job", "key", "job_id", "name", "id")  # columns of ours that name a job, if it has one of them
_MURI = ("num_gpu", "submit_time", "iterations", "model_name", "duration")
_ACME = ("job_id", "gpu_num", "submit_time", "duration")
_SACCT = ("JobID", "Submit", "ElapsedRaw")
_GPUS_OF_TRES = re.compile(r"gres/gpu=(\d+)")
_KUEUE_GPU = "nvidia.com/gpu"


def read_trace(text: str, name: str) -> list[TraceJob]:
    """The jobs of a trace, by submission, the first at 0 s. ``name`` is the file's, for what is refused."""
    text = text.removeprefix("\ufeff")  # spreadsheets write one
    is_json = text.lstrip()[:1] in ("[", "{")
    jobs = _of_json(text, name) if is_json else _of_table(text, name)
    if not jobs:
        raise ConfigError(f"{name}: it has no job that ran on a GPU")
    ordered = in_order(jobs)
    zero = ordered[0].submit_s
    return [_later(job, -zero) for job in ordered] if zero else ordered


def _later(job: TraceJob, by_s: float) -> TraceJob:
    return replace(job, submit_s=job.submit_s + by_s)


def _of_table(text: str, name: str) -> list[TraceJob]:
    head = text.split("\n", 1)[0].strip()
    names = head.split("|" if "|" in head else ",")
    for columns, made in _TABLES:
        if all(column in names for column in columns):
            return _each(_rows(text, "|" if "|" in head else ",", name), made, name, "line")
    known = f"{','.join(OURS)}, or the header of Muri, Acme or sacct -P"
    raise ConfigError(f"{name}, line 1: {head[:80]!r} is no trace's header; it takes {known}")


def _rows(text: str, delimiter: str, name: str) -> Iterator[tuple[int, Row]]:
    """Each row with its line, by the reader's own count: it leaves out empty lines."""
    rows = csv.DictReader(io.StringIO(text), delimiter=delimiter)
    try:
        for row in rows:
            yield rows.line_num, row
    except csv.Error as error:
        raise ConfigError(f"{name}, line {rows.line_num}: {error}") from None


def _of_json(text: str, name: str) -> list[TraceJob]:
    try:
        body = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{name}: it begins as JSON and is none: {error}") from None
    if isinstance(body, dict) and isinstance(body.get("items"), list):
        return _each(enumerate(body["items"], 1), _kueue, name, "item")
    if isinstance(body, list):
        return _each(enumerate(body, 1), _philly, name, "item")
    raise ConfigError(f"{name}: it is JSON, but neither Philly's list of jobs nor Kueue's list of workloads")


def _each(
    rows: Iterable[tuple[int, Any]], made: Callable[[Row, str], TraceJob | None], name: str, unit: str
) -> list[TraceJob]:
    jobs = []
    for number, row in rows:
        place = f"{unit} {number}"
        try:
            job = made(row, place)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            why = f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)
            raise ConfigError(f"{name}, {place}: {why}") from None
        if job is not None:
            jobs.append(replace(job, place=place))
    return jobs


def _number(row: Row, column: str, *, least: float = 0.0, above: bool = False) -> float:
    word = row[column]
    if word is None or not str(word).strip():
        raise ValueError(f"{column} is missing")
    try:
        value = float(word)
    except (TypeError, ValueError):
        raise ValueError(f"{column}={word} is not a number") from None
    if not math.isfinite(value) or value < least or (above and value <= least):
        bound = f"above {least:g}" if above else f"{least:g} or more"
        raise ValueError(f"{column}={word} has to be {bound}")
    return value


def _gpus(row: Row, column: str) -> int:
    value = _number(row, column)
    if value != int(value):
        raise ValueError(f"{column}={row[column]} has to be a whole number")
    return int(value)


def _ours(row: Row, place: str) -> TraceJob | None:
    gpus = _gpus(row, "gpus")
    if not gpus:
        raise ValueError("gpus=0 has to be 1 or more")
    team = row.get("team") or row.get("user_vc") or ""
    model = row.get("model") or row.get("user_vc") or ""
    submit_s, duration_s = _number(row, "submit_time_s"), _number(row, "duration_s", above=True)
    state = row.get("final_state") or "unknown"
    key = next((row[name] for name in _NAMES if row.get(name)), place)
    return TraceJob(
        key, submit_s, duration_s, gpus, team, model, state,
        _number(row, "usd_per_hour", above=True) if row.get("usd_per_hour") else UNSAID_USD_PER_HOUR,
    )  # fmt: skip


def _muri(row: Row, place: str) -> TraceJob | None:
    gpus = _gpus(row, "num_gpu")
    submit_s, duration_s = _number(row, "submit_time") / 1e3, _number(row, "duration", above=True) / 1e3
    return TraceJob(row.get("job_id") or place, submit_s, duration_s, gpus, model=row["model_name"])


def _acme(row: Row, place: str) -> TraceJob | None:
    gpus = _gpus(row, "gpu_num")
    duration_s = _number(row, "duration")
    if not gpus or not duration_s:  # cancelled before it ran, or a job of processors alone
        return None
    submit_s = _moment(row["submit_time"])
    state = (row.get("state") or "unknown").lower()
    return TraceJob(
        row["job_id"], submit_s, duration_s, gpus, row.get("user") or "", row.get("type") or "", state
    )


def _sacct(row: Row, place: str) -> TraceJob | None:
    tres = row.get("AllocTRES") or row.get("ReqTRES") or ""
    found = _GPUS_OF_TRES.search(tres)
    if "." in row["JobID"] or found is None:  # a step of a job, or one without GPUs
        return None
    elapsed_s = _number(row, "ElapsedRaw")
    if not elapsed_s:
        return None
    state = (row.get("State") or "unknown").split(" ")[0].lower()
    return TraceJob(
        row["JobID"],
        _moment(row["Submit"]),
        elapsed_s,
        int(found.group(1)),
        row.get("Account") or "",
        state=state,
    )


def _philly(row: Row, place: str) -> TraceJob | None:
    attempts = [each for each in row["attempts"] if each.get("start_time") and each.get("end_time")]
    if not attempts:
        return None
    gpus = max(sum(len(node["gpus"]) for node in each["detail"]) for each in attempts)
    duration_s = sum(_moment(each["end_time"]) - _moment(each["start_time"]) for each in attempts)
    if duration_s < 0:
        raise ValueError(f"it ends {-duration_s:g} s before it starts")
    if not gpus or not duration_s:
        return None
    state = str(row.get("status", "unknown")).lower()
    return TraceJob(
        row["jobid"], _moment(row["submitted_time"]), duration_s, gpus, row.get("vc") or "", state=state
    )


def _kueue(row: Row, place: str) -> TraceJob | None:
    gpus = 0
    for pods in row["spec"]["podSets"]:
        containers = pods["template"]["spec"]["containers"]
        wanted = sum(
            int((each.get("resources", {}).get("requests") or {}).get(_KUEUE_GPU, 0)) for each in containers
        )
        gpus += wanted * int(pods.get("count", 1))
    at = {
        each["type"]: _moment(each["lastTransitionTime"])
        for each in row.get("status", {}).get("conditions", ())
        if each.get("status") == "True"
    }
    if not gpus or "Admitted" not in at or "Finished" not in at:
        return None
    duration_s = at["Finished"] - at["Admitted"]
    if duration_s < 0:
        raise ValueError(f"it finished {-duration_s:g} s before it was admitted")
    meta = row["metadata"]
    return TraceJob(
        meta["name"], _moment(meta["creationTimestamp"]), max(duration_s, 1.0), gpus,
        row["spec"].get("queueName") or meta.get("namespace") or "",
    )  # fmt: skip


def _moment(word: str) -> float:
    """Seconds since the epoch; a time without a zone counts as UTC, since only differences are used."""
    try:
        moment = datetime.datetime.fromisoformat(str(word).strip().replace("Z", "+00:00"))
    except ValueError:
        raise ValueError(f"{word!r} is not a time like 2023-08-01T12:00:00") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp()


_TABLES: Sequence[tuple[tuple[str, ...], Callable[[Row, str], TraceJob | None]]] = (
    (OURS, _ours),
    (_MURI, _muri),
    (_ACME, _acme),
    (_SACCT, _sacct),
)
