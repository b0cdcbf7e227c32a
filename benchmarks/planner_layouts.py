"""Whether the planner's model finds the best layout, where one model was measured in several on the same
GPUs.

    python -m benchmarks.planner_layouts

prints how well steps would rank each table's layouts that are right but for a random error of each.
"""

from __future__ import annotations

import collections
import math
import random
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from scipy.stats import spearmanr

from benchmarks.planner_accuracy import Answer, answers, by_table, read, timed
from benchmarks.planner_fit import ROWS, load_constants
from orchestrator.plan.perf.memory import Memory

ERRORS = (0.005, 0.01, 0.02, 0.03, 0.05)  # standard deviations, as fractions of the measured time
DRAWS = 20
NOTHING = Memory(0, 0, 0, 0, 0, 0)


@dataclass(frozen=True)
class Choice:
    """One group of layouts: how many, Spearman's rank correlation of predicted with measured step times (None
    where all were measured alike), and how much longer the step of the chosen one is than the best's, as a
    fraction of it."""

    layouts: int
    correlation: float | None
    regret: float


@dataclass(frozen=True)
class Choices:
    """Over the groups of one table; means weigh a group by its layouts. `worst_regret` is of one group."""

    groups: int
    layouts: int
    correlation: float | None
    regret: float
    worst_regret: float


def choices_by_table(answers: Iterable[Answer]) -> dict[str, Choices]:
    """Tables that measured some model in several layouts."""
    found = {table: choices(here) for table, here in by_table(timed(answers)).items()}
    return {table: summary(groups) for table, groups in found.items() if groups}


def choices(answers: Iterable[Answer]) -> list[Choice]:
    """Groups of at least two layouts. The same layout measured twice counts once, with its mean."""
    groups: dict[Any, dict[Any, list[Answer]]] = collections.defaultdict(
        lambda: collections.defaultdict(list)
    )
    for one in answers:
        # a compiler or overlapped kernels are no layout; sequence parallelism is
        software = one.case.software
        kernels = (software.elementwise_share, software.host_factor, software.tp_overlap)
        layout = (one.case.layout, one.case.zero, software.sequence_parallel)
        groups[(one.case.group, *kernels)][layout].append(one)
    return [_choice(list(layouts.values())) for layouts in groups.values() if len(layouts) > 1]


def _choice(layouts: Sequence[Sequence[Answer]]) -> Choice:
    measured = [statistics.fmean(one.case.step_s for one in same) for same in layouts]
    predicted = [statistics.fmean(one.predicted_s for one in same) for same in layouts]
    # the planner takes the fastest of those that it expects to fit
    able = [place for place, same in enumerate(layouts) if same[0].fits] or range(len(layouts))
    chosen = min(able, key=predicted.__getitem__)
    alike = len(set(measured)) == 1 or len(set(predicted)) == 1
    return Choice(
        layouts=len(layouts),
        correlation=None if alike else float(spearmanr(predicted, measured).statistic),
        regret=measured[chosen] / min(measured) - 1,
    )


def summary(groups: Sequence[Choice]) -> Choices:
    ranked = [(group.correlation, group.layouts) for group in groups if group.correlation is not None]
    weight = sum(layouts for _, layouts in ranked)
    return Choices(
        groups=len(groups),
        layouts=sum(group.layouts for group in groups),
        correlation=sum(value * layouts for value, layouts in ranked) / weight if weight else None,
        regret=sum(group.regret * group.layouts for group in groups) / sum(group.layouts for group in groups),
        worst_regret=max(group.regret for group in groups),
    )


def guessed(answers: Iterable[Answer], error: float, draw: random.Random) -> list[Answer]:
    """Answers that are right but for a random error, the same for all rows of one layout, and that expect
    what trained to fit."""
    found = []
    off: dict[Any, float] = {}
    for one in timed(answers):
        key = (one.case.group, one.case.layout, one.case.zero, one.case.software)
        factor = math.exp(off.setdefault(key, draw.gauss(0.0, error)))
        found.append(replace(one, predicted_s=factor * one.case.step_s, memory=NOTHING))
    return found


def main() -> None:
    rows, _ = answers(read(ROWS), load_constants())
    tables = {table: here for table, here in by_table(rows).items() if choices(here)}
    draw = random.Random(0)
    for table, here in tables.items():
        for error in ERRORS:
            found = [choices_by_table(guessed(here, error, draw))[table] for _ in range(DRAWS)]
            correlation = statistics.fmean(one.correlation or 0.0 for one in found)
            regret = statistics.fmean(one.regret for one in found)
            print(f"{table}: off by {error:.1%}: rank correlation {correlation:.2f}, regret {regret:.1%}")


if __name__ == "__main__":
    main()
