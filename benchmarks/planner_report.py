"""Validation of the planner: tables for the terminal and docs/planner_validation.md, each table left out in
turn."""

from __future__ import annotations

import datetime
import json
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks import planner_accuracy as accuracy
from benchmarks import planner_calibration_plot, planner_plot
from benchmarks.figures import table as markdown
from benchmarks.planner_accuracy import Answer, Row, by_table, mean, memory_errors, percent, timed
from benchmarks.planner_baselines import baselines
from benchmarks.planner_folds import leave_one_table_out as fit_folds
from benchmarks.planner_layouts import Choices, choices_by_table
from benchmarks.planner_ranges import left_out
from benchmarks.report import write_section
from orchestrator.config.schema import PlannerConfig
from orchestrator.errors import ConfigError
from orchestrator.plan.perf.likeness import SHARE

PAGE = Path(__file__).resolve().parents[1] / "docs" / "planner_validation.md"
SECTION = "validation"
WHOLE_RUNS = Path(__file__).parent / "planner" / "whole_runs.csv"
PLANNER = "planner"
COMMAND = "python -m benchmarks.planner_accuracy --write"
GOAL_OF_BASELINE, GOAL_MEMORY, GOAL_CORRELATION, GOAL_REGRET, GOAL_ANSWERED = 0.5, 0.08, 0.9, 0.03, 0.9
GOAL_STEP, GOAL_LOW, GOAL_COVERAGE = 0.10, 0.02, (0.75, 0.90)
MANY_ROWS = 30  # tables of fewer say little by themselves
SHARES = (0.2, 0.4, 0.6, SHARE)


@dataclass(frozen=True)
class Validation:
    """`errors`: mean |predicted / measured - 1| of the step time by method and table, the planner's with
    constants fitted to the other tables. `stored` are answers with the constants as they are stored,
    `held_out` without."""

    rows: int
    errors: dict[str, dict[str, float]]
    stored: list[Answer]
    held_out: list[Answer]
    whole_runs: list[Answer]
    widening: float = 0.0  # of ranges, as stored

    def over_tables(self, method: str) -> float:
        """Every table weighing the same."""
        return mean(self.errors[method].values()) or 0.0

    @property
    def best_baseline(self) -> str:
        return min((name for name in self.errors if name != PLANNER), key=self.over_tables)

    @property
    def memory(self) -> dict[str, list[float]]:
        tables = {table: memory_errors(here) for table, here in by_table(self.stored).items()}
        return {table: errors for table, errors in tables.items() if errors}

    def within(self, share: float = SHARE) -> dict[str, list[bool]]:
        """Of each table, whether its rows are within ranges made from the other tables."""
        return left_out(self.held_out, self.widening, self.over_tables(PLANNER), share)

    @property
    def choices(self) -> dict[str, Choices]:
        return choices_by_table(self.held_out)

    def body(self) -> dict[str, Any]:
        return {
            "mean_abs_error_over_tables": {name: self.over_tables(name) for name in self.errors},
            "mean_abs_error_by_table": self.errors,
            "memory_mean_abs_error_by_table": {
                t: mean(map(abs, errors)) for t, errors in self.memory.items()
            },
            "memory_low": accuracy.memory_low(self.stored),
            "range_coverage_by_table": {table: mean(rows) for table, rows in self.within().items()},
            "layouts_by_table": {table: asdict(found) for table, found in self.choices.items()},
            "fit_as_measured": mean(one.fits is not one.out_of_memory for one in self.stored),
        }


def validate(rows: Sequence[Row], constants: PlannerConfig) -> Validation:
    stored, _ = accuracy.answers(rows, constants)
    held_out = [one for fold in fit_folds(rows, constants) for one in fold.answers]
    errors = {
        PLANNER: {t: mean(abs(one.error) for one in here) for t, here in by_table(timed(held_out)).items()}
    }
    cases = [one.case for one in timed(stored)]
    for baseline in baselines():
        found = list(zip(cases, baseline.errors(cases), strict=True))
        errors[baseline.name] = {
            table: mean(abs(error) for case, error in found if case.table == table and error is not None)
            for table in by_table(timed(stored))
        }
    known = {name: {t: e for t, e in tables.items() if e is not None} for name, tables in errors.items()}
    whole_runs, _ = accuracy.answers(accuracy.read(WHOLE_RUNS), constants)
    return Validation(len(rows), known, stored, held_out, whole_runs, constants.range_widening)


