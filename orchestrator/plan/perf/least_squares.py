"""Least squares of relative errors, for a few unknowns within bounds and a few samples, one of which may be
odd."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

Bounds = tuple[float, float]
# Of four or more samples, one that lies off by so much, and by so many times what the others do, is left out.
LEAST_SAMPLES, OUTLYING, TIMES_THE_OTHERS, LEAST_SPOILT, MOST_LEFT_OUT = 4, 0.5, 4.0, 0.05, 0.25
_SINGULAR = 1e-10


@dataclass(frozen=True)
class Sample:
    """``actual``, above 0, is to come out as the sum of unknowns x ``parts``, and ``rest``; all in one
    unit."""

    parts: tuple[float, ...]
    rest: float
    actual: float

    def predicted(self, values: Sequence[float]) -> float:
        return math.fsum(value * part for value, part in zip(values, self.parts, strict=True)) + self.rest

    def error(self, values: Sequence[float]) -> float:
        """Relative to what was measured."""
        return self.predicted(values) / self.actual - 1.0


@dataclass(frozen=True)
class Fit:
    """``values`` of the unknowns; ``left_out`` are places of samples that no such law explains."""

    values: tuple[float, ...]
    left_out: tuple[int, ...] = ()


def fit(samples: Sequence[Sample], bounds: Sequence[Bounds]) -> Fit:
    """The values within ``bounds`` with the least sum of squared relative errors. One end of each bound is
    finite."""
    kept = list(range(len(samples)))
    for _ in range(int(MOST_LEFT_OUT * len(samples))):
        found = _odd_one(samples, kept, bounds)
        if found is None:
            break
        kept.remove(found)
    values = least_squares([samples[place] for place in kept], bounds)
    return Fit(values, tuple(place for place in range(len(samples)) if place not in kept))


def _odd_one(samples: Sequence[Sample], kept: Sequence[int], bounds: Sequence[Bounds]) -> int | None:
    """The sample without which the others agree best, if they then disagree with it."""
    if len(kept) < LEAST_SAMPLES:
        return None
    found: list[tuple[float, int, float]] = []
    for place in kept:
        others = [samples[other] for other in kept if other != place]
        values = least_squares(others, bounds)
        # By a factor: one that took ten times as long is off by less than 1 relative to itself.
        off = abs(math.log(max(samples[place].predicted(values) / samples[place].actual, 1e-12)))
        found.append((_typical_error(others, values), place, off))
    among, place, off = min(found)
    together = [samples[each] for each in kept]
    # A law may be known from one sample alone, which then disagrees with the others' without spoiling theirs.
    spoilt = _typical_error(together, least_squares(together, bounds))
    spoils = spoilt > max(LEAST_SPOILT, 2 * among)
    return place if spoils and off > max(OUTLYING, TIMES_THE_OTHERS * among) else None


def _typical_error(samples: Sequence[Sample], values: Sequence[float]) -> float:
    return math.sqrt(math.fsum(sample.error(values) ** 2 for sample in samples) / len(samples))


def least_squares(samples: Sequence[Sample], bounds: Sequence[Bounds]) -> tuple[float, ...]:
    """The sum is convex, so its least within the bounds is where its gradient along the unknowns that are
    free vanishes, the others being at an end of theirs: for a few unknowns all such choices are tried."""
    largest = [max(s.parts[place] / s.actual for s in samples) for place in range(len(bounds))]
    units = [1.0 / share if share > 0 else 1.0 for share in largest]  # keeps the equations of one size
    rows = [[u * part / s.actual for u, part in zip(units, s.parts, strict=True)] for s in samples]
    wanted = [1.0 - s.rest / s.actual for s in samples]
    scaled = [(low / unit, high / unit) for (low, high), unit in zip(bounds, units, strict=True)]
    ends = [[None] if low < high else [] for low, high in scaled]
    choices: list[list[float | None]] = [
        [*free, *(end for end in dict.fromkeys(bound) if math.isfinite(end))]
        for free, bound in zip(ends, scaled, strict=True)
    ]
    best: tuple[float, tuple[float, ...]] | None = None
    for choice in itertools.product(*choices):
        values = _solved(rows, wanted, choice)
        if values is None or not all(low <= v <= high for v, (low, high) in zip(values, scaled, strict=True)):
            continue
        squares = math.fsum(
            (math.fsum(v * x for v, x in zip(values, row, strict=True)) - want) ** 2
            for row, want in zip(rows, wanted, strict=True)
        )
        if best is None or squares < best[0]:
            best = squares, values
    assert best is not None, "all at their finite ends is a choice"
    return tuple(
        min(max(value * unit, low), high)
        for value, unit, (low, high) in zip(best[1], units, bounds, strict=True)
    )


def _solved(
    rows: Sequence[Sequence[float]], wanted: Sequence[float], fixed: Sequence[float | None]
) -> tuple[float, ...] | None:
    """The normal equations of the unknowns that are not fixed; None where the samples do not tell them
    apart."""
    free = [place for place, value in enumerate(fixed) if value is None]
    left = [
        want - math.fsum(value * row[place] for place, value in enumerate(fixed) if value is not None)
        for row, want in zip(rows, wanted, strict=True)
    ]
    matrix = [[math.fsum(row[i] * row[j] for row in rows) for j in free] for i in free]
    right = [math.fsum(row[i] * want for row, want in zip(rows, left, strict=True)) for i in free]
    solution = _cholesky(matrix, right)
    if solution is None:
        return None
    values = iter(solution)
    return tuple(next(values) if value is None else value for value in fixed)


def _cholesky(matrix: list[list[float]], right: list[float]) -> list[float] | None:
    """The solution of a symmetric system, None where it is singular as good as."""
    size = len(right)
    lower = [[0.0] * size for _ in range(size)]
    for i in range(size):
        for j in range(i + 1):
            rest = matrix[i][j] - math.fsum(lower[i][k] * lower[j][k] for k in range(j))
            if i == j:
                if rest <= _SINGULAR * matrix[i][i]:
                    return None
                lower[i][i] = math.sqrt(rest)
            else:
                lower[i][j] = rest / lower[j][j]
    solution = list(right)
    for i in range(size):
        solution[i] = (solution[i] - math.fsum(lower[i][k] * solution[k] for k in range(i))) / lower[i][i]
    for i in reversed(range(size)):
        solution[i] = (
            solution[i] - math.fsum(lower[k][i] * solution[k] for k in range(i + 1, size))
        ) / lower[i][i]
    return solution
