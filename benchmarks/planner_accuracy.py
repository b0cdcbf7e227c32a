"""How well the planner's model says what published training runs measured.

    python -m benchmarks.planner_accuracy --rows FILE.csv [--json] [--leave-one-table-out] [--write]

Any CSV with the columns of benchmarks/planner/fit.csv will do; columns that nothing here knows are ignored.
Errors are fractions of the measured step time, or of the one that follows from the measured rate. The
constants are those of conf/planner/default.yaml; nothing is fitted, except under --leave-one-table-out.

`--json` prints one object: `rows` (all of the file), `refused` (those of them that cannot be planned),
`mean_abs_error` (mean of |predicted / measured - 1| over the others), `memory_mean_abs_error` (the same of
the memory per GPU, null where no row has any), `memory_low` (share of those that are more than 10% low),
`range_coverage` (share of the rows whose time is within the range that a plan would print) and `by_table`,
for each table `rows`, `refused`, `mean_abs_error`, `bias` (mean of predicted / measured - 1) and
`range_coverage`. A mean over nothing is null.
"""

from __future__ import annotations

import argparse
import collections
import csv
import json
import math
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if not __package__:  # run as a script: its own folder is no place to import from
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks import planner_rows
from benchmarks.planner_fit import ROWS, load_constants
from benchmarks.planner_rows import Case, Refused
from orchestrator.config.schema import PlannerConfig
from orchestrator.errors import ConfigError
from orchestrator.plan.perf.likeness import Kind, Likeness, kind_of, likeness
from orchestrator.plan.perf.memory import Memory, memory_of

Row = Mapping[str, str]
BLANK = {"", "-", "–", "?", "n/a", "na", "none", "null", "unknown"}
POSITIVE = (
    *(
        "layers",
        "hidden",
        "heads",
        "kv_heads",
        "ffn",
        "vocab",
        "seq_len",
        "global_batch",
        "micro_batch",
        "gpus",
    ),
    *("gpus_per_node", "tp", "pp", "dp", "tokens_per_s_per_gpu", "tflops_per_gpu", "mfu", "step_time_s"),
    *("derived_step_time_s", "mem_gb"),
)
NOT_NEGATIVE = ("vp", "cp", "ep", "zero_stage")  # 0 and 1 both mean none, of degrees
RATES = ("step_time_s", "derived_step_time_s", "tokens_per_s_per_gpu", "tflops_per_gpu", "mfu")
LOW = 0.1  # what a prediction of memory may be too low by
# What a row with numbers that fit no transformer, or no machine, can make arithmetic raise.
NONSENSE = (ArithmeticError, LookupError, TypeError, ValueError)


@dataclass(frozen=True)
class Answer:
    """What the model says of one row. `out_of_memory`: the run did not train, so it has no step time.
    `host_share` is what the predicted step waits for its host."""

    case: Case
    predicted_s: float
    memory: Memory
    out_of_memory: bool
    host_share: float = 0.0

    @property
    def error(self) -> float:
        """predicted / measured - 1 of the step time."""
        return self.predicted_s / self.case.step_s - 1

    @property
    def memory_error(self) -> float | None:
        if not self.case.memory_bytes:
            return None
        return comparable_bytes(self.memory, self.case.memory_kind) / self.case.memory_bytes - 1

    @property
    def fits(self) -> bool:
        return self.memory.total_bytes <= self.case.gpu.memory_bytes


def comparable_bytes(memory: Memory, kind: str) -> int:
    """The part of the predicted memory that a row's figure covers: all that is on the GPU for nvidia-smi;
    states and activations for a paper's estimate; for a framework's own log what its allocator holds, without
    the CUDA context and the buffers of NCCL and DeepSpeed."""
    if "nvidia-smi" in kind:
        return memory.total_bytes
    if "estimate" in kind:
        return memory.weights + memory.gradients + memory.optimizer + memory.activations
    return memory.total_bytes - memory.framework