def leave_one_table_out(rows: Sequence[Row], constants: PlannerConfig, *, write: bool, as_json: bool) -> None:
    """Raises :class:`ConfigError` where `write` finds no page, or there is but one table."""
    if write and f"<!-- {SECTION}: begin -->" not in (PAGE.read_text() if PAGE.exists() else ""):
        raise ConfigError(f"--write: {PAGE} has no <!-- {SECTION}: begin --> and end marks to write between")
    found = validate(rows, constants)
    if as_json:
        print(json.dumps(found.body(), indent=2, allow_nan=False))
    else:
        print("\n".join(tables(found)))
    if write:
        planner_plot.draw(found.stored, found.errors, PLANNER)
        _draw_ranges(found)
        write_section(SECTION, "\n".join([*tables(found), "", *_conditions(constants)]), PAGE)
    if all("llm-analysis" not in name for name in found.errors):
        print("llm-analysis is not installed and left out; planner_baselines.py says how", file=sys.stderr)


def tables(found: Validation) -> list[str]:
    """Goals and tables in Markdown."""
    return [
        *_goals(found),
        "",
        *_step_time(found),
        "",
        *_memory(found),
        "",
        *_ranges(found),
        "",
        *_layouts(found),
        "",
        *_whole_runs(found),
    ]


def _goals(found: Validation) -> list[str]:
    best, ours = found.best_baseline, found.over_tables(PLANNER)
    answered, fitting = (
        len(found.stored) / found.rows,
        mean(one.fits is not one.out_of_memory for one in found.stored),
    )
    worst_memory = max((mean(map(abs, errors)) or 0.0 for errors in found.memory.values()), default=None)
    choices = list(found.choices.values())
    correlation = min((c.correlation for c in choices if c.correlation is not None), default=None)
    regret = max((c.regret for c in choices), default=None)
    baseline = found.over_tables(best)
    compared = f"{percent(ours)} to {percent(baseline)}, tables weighing the same"
    memory_met = worst_memory is not None and worst_memory <= GOAL_MEMORY
    low, inside = accuracy.memory_low(found.stored), found.within()
    held, (least, most) = _pooled(inside), GOAL_COVERAGE
    large = [rows for rows in inside.values() if len(rows) >= MANY_ROWS]
    held_by = [mean(rows) or 0.0 for rows in large]
    held_met = all(least <= share <= most for share in held_by)
    slowest = max(found.errors[PLANNER].values())
    correlation_met = correlation is not None and correlation > GOAL_CORRELATION
    regret_met = regret is not None and regret < GOAL_REGRET
    return [
        (
            f"- Step time of tables that the constants have not seen: **{percent(ours)}** in the mean of"
            f" tables, {percent(slowest)} in the one with the largest (goal: {GOAL_STEP:.0%};"
            f" {met(ours <= GOAL_STEP)} and {met(slowest <= GOAL_STEP)})"
        ),
        (
            f"- Step time of tables that the constants have not seen, relative to {best}:"
            f" **{ours / baseline:.2f}** ({compared}; goal: {GOAL_OF_BASELINE} at most;"
            f" {met(ours <= GOAL_OF_BASELINE * baseline)})"
        ),
        (
            f"- Rows answered: **{percent(answered)}** "
            f"(goal: {GOAL_ANSWERED:.0%} at least; {met(answered >= GOAL_ANSWERED)})"
        ),
        (
            f"- Memory, the table with the largest mean error: **{percent(worst_memory)}** "
            f"(goal: {GOAL_MEMORY:.0%} at most; {met(memory_met)})"
        ),
        (
            f"- Runs that trained and are planned as fitting: **{percent(fitting)}** (goal: all;"
            f" {met(fitting == 1)})"
        ),
        (
            f"- Memory predicted more than {accuracy.LOW:.0%} low: **{percent(low)}** of rows (goal:"
            f" {GOAL_LOW:.0%} at most; {met(low is not None and low <= GOAL_LOW)})"
        ),
        (
            f"- Rows of tables left out within the range of a plan: **{percent(held)}**, and of tables of"
            f" {MANY_ROWS} rows or more {percent(min(held_by, default=None))} to"
            f" {percent(max(held_by, default=None))} (goal: {least:.0%} to {most:.0%};"
            f" {met(held is not None and least <= held <= most)} and {met(held_met)})"
        ),
        (
            f"- Rank correlation of layouts, the table with the least: **{_number(correlation)}** "
            f"(goal: more than {GOAL_CORRELATION}; {met(correlation_met)})"
        ),
        (
            "- Time that the chosen layout costs over the best measured one, the table with the largest"
            f" mean: **{percent(regret)}** (goal: less than {GOAL_REGRET:.0%}; {met(regret_met)})"
        ),
    ]


def _pooled(rows: Mapping[str, Sequence[bool]]) -> float | None:
    return mean(one for here in rows.values() for one in here)


