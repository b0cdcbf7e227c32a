"""How sure a step time is: by how much runs like it were off, and how much less is known where none is like
it.

Runs are alike by accelerator, precision, framework, what they divide, experts, scale and the model's width.
Each difference is a step; with each, a published run counts for less, and the range becomes wider. Every
table counts for as much as its run that is most alike, so that one with many rows does not speak for all.
What a step waits for its host is known less well than the rest: it depends on a processor that no plan
describes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

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
_TENFOLD = 0.35  # ranks ten times as many, or as few; matrices ten times as large, which is width squared
MOST_STEPS = 2.5
MOST_WIDENING = 2.0  # a factor of e² on either side
# By how much hosts differ in the time they take to start kernels, as a natural logarithm: a factor of two.
HOSTS_DIFFER_BY = 0.7
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
    hidden: int  # the model's width


@dataclass(frozen=True)
class Likeness:
    """Factors on a predicted step time between which eight of ten runs like it lie; ``nearest`` is the
    published kind that is most alike, so many ``steps`` away."""

    low: float
    high: float
    steps: float
    nearest: EvidenceConfig | None

    def waiting(self, host_share: float) -> Likeness:
        """The same for a step that waits so large a share of its time for the host."""
        if self.nearest is None:
            return self
        further = math.exp(HOSTS_DIFFER_BY * host_share)
        return replace(self, low=self.low / further, high=self.high * further)

    @property
    def alike(self) -> bool:
        return self.nearest is not None and self.steps <= ALIKE


def kind_of(model: ModelConfig, architecture: str, precision: str, layout: Layout) -> Kind:
    """Of a layout of a model on accelerators of an architecture."""
    divided = "pipeline" if layout.pp > 1 else "tensor" if layout.tp > 1 else "data"
    return Kind(
        architecture=architecture,
        precision=width_of(precision),
        framework=layout.framework,
        parallelism=divided,
        experts=model.experts > 1,
        ranks=layout.ranks,
        hidden=model.hidden,
    )


def width_of(precision: str) -> str:
    """The precision as far as rates go by it."""
    return "16-bit" if precision in ("bf16", "fp16") else precision


def likeness(kind: Kind, planner: PlannerConfig) -> Likeness:
    """Of a plan to the published runs on record. Raises ConfigError for a record that says nothing."""
    return Record.of(planner).likeness(kind)


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


class Record:
    """Published runs, sorted once for who asks of many kinds. Without any, the range is the mean error."""

    def __init__(self, evidence: Sequence[EvidenceConfig], widening: float, mean_error: float) -> None:
        self._evidence, self._widening, self._mean_error = evidence, widening, mean_error
        self._tables: dict[str, list[int]] = {}
        for place, one in enumerate(evidence):
            self._tables.setdefault(one.table, []).append(place)
        self._rows = [math.sqrt(one.rows) for one in evidence]
        points = [
            (math.log(ratio), place, 1 / len(one.ratios))
            for place, one in enumerate(evidence)
            for ratio in one.ratios
        ]
        self._points = sorted(points)

    @classmethod
    def of(cls, planner: PlannerConfig) -> Record:
        """What a configuration has on record. Raises ConfigError where that says nothing."""
        _check(planner)
        return cls(planner.evidence or (), planner.range_widening, planner.step_time_error)

    def likeness(self, kind: Kind, share: float = SHARE) -> Likeness:
        """Of a plan of some kind, its range to hold such a share of the runs like it."""
        if not self._evidence:
            return Likeness(1 / (1 + self._mean_error), 1 / (1 - self._mean_error), math.inf, None)
        steps = [steps_between(kind, one) for one in self._evidence]
        nearest = min(range(len(steps)), key=steps.__getitem__)
        weights = self._weights(steps)
        ordered = [(value, weights[place] * part) for value, place, part in self._points]
        further = self._widening * (1 + steps[nearest])
        return Likeness(
            math.exp(min(0.0, _quantile(ordered, (1 - share) / 2)) - further),
            math.exp(max(0.0, _quantile(ordered, (1 + share) / 2)) + further),
            steps[nearest],
            self._evidence[nearest],
        )

    def _weights(self, steps: Sequence[float]) -> list[float]:
        """Of each kind: its table's likeness, divided among the table's kinds by theirs and their rows."""
        likest = [math.exp(-step) for step in steps]
        found = [0.0] * len(steps)
        for places in self._tables.values():
            own = [self._rows[place] * likest[place] for place in places]
            each = max(likest[place] for place in places) / math.fsum(own)
            for place, weight in zip(places, own, strict=True):
                found[place] = each * weight
        return found


def of_evidence(
    kind: Kind,
    evidence: Sequence[EvidenceConfig],
    widening: float,
    mean_error: float,
    share: float = SHARE,
) -> Likeness:
    """Of a plan to published runs."""
    return Record(evidence, widening, mean_error).likeness(kind, share)


def steps_between(kind: Kind, one: EvidenceConfig) -> float:
    """How unlike they are."""
    apart = 0.0
    if kind.architecture != one.architecture:
        apart += _DIFFERENCES["architecture"]
    if kind.experts != one.experts:
        apart += _DIFFERENCES["experts"]
    if kind.precision != one.precision:
        apart += _DIFFERENCES["precision"]
    if kind.framework != one.framework:
        apart += _DIFFERENCES["framework"]
    if kind.framework != one.framework and {kind.framework, one.framework} == _SHARDING:
        apart -= _DIFFERENCES["framework"] / 2
    divided = abs(_DIVIDED.index(kind.parallelism) - _DIVIDED.index(one.parallelism))
    scale = abs(math.log10(max(1, kind.ranks) / max(1, one.ranks)))
    size = 2 * abs(math.log10(kind.hidden / one.hidden)) if one.hidden else 0.0
    return min(MOST_STEPS, apart + _DIFFERENCES["parallelism"] * divided / 2 + _TENFOLD * (scale + size))


def quantile(values: Sequence[float], weights: Sequence[float], share: float) -> float:
    """Of weighed values, between them in proportion."""
    return _quantile(sorted(zip(values, weights, strict=True)), share)


def _quantile(ordered: Sequence[tuple[float, float]], share: float) -> float:
    """Of values with their weights, the least first."""
    whole, below = math.fsum(weight for _, weight in ordered), 0.0
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
    if one.hidden and 2 * abs(math.log10(kind.hidden / one.hidden)) > 1:
        words.append(f"a width of {one.hidden:,} in place of {kind.hidden:,}")
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