def read(path: Path) -> list[dict[str, str]]:
    """Raises :class:`ConfigError` for a file that is not there, or not a CSV."""
    try:
        with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
            return list(csv.DictReader(file))
    except (OSError, csv.Error) as error:
        raise ConfigError(f"--rows {path}: {error}; name a CSV with the columns of {ROWS.name}") from None


def answers(rows: Sequence[Row], constants: PlannerConfig) -> tuple[list[Answer], list[tuple[Row, str]]]:
    """What the model says of each row, and the rows refused with the reason."""
    answered, refused = [], []
    for row in planner_rows.with_usual_heads(rows):
        try:
            answered.append(answer(row, constants))
        except (Refused, ConfigError) as reason:
            refused.append((row, str(reason)))
        except NONSENSE as error:
            refused.append((row, f"its numbers do not fit each other ({type(error).__name__})"))
    return answered, refused


def answer(row: Row, constants: PlannerConfig) -> Answer:
    """Raises :class:`Refused`, ConfigError, or any of `NONSENSE`."""
    row = checked(row)
    failed = (row.get("oom") or "").strip().lower() not in BLANK | {"0", "false", "no"}
    if failed:
        row = {**row, **dict.fromkeys(RATES, ""), "step_time_s": "1"}  # a time that nothing looks at
    case = planner_rows.case_of(row, constants)
    step = planner_rows.predict(case, constants)
    predicted_s = step.total_s
    if not (
        math.isfinite(predicted_s) and predicted_s > 0 and math.isfinite(case.step_s) and case.step_s > 0
    ):
        raise Refused(f"a step time of {predicted_s:g} s predicted, {case.step_s:g} s measured")
    memory = memory_of(case.model, case.gpu, case.layout, case.zero, case.software)
    return Answer(case, predicted_s, memory, failed, step.host_s / predicted_s)


def checked(row: Row) -> dict[str, str]:
    """The row with numbers where there should be numbers. Raises :class:`Refused`."""
    plain = {key: value for key, value in row.items() if isinstance(key, str) and isinstance(value, str)}
    plain["table"] = table_of(row)
    for key in (*POSITIVE, *NOT_NEGATIVE):
        text = plain.get(key, "").strip()
        if text.lower() in BLANK:
            plain[key] = ""
            continue
        try:
            value = float(text)
        except ValueError:
            raise Refused(f"{key} '{text}' is not a number") from None
        if not math.isfinite(value) or value < 0 or (value == 0 and key in POSITIVE):
            raise Refused(f"{key} {text} is out of range")
    if plain["vp"] == "0":
        plain["vp"] = "1"
    return plain


def table_of(row: Row) -> str:
    return row.get("table") or "(no table)"


def mean(values: Iterable[float]) -> float | None:
    known = list(values)
    return statistics.fmean(known) if known else None


def timed(answered: Iterable[Answer]) -> list[Answer]:
    return [one for one in answered if not one.out_of_memory]


def memory_errors(answered: Iterable[Answer]) -> list[float]:
    return [one.memory_error for one in timed(answered) if one.memory_error is not None]


def by_table(answered: Iterable[Answer]) -> dict[str, list[Answer]]:
    found: dict[str, list[Answer]] = collections.defaultdict(list)
    for one in answered:
        found[one.case.table].append(one)
    return dict(found)


def kind(one: Answer) -> Kind:
    """What makes the row like others."""
    case = one.case
    return kind_of(case.model, case.gpu.architecture, case.precision, case.layout)


def holds(found: Likeness, one: Answer) -> bool:
    """Whether the measured time is within the range."""
    found = found.waiting(one.host_share)
    return found.low <= one.case.step_s / one.predicted_s <= found.high


def coverage(answered: Iterable[Answer], constants: PlannerConfig) -> float | None:
    """Share of the rows within the range that a plan would print."""
    return mean(holds(likeness(kind(one), constants), one) for one in timed(answered))


def memory_low(answered: Iterable[Answer]) -> float | None:
    """Share of rows with memory whose prediction is more than `LOW` too low."""
    return mean(error < -LOW for error in memory_errors(answered))