def _ranges(found: Validation) -> list[str]:
    """How many rows the ranges hold that plans print, by table."""
    inside = found.within()
    lines = [[table, str(len(rows)), percent(mean(rows))] for table, rows in inside.items()]
    pooled = percent(_pooled(inside))
    over = percent(mean(mean(rows) or 0.0 for rows in inside.values()))
    lines += [["**all rows**", "", f"**{pooled}**"], ["**mean of tables**", "", f"**{over}**"]]
    text = f"Rows within the range of a plan, made to hold {SHARE:.0%}, from runs of the other tables alone:"
    return [text, "", *markdown(["table", "rows", "within the range"], lines)]


def _draw_ranges(found: Validation) -> None:
    held = {share: found.within(share) for share in SHARES}
    by_table = {table: [mean(held[share][table]) or 0.0 for share in SHARES] for table in held[SHARE]}
    planner_calibration_plot.draw(SHARES, by_table, [_pooled(held[share]) or 0.0 for share in SHARES])


def met(reached: bool) -> str:
    return "met" if reached else "missed"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _step_time(found: Validation) -> list[str]:
    stored, held_out = by_table(timed(found.stored)), by_table(timed(found.held_out))
    methods = [name for name in found.errors if name != PLANNER]
    lines = [
        [
            table, str(len(here)), percent(found.errors[PLANNER].get(table)),
            percent(mean(one.error for one in held_out.get(table, [])), "+"),
            percent(mean(abs(one.error) for one in here)),
            *(percent(found.errors[name].get(table)) for name in methods),
        ]
        for table, here in stored.items()
    ]  # fmt: skip
    over = percent(mean(mean(abs(one.error) for one in here) or 0.0 for here in stored.values()))
    lines.append(["**mean of tables**", "", f"**{percent(found.over_tables(PLANNER))}**", "", over])
    lines[-1] += [percent(found.over_tables(name)) for name in methods]
    head = ["table", "rows", "planner, left out", "its bias", "planner, as stored", *methods]
    return ["Mean absolute error of the step time:", "", *markdown(head, lines)]


def _memory(found: Validation) -> list[str]:
    stored = by_table(found.stored)
    lines = []
    for table, here in stored.items():
        errors = found.memory.get(table, [])
        not_fitting = [one for one in here if one.fits is one.out_of_memory]
        lines.append(
            [table, str(len(errors) or "–"), percent(mean(map(abs, errors))), percent(mean(errors), "+"),
             str(len(here)), str(len(not_fitting)), _models(not_fitting)]
        )  # fmt: skip
    head = [
        "table",
        "rows with memory",
        "mean error",
        "bias",
        "rows",
        "planned as not fitting",
        "of these models",
    ]
    return ["Memory per GPU, and runs that trained although the planner says that they do not fit:", "",
            *markdown(head, lines)]  # fmt: skip


def _models(answers: Sequence[Answer]) -> str:
    return ", ".join(dict.fromkeys(one.case.model.name for one in answers)) or "–"


def _layouts(found: Validation) -> list[str]:
    lines = [
        [
            table,
            str(c.groups),
            str(c.layouts),
            _number(c.correlation),
            percent(c.regret),
            percent(c.worst_regret),
        ]
        for table, c in found.choices.items()
    ]
    head = ["table", "groups", "layouts", "rank correlation", "mean regret", "worst regret"]
    text = "Layouts of one model, batch and number of GPUs, ranked with constants fitted to the other tables:"
    return [text, "", *markdown(head, lines)]


def _whole_runs(found: Validation) -> list[str]:
    lines = [
        [one.case.model.name, str(one.case.layout.ranks), f"{_rate(one, one.case.step_s):,.0f}",
         f"{_rate(one, one.predicted_s):,.0f}", percent(one.error, "+")]
        for one in found.whole_runs
    ]  # fmt: skip
    head = ["model", "GPUs", "tokens/s/GPU, published", "tokens/s/GPU, predicted", "error of the time"]
    return [
        "Whole runs, which nothing is fitted to, their rates from published GPU-hours:",
        "",
        *markdown(head, lines),
    ]


def _rate(one: Answer, step_s: float) -> float:
    """Tokens per second and GPU."""
    return one.case.layout.global_batch * one.case.model.seq_len / step_s / one.case.layout.ranks


def _conditions(constants: PlannerConfig) -> list[str]:
    names = ["numpy", "scipy", "matplotlib", "llm-analysis"]
    versions = ", ".join(f"{name} {known}" for name in names if (known := _version(name)))
    return [
        f"- constants: fitted {re.sub('^fitted ', '', constants.fitted)}",
        f"- versions: Python {platform.python_version()}, {versions}",
        f"- {datetime.date.today().isoformat()}, `{COMMAND}`",
    ]


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
