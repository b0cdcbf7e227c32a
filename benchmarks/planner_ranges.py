"""The range around a predicted step time: made from how far off published runs were, and how many it
holds."""

from __future__ import annotations

import collections
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import replace

from benchmarks.planner_accuracy import Answer, Row, by_table, holds, kind, mean, memory_errors, timed
from orchestrator.config.evidence import BestMfuConfig, EvidenceConfig
from orchestrator.config.schema import PlannerConfig
from orchestrator.plan.perf.likeness import PERCENTILES, SHARE, Kind, Likeness, of_evidence, quantile
from orchestrator.plan.perf.transformer import training_flops_per_token

# Upper ends of what counts as one scale, in ranks.
SCALES = (8, 64, 512, math.inf)
STEP_OF_WIDENING, MOST_WIDENING = 0.005, 0.5


def ratio(one: Answer) -> float:
    """measured / predicted."""
    return one.case.step_s / one.predicted_s


def mfu(one: Answer) -> float:
    """As measured, of the dense peak, attention counted in full."""
    case = one.case
    tokens_per_s = case.layout.global_batch * case.model.seq_len / case.step_s / case.layout.ranks
    return tokens_per_s * training_flops_per_token(case.model) / case.gpu.peak_flops[case.precision]


def evidence_of(answers: Iterable[Answer]) -> list[EvidenceConfig]:
    """Runs of one table that are alike, together."""
    groups: dict[tuple[object, ...], list[Answer]] = collections.defaultdict(list)
    for one in timed(answers):
        found = kind(one)
        scale = next(place for place, most in enumerate(SCALES) if found.ranks <= most)
        key = (found.architecture, found.precision, found.framework, found.parallelism, found.experts)
        groups[(one.case.table, *key, scale)].append(one)
    return [
        _together(str(key[0]), here) for key, here in sorted(groups.items(), key=lambda item: str(item[0]))
    ]


def _together(table: str, here: Sequence[Answer]) -> EvidenceConfig:
    first, ratios = kind(here[0]), [ratio(one) for one in here]
    same = [1.0] * len(ratios)
    return EvidenceConfig(
        table=table,
        architecture=first.architecture,
        precision=first.precision,
        framework=first.framework,
        parallelism=first.parallelism,
        experts=first.experts,
        ranks=round(statistics.median(kind(one).ranks for one in here)),
        hidden=round(statistics.median(kind(one).hidden for one in here)),
        rows=len(here),
        ratios=[round(quantile(ratios, same, percent / 100), 3) for percent in PERCENTILES],
        best_mfu=round(max(mfu(one) for one in here), 3),
    )


def best_of(answers: Iterable[Answer]) -> list[BestMfuConfig]:
    """The run with the highest utilisation of each accelerator, precision and width of models, widths that
    round to the same power of two together."""
    groups: dict[tuple[object, ...], list[Answer]] = collections.defaultdict(list)
    for one in timed(answers):
        found = kind(one)
        width = round(math.log2(one.case.model.hidden))
        groups[(found.architecture, found.precision, found.experts, width)].append(one)
    best = [max(here, key=mfu) for _, here in sorted(groups.items(), key=lambda item: str(item[0]))]
    return [
        BestMfuConfig(
            table=one.case.table,
            architecture=kind(one).architecture,
            precision=kind(one).precision,
            experts=kind(one).experts,
            hidden=one.case.model.hidden,
            mfu=round(mfu(one), 3),
        )
        for one in best
    ]


def left_out(
    answers: Sequence[Answer], widening: float, mean_error: float, share: float = SHARE
) -> dict[str, list[bool]]:
    """Of each table, whether its rows are within ranges made from the other tables alone."""
    tables, found = by_table(timed(answers)), {}
    for table, here in tables.items():
        others = evidence_of(one for one in answers if one.case.table != table)
        ranges: dict[Kind, Likeness] = {}
        for one in here:
            if kind(one) not in ranges:
                ranges[kind(one)] = of_evidence(kind(one), others, widening, mean_error, share)
        found[table] = [holds(ranges[kind(one)], one) for one in here]
    return found


def least_widening(answers: Sequence[Answer], mean_error: float) -> float:
    """The least with which ranges hold `SHARE` of the rows of tables that they have not seen, of all rows and
    of each table in the mean, tables weighing the same."""
    for count in range(round(MOST_WIDENING / STEP_OF_WIDENING)):
        inside = left_out(answers, count * STEP_OF_WIDENING, mean_error)
        of_rows = statistics.fmean(one for rows in inside.values() for one in rows)
        of_tables = statistics.fmean(statistics.fmean(rows) for rows in inside.values())
        if min(of_rows, of_tables) >= SHARE:
            return round(count * STEP_OF_WIDENING, 3)
    return MOST_WIDENING


def with_evidence(constants: PlannerConfig, rows: Sequence[Row]) -> PlannerConfig:
    """The constants with what leaving each table out says of their errors; minutes on a few cores."""
    from benchmarks.planner_folds import leave_one_table_out  # which fits

    folds = leave_one_table_out(rows, constants)
    answers = [one for fold in folds for one in fold.answers]
    errors = [mean(abs(one.error) for one in timed(fold.answers)) or 0.0 for fold in folds]
    error = round(statistics.fmean(errors), 3)
    return replace(
        constants,
        step_time_error=error,
        memory_error=round(mean(abs(error) for error in memory_errors(answers)) or 0.0, 3),
        range_widening=least_widening(answers, error),
        evidence=evidence_of(answers),
        best_published=best_of(answers),
    )
