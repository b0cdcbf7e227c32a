"""In which keys runs side by side differ: what a sweep swept, without what merely follows from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol, TypeVar

from orchestrator.ledger.mlflow.runs import RunRow

# Of the place and the name of a run, not of its training; cluster, GPUs and model have columns of their own.
_BESIDE = (
    "run_", "owner", "project", "cost_center", "calibration", "ray_address", "job.name", "job.resume",
    "job.checkpoint_dir", "model.", "cluster.", "gpu.", "fabric.", "tracking.", "launch.", "metrics.",
    "placement.", "planner.", "snapshot.", "kueue.", "budget_usd", "deadline_days",
)  # fmt: skip
# What a plan makes of other keys.
_DERIVED = ("layout.", "deepspeed")


class _Row(Protocol):
    @property
    def job(self) -> str | None: ...
    @property
    def model(self) -> str | None: ...


_R = TypeVar("_R", bound=_Row)


def comparable(rows: Sequence[_R]) -> list[list[_R]]:
    """The runs by job and model, in their order: a value of one is better than another's only among these."""
    groups: dict[tuple[str | None, str | None], list[_R]] = {}
    for row in rows:
        groups.setdefault((row.job, row.model), []).append(row)
    return list(groups.values())


def with_differences(rows: Sequence[RunRow]) -> list[RunRow]:
    """The same runs, each with those of its settings in which comparable ones differ."""
    keys = differing(rows)
    return [
        replace(row, settings={key: row.settings[key] for key in keys if key in row.settings}) for row in rows
    ]


def differing(rows: Sequence[RunRow]) -> list[str]:
    """The keys in which comparable runs differ; of several that say the same, the one that is not derived,
    and the shortest."""
    found: dict[tuple[object, ...], str] = {}
    explained = {_alike([row.gpus for row in rows]), _alike([row.cluster for row in rows])}
    for key in sorted(_keys(rows), key=lambda key: (key.startswith(_DERIVED), len(key), key)):
        values = [row.settings.get(key) for row in rows]
        if key.startswith(_DERIVED) and _alike(values) in explained:
            continue
        explained.add(_alike(values))
        found.setdefault(tuple(values), key)
    return sorted(found.values())


def _keys(rows: Sequence[RunRow]) -> set[str]:
    keys: set[str] = set()
    for group in comparable(rows):
        settings: list[Mapping[str, str]] = [row.settings for row in group if row.settings]
        names = {name for one in settings for name in one if not name.startswith(_BESIDE)}
        keys |= {name for name in names if len({one.get(name) for one in settings}) > 1}
    return keys


def _alike(values: Sequence[object]) -> tuple[int, ...]:
    """Which of the values are equal, whatever they are."""
    first: dict[object, int] = {}
    return tuple(first.setdefault(value, place) for place, value in enumerate(values))
