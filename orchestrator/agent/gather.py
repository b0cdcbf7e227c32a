"""Many ranks' words become one: the same fold on each node and then on the driver.

It has no regard to order: a node sends one message for its eight ranks, and the driver's loss does not depend
on which node answered first.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TypeVar, cast, overload

from orchestrator.agent.messages import Gathered, RanksLoaded, RanksPeaked, RanksSaved, RanksStepped
from orchestrator.rank.messages import Loaded, MemoryPeak, Saved, Staged, StepTaken

# Ranks are a step apart, or a few: what waits for longer is of ranks that say nothing.
MOST_WAITING = 1000
# Ranks of which all have the same to say.
MOST_NAMED = 8
# What a rank whose probes have failed does not tell.
_OF_PROBES = (RanksStepped, RanksPeaked)
_Number = TypeVar("_Number", int, float)


class Gather:
    """Waits until parts of the same kind and step cover ``expected`` ranks, then folds them into one.

    An older step that stayed incomplete is dropped once a newer one is whole: a rank that says
    nothing at one step must not make the gatherer grow.
    """

    def __init__(self, expected: int) -> None:
        self.expected = expected
        self._excused = 0
        self._waiting: dict[tuple[type, int], list[Gathered]] = {}  # in the order in which they began
        # ranks; counted anew, they would be n² for n nodes
        self._covered: Counter[tuple[type, int]] = Counter()

    def excuse(self) -> int:
        """Counts one rank that tells no more of its steps; returns how many still do. What it saves and loads
        it tells all the same."""
        self._excused = min(self.expected, self._excused + 1)
        return self.expected - self._excused

    def _needed(self, kind: type) -> int:
        return self.expected - (self._excused if kind in _OF_PROBES else 0)

    def add(self, part: Gathered) -> Gathered | None:
        """Returns the folded part if this one completed it."""
        key = kind, step = type(part), part.step
        parts = self._waiting.setdefault(key, [])
        parts.append(part)
        self._covered[key] += part.ranks
        if self._covered[key] < self._needed(kind):
            if len(self._waiting) > MOST_WAITING:
                oldest = next(iter(self._waiting))
                del self._waiting[oldest], self._covered[oldest]
            return None
        self._waiting = {k: v for k, v in self._waiting.items() if k[0] is not kind or k[1] > step}
        self._covered = Counter({k: self._covered[k] for k in self._waiting})
        return folded(parts)


def part_of(rank: int, message: StepTaken | Saved | Staged | Loaded | MemoryPeak) -> Gathered:
    """Returns what a rank has said, as a part of one rank."""
    match message:
        case StepTaken():
            local_time_s = message.local_time_s
            not_finite = message.loss is not None and not math.isfinite(message.loss) and not message.skipped
            return RanksStepped(
                step=message.step,
                ranks=1,
                losses=() if message.loss is None else (message.loss,),
                lr=message.lr,
                grad_norm=message.grad_norm,
                skipped=message.skipped,
                step_time_s=message.step_time_s,
                slowest=None if local_time_s is None else (local_time_s, rank),
                local_time_sum_s=local_time_s,
                not_finite=(rank,) if not_finite else (),
                not_finite_ranks=int(not_finite),
            )
        case Saved() | Staged():
            staged = isinstance(message, Staged)
            return RanksSaved(message.step, 1, message.tag, message.dir, message.seconds, staged)
        case Loaded():
            return RanksLoaded(message.step, 1, message.tag, message.dir, message.seconds)
        case MemoryPeak():
            return RanksPeaked(message.step, 1, message.peak_bytes)


def folded(parts: Sequence[Gathered]) -> Gathered:
    """Returns parts of one kind and step as one of all their ranks."""
    match parts[0]:
        case RanksStepped():
            return fold_steps(cast(Sequence[RanksStepped], parts))
        case RanksPeaked() as first:  # the fullest rank counts: it is the one that does not fit
            peaks = (part.peak_bytes for part in cast(Sequence[RanksPeaked], parts))
            return RanksPeaked(first.step, sum(part.ranks for part in parts), _greatest(peaks))
        case first:  # training stood still as long as the slowest rank took
            seconds = max(part.seconds for part in cast(Sequence[RanksSaved | RanksLoaded], parts))
            return replace(first, ranks=sum(part.ranks for part in parts), seconds=seconds)


def fold_steps(parts: Sequence[RanksStepped]) -> RanksStepped:
    """Losses are put in order, so it does not matter in which they came; the slowest rank counts."""
    slowest = [part.slowest for part in parts if part.slowest is not None]
    known = len(slowest) == len(parts)
    return RanksStepped(
        step=parts[0].step,
        ranks=sum(part.ranks for part in parts),
        losses=tuple(sorted(loss for part in parts for loss in part.losses)),
        lr=_greatest(part.lr for part in parts),
        grad_norm=_greatest(part.grad_norm for part in parts),
        skipped=any(part.skipped for part in parts),
        step_time_s=max(part.step_time_s for part in parts),
        slowest=max(slowest) if known else None,
        local_time_sum_s=math.fsum(part.local_time_sum_s or 0.0 for part in parts) if known else None,
        not_finite=tuple(sorted(rank for part in parts for rank in part.not_finite)[:MOST_NAMED]),
        not_finite_ranks=sum(part.not_finite_ranks for part in parts),
    )


def mean_loss(losses: Sequence[float]) -> float | None:
    """Returns the mean of the ranks' losses, or None where no rank said one; infinite or NaN where one of
    them is, or where the sum is larger than a number can be."""
    if not losses:
        return None
    try:
        return math.fsum(losses) / len(losses)
    except (OverflowError, ValueError):
        return sum(losses) / len(losses)


@overload
def shortened(value: float, digits: int) -> float: ...


@overload
def shortened(value: float | None, digits: int) -> float | None: ...


def shortened(value: float | None, digits: int) -> float | None:
    """Rounds to so many significant digits: a loss in 32 bits has seven, and a journal keeps millions of
    them."""
    return None if value is None else float(f"{value:.{digits}g}")


def slowest_phase(phases: Iterable[str], order: Sequence[str]) -> str | None:
    """Returns the phase that the rank furthest behind is in; unknown phases count as the last."""
    known = {name: index for index, name in enumerate(order)}
    return min(phases, key=lambda phase: known.get(phase, len(order)), default=None)


def _greatest(values: Iterable[_Number | None]) -> _Number | None:
    return max((value for value in values if value is not None), default=None)
