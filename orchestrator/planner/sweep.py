"""The plans of a sweep side by side: what varies, what each takes and costs, and which are worth a
thought."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

from orchestrator.plan.forecast.prediction import bound_of
from orchestrator.plan.plan import Plan
from orchestrator.redact import redact
from orchestrator.text import UNKNOWN

LONGEST_VALUE = 32


@dataclass(frozen=True)
class PlannedPoint:
    """One point of a sweep: its overrides, ``KEY=VALUE`` each, and its plan, or why it is refused."""

    overrides: tuple[str, ...]
    plan: Plan | None
    refused: str = ""


@dataclass(frozen=True)
class Sweep(Sequence[PlannedPoint]):
    """The points of a sweep, in its order."""

    points: tuple[PlannedPoint, ...]

    @property
    def rows(self) -> list[PlanRow]:
        """What is compared of the possible plans, those of the Pareto front marked."""
        return rows_of(self.points)

    @overload
    def __getitem__(self, place: int) -> PlannedPoint: ...

    @overload
    def __getitem__(self, place: slice) -> Sweep: ...

    def __getitem__(self, place: int | slice) -> PlannedPoint | Sweep:
        return Sweep(self.points[place]) if isinstance(place, slice) else self.points[place]

    def __len__(self) -> int:
        return len(self.points)


@dataclass(frozen=True)
class PlanRow:
    """One possible plan; None is not predicted. ``memory_share`` is of one accelerator's memory, ``goodput``
    the share of the run's time that is not lost to interruptions, ``bill`` the way of paying that
    ``cost_usd`` is by, ``capital_usd`` what buys the nodes first where that is to own them. ``pareto`` is
    among the plans that are paid alike: dollars of rent and of a machine's share are not the same."""

    overrides: dict[str, str]
    days: float | None
    gpu_hours: float | None
    cost_usd: float | None
    bill: str
    tokens_per_s_per_gpu: float | None
    mfu: float | None
    memory_share: float | None
    goodput: float | None
    bound_by: str
    layout: str
    unit: str
    capital_usd: float | None = None
    pareto: bool = False

    @property
    def predicted(self) -> bool:
        """Whether there are a time and a cost to compare."""
        return self.days is not None and self.cost_usd is not None


def row_of(overrides: Sequence[str], plan: Plan) -> PlanRow:
    """What is compared of a plan. Time and cost are of the whole run, interruptions included."""
    predicted = plan.prediction
    return PlanRow(
        overrides=values_of(overrides),
        days=None if predicted.hours is None else predicted.hours / 24,
        gpu_hours=predicted.gpu_hours,
        cost_usd=predicted.cost_usd,
        bill=predicted.costs[0].paid if predicted.costs else "",
        capital_usd=predicted.costs[0].capital_usd if predicted.costs else None,
        tokens_per_s_per_gpu=predicted.tokens_per_s_per_gpu,
        mfu=predicted.mfu,
        memory_share=None if plan.memory is None else plan.memory.total_bytes / plan.gpu_memory_bytes,
        goodput=None if predicted.forecast is None else predicted.forecast.goodput,
        bound_by=bound_of(predicted.step) if predicted.step else UNKNOWN,
        layout=plan.layout.degrees,
        unit=plan.unit,
    )


def values_of(overrides: Sequence[str]) -> dict[str, str]:
    """``["+env.A=1", "model=x"]`` → ``{"env.A": "1", "model": "x"}``, secrets hidden."""
    pairs = (override.partition("=") for override in overrides)
    named = ((key.lstrip("+~"), value.strip("'\"")) for key, _, value in pairs)
    return {key: str(redact(value, key)) for key, value in named}


def hide_secrets(overrides: Sequence[str]) -> list[str]:
    """The overrides as they were given, but for secrets."""
    pairs = (override.partition("=") for override in overrides)
    return [f"{key}{equals}{redact(value, key)}" for key, equals, value in pairs]


def rows_of(points: Sequence[PlannedPoint]) -> list[PlanRow]:
    """The possible plans in the order of the sweep, the Pareto front of each way of paying marked."""
    rows = [row_of(point.overrides, point.plan) for point in points if point.plan is not None]
    front: set[int] = set()
    for bill in bills_of(rows):
        front |= pareto_front([(row.cost_usd if row.bill == bill else None, row.days) for row in rows])
    return [dataclasses.replace(row, pareto=place in front) for place, row in enumerate(rows)]


def bills_of(rows: Sequence[PlanRow]) -> list[str]:
    """The ways of paying, what is rented first and what is bought last."""
    bought = {row.bill: row.capital_usd is not None for row in rows if row.predicted}
    return sorted(bought, key=lambda bill: (bought[bill], bill))


def cheapest_first(rows: Sequence[PlanRow]) -> list[PlanRow]:
    """What is rented, then what is bought, then those without a prediction; by cost, then by time."""
    return sorted(
        rows,
        key=lambda row: (
            not row.predicted, row.capital_usd is not None, row.cost_usd or 0.0, row.days or 0.0,
        ),
    )  # fmt: skip


def pareto_front(costs_and_times: Sequence[tuple[float | None, float | None]]) -> set[int]:
    """Places of the points that no other undercuts in one without exceeding it in the other.

    Of equal points the first is kept; points that lack a figure are never on the front.
    """
    known = [
        (cost, time, place)
        for place, (cost, time) in enumerate(costs_and_times)
        if cost is not None and time is not None
    ]
    front: set[int] = set()
    fastest: float | None = None
    for _cost, time, place in sorted(known):
        if fastest is None or time < fastest:
            front.add(place)
            fastest = time
    return front


def varying_keys(overrides: Sequence[dict[str, str]]) -> list[str]:
    """The keys whose values differ between points, in the order of the command line; all of them where none
    does."""
    keys = list(dict.fromkeys(key for values in overrides for key in values))
    return [key for key in keys if len({values.get(key) for values in overrides}) > 1] or keys


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """The last part of each key, and the whole key where that would be said of two."""
    last = [key.rpartition(".")[2] for key in keys]
    return {key: name if last.count(name) == 1 else key for key, name in zip(keys, last, strict=True)}


def label(values: dict[str, str], keys: Sequence[str], names: dict[str, str]) -> str:
    """One point in words: a name stands for itself, ``azure_nd_h100_v5, nodes=8``."""
    words = ((names[key], short(values[key])) for key in keys if key in values)
    return ", ".join(value if names_itself(value) else f"{name}={value}" for name, value in words)


def short(value: str) -> str:
    """A long value, a path as a rule, without its middle."""
    return value if len(value) <= LONGEST_VALUE else f"{value[:10]}…{value[11 - LONGEST_VALUE :]}"


def names_itself(value: str) -> bool:
    """Whether a value says by itself what it is of; numbers and yes or no do not."""
    return bool(value) and not is_number(value) and value.lower() not in ("true", "false", "null")


def is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True
