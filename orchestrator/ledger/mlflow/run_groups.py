"""Runs in groups that have the same value of a key: what each group took and reached, with its spread. Pure
but for the configuration's own defaults, which no run tells MLflow.

The runs of a group are those with other seeds, mostly. Means are of finished runs, since one that was
stopped is cheap and has learned little; what all of a group have cost, those too, is a sum beside it.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from orchestrator.errors import ConfigError, near_miss
from orchestrator.events import Status
from orchestrator.ledger.mlflow.runs import RunRow
from orchestrator.text import UNKNOWN

# Of a row's own, what runs can be grouped by.
ROW_KEYS = ("cluster", "gpus", "gpu_type", "job", "model", "status", "unit", "owner", "project", "restarts")
FIGURES = (
    "cost_usd", "gpu_hours", "hours", "cost_usd_per_million_tokens", "tokens_per_s", "mfu", "final_loss",
    "goodput", "actual_over_predicted_cost", "usd_to_loss", "gpu_hours_to_loss", "hours_to_loss",
)  # fmt: skip
# DeepSpeed's own names of what a plan decides, which MLflow has as a field of the layout.
_LAYOUT = {
    "deepspeed.zero_optimization.stage": "layout.zero_stage",
    "deepspeed.train_batch_size": "layout.global_batch",
    "deepspeed.train_micro_batch_size_per_gpu": "layout.micro_batch",
    "deepspeed.gradient_accumulation_steps": "layout.accumulation",
}


@dataclass(frozen=True)
class Spread:
    """One figure of the finished runs of a group that have it."""

    n: int  # how many have it
    mean: float  # of theirs
    deviation: float | None  # sample standard deviation; null of a single one


@dataclass(frozen=True)
class Group:
    """Runs that have the same values of the keys asked for."""

    values: dict[str, str]  # by key
    runs: int  # all of them
    finished: int  # those that the means are of
    cost_usd: float  # of all of them together
    reached: int  # those that came to the loss asked for
    figures: dict[str, Spread]  # by the name of a field of a run
    run_ids: tuple[str, ...]  # MLflow's


def grouped(rows: Sequence[RunRow], keys: Sequence[str]) -> list[Group]:
    """The groups, in the order of their values. Jobs and models are kept apart, whatever is asked: a loss of
    one says nothing of another's.

    Raises :class:`ConfigError` for a key that neither a run nor the configuration has.
    """
    keys = _apart(rows, list(dict.fromkeys(keys)))
    read = {key: _values(rows, key) for key in keys}
    found: dict[tuple[str, ...], list[RunRow]] = {}
    for place, row in enumerate(rows):
        found.setdefault(tuple(read[key][place] for key in keys), []).append(row)
    ordered = sorted(found.items(), key=lambda item: [_natural(value) for value in item[0]])
    return [_group(dict(zip(keys, values, strict=True)), members) for values, members in ordered]


def _apart(rows: Sequence[RunRow], keys: list[str]) -> list[str]:
    """With the job and the model where several are among the runs."""
    asked = {"job": {"job", "job.name"}, "model": {"model", "model.name"}}
    several = [name for name in asked if len({getattr(row, name) for row in rows}) > 1]
    return [name for name in several if not asked[name] & set(keys)] + keys


def _values(rows: Sequence[RunRow], key: str) -> list[str]:
    """What each run has of a key: its own word, else what the configuration says where nobody says it."""
    if key in ROW_KEYS:
        return [UNKNOWN if (own := getattr(row, key)) is None else str(own) for row in rows]
    name = key if any(key in row.settings for row in rows) else _LAYOUT.get(key, key)
    told = [row.settings.get(name) for row in rows]
    if None not in told:
        return [str(value) for value in told]
    default = _default(key, {known for row in rows for known in row.settings})
    return [default if value is None else value for value in told]


def _default(key: str, told: Iterable[str]) -> str:
    """What is not told is at its default, or follows from a name. Raises :class:`ConfigError`."""
    from orchestrator.config import load

    known, defaults = set(told), load.flatten(load.defaults())
    if key not in known and key not in defaults:
        names = sorted({*known, *ROW_KEYS, *defaults})
        raise ConfigError(
            f"--by {key}: no run has it and no key of the configuration is called so{near_miss(key, names)};"
            f" {', '.join(ROW_KEYS)}, or a key as --cfg job prints them"
        )
    return UNKNOWN if defaults.get(key) is None else str(defaults[key])


def _group(values: dict[str, str], rows: Sequence[RunRow]) -> Group:
    finished = [row for row in rows if row.status == Status.FINISHED]
    spreads = {name: _spread([getattr(row, name) for row in finished]) for name in FIGURES}
    return Group(
        values=values,
        runs=len(rows),
        finished=len(finished),
        cost_usd=sum(row.cost_usd or 0.0 for row in rows),
        reached=sum(row.usd_to_loss is not None for row in rows),
        figures={name: spread for name, spread in spreads.items() if spread is not None},
        run_ids=tuple(row.run_id for row in rows),
    )


def _spread(values: Iterable[float | None]) -> Spread | None:
    known = [float(value) for value in values if value is not None]
    if not known:
        return None
    return Spread(len(known), statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None)


def _natural(value: str) -> tuple[int, float, str]:
    """Numbers by their size, before words."""
    try:
        return (0, float(value), value)
    except ValueError:
        return (1, 0.0, value)