def body(
    rows: Sequence[Row],
    answered: Sequence[Answer],
    refused: Sequence[tuple[Row, str]],
    constants: PlannerConfig,
) -> dict[str, Any]:
    """The object that --json prints."""
    totals = collections.Counter(table_of(row) for row in rows)
    lost = collections.Counter(table_of(row) for row, _ in refused)
    tables = by_table(answered)
    return {
        "rows": len(rows),
        "refused": len(refused),
        "mean_abs_error": mean(abs(one.error) for one in timed(answered)),
        "memory_mean_abs_error": mean(abs(error) for error in memory_errors(answered)),
        "memory_low": memory_low(answered),
        "range_coverage": coverage(answered, constants),
        "by_table": {
            table: {
                "rows": count,
                "refused": lost[table],
                "mean_abs_error": mean(abs(one.error) for one in timed(tables.get(table, []))),
                "bias": mean(one.error for one in timed(tables.get(table, []))),
                "range_coverage": coverage(tables.get(table, []), constants),
            }
            for table, count in totals.items()
        },
    }


def show(
    rows: Sequence[Row],
    answered: Sequence[Answer],
    refused: Sequence[tuple[Row, str]],
    constants: PlannerConfig,
    console: Console,
) -> None:
    found, tables = body(rows, answered, refused, constants), by_table(answered)
    table = Table(
        title="Step time and memory per GPU, predicted against measured", box=box.SIMPLE_HEAD, padding=0
    )
    table.add_column("table", no_wrap=True)
    for name in (
        "rows",
        "refused",
        "mean error",
        "bias",
        "in range",
        "with memory",
        "its error",
        "right fit",
    ):
        table.add_column(name, justify="right")
    everything = {"rows": len(rows), "refused": len(refused), "mean_abs_error": found["mean_abs_error"]}
    everything |= {
        "bias": mean(one.error for one in timed(answered)),
        "range_coverage": found["range_coverage"],
    }
    for name, figures in [*found["by_table"].items(), ("all", everything)]:
        here = answered if name == "all" else tables.get(name, [])
        memory = memory_errors(here)
        table.add_row(
            name, str(figures["rows"]), str(figures["refused"]), percent(figures["mean_abs_error"]),
            percent(figures["bias"], "+"), percent(figures["range_coverage"]), str(len(memory)),
            percent(mean(abs(error) for error in memory)),
            percent(mean(one.fits is not one.out_of_memory for one in here)),
            end_section=name == list(found["by_table"])[-1] if found["by_table"] else False,
        )  # fmt: skip
    console.print(table)
    weighed = mean(f["mean_abs_error"] for f in found["by_table"].values() if f["mean_abs_error"] is not None)
    console.print(
        f"Every table weighing the same: {percent(weighed)}. Rows answered: {len(answered)} of {len(rows)}."
        f" Memory more than {LOW:.0%} low: {percent(found['memory_low'])} of rows with it."
    )
    reasons = collections.Counter((table_of(row), reason) for row, reason in refused)
    for (name, reason), count in reasons.most_common():
        console.print(f"refused: {count} of {name}: {reason}", markup=False, highlight=False)


def percent(value: float | None, sign: str = "") -> str:
    return "–" if value is None else f"{value:{sign}.1%}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=Path, default=ROWS, help="default: %(default)s")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument(
        "--leave-one-table-out", action="store_true", help="fit to the other tables; takes minutes"
    )
    parser.add_argument(
        "--write", action="store_true", help="the figures of docs/planner_validation.md; fits as well"
    )
    own = parser.parse_args()
    try:
        rows, constants = read(own.rows), load_constants()
        if own.leave_one_table_out or own.write:
            from benchmarks import planner_report  # matplotlib and scipy, which the rest does without

            planner_report.leave_one_table_out(rows, constants, write=own.write, as_json=own.json)
            return
    except ConfigError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    answered, refused = answers(rows, constants)
    if own.json:
        print(json.dumps(body(rows, answered, refused, constants), indent=2, allow_nan=False))
    else:
        show(rows, answered, refused, constants, Console())


if __name__ == "__main__":
    main()
