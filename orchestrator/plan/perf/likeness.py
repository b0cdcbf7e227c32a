"""How sure a step time is: by how much runs like it were off, and how much less is known where none is like
it.

Runs are alike by accelerator, precision, framework, what they divide, experts and scale. Each difference is a
step; with each, a published run counts for less, and the range becomes wider. Every table counts for as much
as its run that is most alike, so that one with many rows does not speak for all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.config.evidence import EvidenceConfig
from orchestrator.config.schema import ModelConfig, PlannerConfig
from orchestrator.errors import ConfigError
from orchestrator.plan.layout.layout import Layout

PERCENTILES = (10, 30, 50, 70, 90)
SHARE = 0.8  # of the runs like it that a range is to hold
# Steps by which runs differ.
_DIFFERENCES = {"architecture": 1.0, "experts": 1.0, "precision": 0.7, "framework": 0.7, "parallelism": 0.7}
_SHARDING = frozenset({"deepspeed", "fsdp"})  # both gather what they have sharded, with torch's own kernels
_DIVIDED = ("data", "tensor", "pipeline")
_TENFOLD = 0.35  # ranks ten times as many, or as few
MOST_STEPS = 2.5
MOST_WIDENING = 2.0  # a factor of e² on either side
# Runs within so few steps are called like a plan.
ALIKE = 0.8
# Models are about as wide up to twice or half the width, as a power of two.
ALIKE_WIDTHS = 1.0


@dataclass(frozen=True)
class Kind:
    """What makes runs alike."""

    architecture: str
    precision: str
    framework: str
    parallelism: str
    experts: bool
    ranks: int


@dataclass(frozen=True)
class Likeness:
    """Factors on a predicted step time between which eight of ten runs like it lie; ``nearest`` is the
    published kind that is most alike, so many ``steps`` away."""

    low: float
    high: float
    steps: float
    nearest: EvidenceConfig | None

    @property
    def alike(self) -> bool:
        return self.nearest is not None and self.steps <= ALIKE


def kind_of(model: ModelConfig, architecture: str, precision: str, layout: Layout) -> Kind:
    """Of a layout of a model on accelerators of an architecture."""
    divided = "pipeline" if layout.pp > 1 else "tensor" if layout.tp > 1 else "data"
    return Kind(architecture, width_of(precision), layout.framework, divided, model.experts > 1, layout.ranks)


def width_of(precision: str) -> str:
    """The precision as far as rates go by it."""
    return "16-bit" if precision in ("bf16", "fp16") else precision


def likeness(kind: Kind, planner: PlannerConfig) -> Likeness:
    """Of a plan to the published runs on record. Raises ConfigError for a record that says nothing."""
    _check(planner)
    return of_evidence(kind, planner.evidence or (), planner.range_widening, planner.step_time_error)


def _check(planner: PlannerConfig) -> None:
    widening = planner.range_widening
    if not 0 <= widening <= MOST_WIDENING:
        raise ConfigError(
            f"planner.range_widening={widening}: must be from 0 to {MOST_WIDENING:g}; leave it out"
        )
    for one in planner.evidence or ():
        measured = bool(one.ratios) and all(0 < ratio < math.inf for ratio in one.ratios)
        if not (measured and one.parallelism in _DIVIDED and one.ranks >= 1 and one.rows >= 1):
            raise ConfigError(
                f"planner.evidence: of table {one.table} has parallelism {one.parallelism} (one of"
                f" {', '.join(_DIVIDED)}), ratios {one.ratios} (above 0, one at least), ranks {one.ranks} and"
                f" rows {one.rows} (1 or more); leave it out, or planner.evidence=[]"
            )


def of_evidence(
    kind: Kind,
    evidence: Sequence[EvidenceConfig],
    widening: float,
    mean_error: float,
    share: float = SHARE,
) -> Likeness:
    """Without evidence the range is the mean error of all published runs."""
    if not evidence:
        return Likeness(1 / (1 + mean_error), 1 / (1 - mean_error), math.inf, None)
    steps = [steps_between(kind, one) for one in evidence]
    nearest = min(range(len(evidence)), key=steps.__getitem__)
    logs, weights = [], []
    for one, weight in zip(evidence, _weights(evidence, steps), strict=True):
        logs += [math.log(ratio) for ratio in one.ratios]
        weights += [weight / len(one.ratios)] * len(one.ratios)
    low, high = quantile(logs, weights, (1 - share) / 2), quantile(logs, weights, (1 + share) / 2)
    further = widening * (1 + steps[nearest])
    return Likeness(
        math.exp(min(0.0, low) - further),
        math.exp(max(0.0, high) + further),
        steps[nearest],
        evidence[nearest],
    )


def _weights(evidence: Sequence[EvidenceConfig], steps: Sequence[float]) -> list[float]:
    """Of each kind: its table's likeness, divided among the table's kinds by theirs and their rows."""
    own = [math.sqrt(one.rows) * math.exp(-step) for one, step in zip(evidence, steps, strict=True)]
    tables: dict[str, list[int]] = {}
    for place, one in enumerate(evidence):
        tables.setdefault(one.table, []).append(place)
    found = [0.0] * len(evidence)
    for places in tables.values():
        likest = math.exp(-min(steps[place] for place in places))
        whole = math.fsum(own[place] for place in places)
        for place in places:
            found[place] = likest * own[place] / whole
    return found


def steps_between(kind: Kind, one: EvidenceConfig) -> float:
    """How unlike they are."""
    apart = sum(
        step
        for name, step in _DIFFERENCES.items()
        if name != "parallelism" and getattr(kind, name) != getattr(one, name)
    )
    if kind.framework != one.framework and {kind.framework, one.framework} == _SHARDING:
        apart -= _DIFFERENCES["framework"] / 2
    divided = abs(_DIVIDED.index(kind.parallelism) - _DIVIDED.index(one.parallelism))
    scale = abs(math.log10(max(1, kind.ranks) / max(1, one.ranks)))
    return min(MOST_STEPS, apart + _DIFFERENCES["parallelism"] * divided / 2 + _TENFOLD * scale)


def quantile(values: Sequence[float], weights: Sequence[float], share: float) -> float:
    """Of weighed values, between them in proportion."""
    ordered = sorted(zip(values, weights, strict=True))
    whole, below = math.fsum(weights), 0.0
    before: tuple[float, float] | None = None
    for value, weight in ordered:
        middle = (below + weight / 2) / whole
        if middle >= share:
            if before is None:
                return value
            place, earlier = before
            part = (share - place) / (middle - place) if middle > place else 0.0
            return earlier + part * (value - earlier)
        before, below = (middle, value), below + weight
    return ordered[-1][0]


def differences(kind: Kind, one: EvidenceConfig) -> list[str]:
    """In words, by what the nearest published runs differ from a plan."""
    words = []
    if kind.architecture != one.architecture:
        words.append(f"{one.architecture or 'another'} in place of {kind.architecture or 'this'} GPUs")
    if kind.precision != one.precision:
        words.append(f"{one.precision} in place of {kind.precision}")
    if kind.framework != one.framework:
        words.append(f"{one.framework} in place of {kind.framework}")
    if kind.parallelism != one.parallelism:
        words.append(f"{one.parallelism} in place of {kind.parallelism} parallelism")
    if kind.experts != one.experts:
        words.append("experts" if one.experts else "no experts")
    if abs(math.log10(max(1, kind.ranks) / max(1, one.ranks))) > 1:
        words.append(f"{one.ranks:,} in place of {kind.ranks:,} ranks")
    return words


def best_mfu(planner: PlannerConfig, kind: Kind, hidden: int) -> float | None:
    """The most that any published run of these accelerators in this precision measured, of models about as
    wide and alike in experts where there are any; None without one."""
    same = [
        one
        for one in planner.best_published or ()
        if one.architecture == kind.architecture and one.precision == kind.precision
    ]
    shape = [
        one
        for one in same
        if one.experts == kind.experts and abs(math.log2(hidden / one.hidden)) <= ALIKE_WIDTHS
    ]
    if same:
        return max(one.mfu for one in shape or same)
    found = [
        one.best_mfu
        for one in planner.evidence or ()
        if one.architecture == kind.architecture and one.precision == kind.precision
    ]
    return max(found, default=None)
