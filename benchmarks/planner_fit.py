"""Fit the planner's constants to published training runs and write them to ``conf/planner``.

    python -m benchmarks.planner_fit [--rows FILE.csv] [--write]

Each table of the rows weighs the same, however many rows it has. A constant is held near the value that its
meaning suggests (``FREE``), so that a table which says nothing of it cannot drag it away.
"""

from __future__ import annotations

import argparse
import collections
import datetime
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf
from scipy.optimize import least_squares

from benchmarks import planner_rows
from benchmarks.planner_rows import Case
from orchestrator.config import published_runs
from orchestrator.config.load import conf_dir
from orchestrator.config.schema import PlannerConfig
from orchestrator.plan.perf.likeness import HOSTS_DIFFER_BY

ROWS = Path(__file__).parent / "planner" / "fit.csv"
FILE = conf_dir() / "planner" / "default.yaml"
PUBLISHED = FILE.with_name("published.yml")
HEAD_OF_PUBLISHED = """\
# What the planner keeps of published runs, as 'python -m benchmarks.planner_fit --write' found it: by kind,
# how far they were off (evidence), and the best of them. Its name ends otherwise than those of Hydra's files,
# since it is no option: Hydra would take as long for these lists as for all else.
"""
# What is fitted: starting value and how far (in e-folds) it may reasonably lie from it. Of fused attention
# these are published: 50 to 73% of an A100's peak (Dao 2023, FlashAttention-2), of which a large product
# sustains 84%; without Hopper's instructions 1.5 to 2 times as slow as with them (Shah et al. 2024,
# FlashAttention-3). What tensor cores do not take has 1/16 of an A100's rate by its data sheet (19.5 of 312
# TFLOP/s), of which unfused attention's products reach half otherwise.
FREE: dict[str, tuple[float, float]] = {
    "ampere.bf16": (0.84, 0.04),
    "hopper.bf16": (0.68, 0.06),
    "hopper.fp8": (0.60, 0.1),
    "wave_tail": (0.5, 0.7),
    "ramp_depth": (200.0, 0.7),
    "attention_efficiency": (0.73, 0.15),
    "attention_before_hopper": (0.57, 0.1),
    "score_efficiency": (0.5, 0.4),
    "misaligned_factor": (8.0, 0.3),
    "stream_passes": (9.0, 0.4),
    "fp8_passes": (4.0, 0.7),
    "host_s_per_layer": (0.0008, HOSTS_DIFFER_BY),
    "host_share_of_tp": (0.3, 0.7),
    "host_s_per_step": (0.003, 1.0),
    "link_latency_s": (12e-6, 0.4),
    "tp_hidden_share": (0.6, 0.3),
    "dp_hidden_share": (0.8, 0.3),
    "contention": (0.2, 0.5),
}
# Largest matrix products measured, share of the dense peak: stas00/ml-engineering@744d01e, "maximum
# achievable matmul FLOPS". Architectures without training rows sustain the same part of theirs as Hopper
# does.
MEASURED_MATMUL = {
    "hopper": {"bf16": 794.5 / 989, "fp8": 1402.6 / 1979},
    "blackwell": {"bf16": 1745 / 2250, "fp8": 3432.5 / 4500},
    "cdna3": {"bf16": 668.4 / 1307.4},
}
MOST_PER_TABLE = 200
SCALE = 0.05  # log errors below it count by their square
PRIOR_WEIGHT = 0.04  # of all deviations from the starting values, against one table's mean square error
TOLERANCE = 1e-3  # of the squares: what a further step would gain moves no constant by a hundredth
SHARES = (
    "contention",
    "attention_before_hopper",
    "tp_hidden_share",
    "dp_hidden_share",
    "attention_efficiency",
    "score_efficiency",
    "ampere.bf16",
    "hopper.bf16",
    "hopper.fp8",
)


def load_constants() -> PlannerConfig:
    merged = OmegaConf.merge(OmegaConf.structured(PlannerConfig), OmegaConf.load(FILE))
    constants: PlannerConfig = OmegaConf.to_object(merged)  # type: ignore[assignment]
    published_runs.fill(constants, FILE.parent)
    return constants


def with_values(base: PlannerConfig, values: Mapping[str, float]) -> PlannerConfig:
    """The constants with fitted values in place, and those of architectures that follow from them."""
    plain = {name: value for name, value in values.items() if "." not in name}
    half, hopper, fp8 = values["ampere.bf16"], values["hopper.bf16"], values["hopper.fp8"]
    measured = MEASURED_MATMUL
    part, part8 = hopper / measured["hopper"]["bf16"], fp8 / measured["hopper"]["fp8"]
    blackwell, cdna3 = measured["blackwell"], measured["cdna3"]["bf16"]
    efficiency = {
        "volta": _same(half),
        "ampere": _same(half),
        "hopper": {**_same(hopper), "fp8": fp8},
        "blackwell": {**_same(blackwell["bf16"] * part), "fp8": blackwell["fp8"] * part8},
        "cdna3": {**_same(cdna3 * part), "fp8": cdna3 * part8},
    }
    return replace(base, **plain, matmul_efficiency=efficiency)


def _same(share: float) -> dict[str, float]:
    return dict.fromkeys(("bf16", "fp16", "tf32", "fp32"), share)


def fit(cases: Sequence[Case], base: PlannerConfig) -> PlannerConfig:
    """Constants with the least squared log error, tables weighing the same."""
    chosen = _thinned(cases)
    counts = collections.Counter(case.table for case in chosen)
    weights = np.array([1 / math.sqrt(counts[case.table]) for case in chosen])
    names = list(FREE)
    start = np.zeros(len(names))
    widths = np.array([FREE[name][1] for name in names])
    measured = np.log([case.step_s for case in chosen])

    def values(point: np.ndarray) -> dict[str, float]:
        found = {n: FREE[n][0] * math.exp(p * w) for n, p, w in zip(names, point, widths, strict=True)}
        return {n: min(v, 0.98) if n in SHARES else v for n, v in found.items()}

    def residuals(point: np.ndarray) -> np.ndarray:
        constants = with_values(base, values(point))
        predicted = [
            planner_rows.predict(planner_rows.rebase(case, constants), constants).total_s for case in chosen
        ]
        error = np.log(predicted) - measured
        # about the absolute error for large ones: a row that nothing explains must not bend the rest
        robust = np.sign(error) * np.sqrt(2 * SCALE * (np.sqrt(SCALE**2 + error**2) - SCALE))
        return np.concatenate([robust * weights, PRIOR_WEIGHT * point])

    found = least_squares(residuals, start, diff_step=0.02, ftol=TOLERANCE, max_nfev=25)
    return with_values(base, values(found.x))


def _thinned(cases: Sequence[Case]) -> list[Case]:
    """Every n-th row of tables with many."""
    by_table: dict[str, list[Case]] = collections.defaultdict(list)
    for case in cases:
        by_table[case.table].append(case)
    return [case for rows in by_table.values() for case in rows[:: max(1, len(rows) // MOST_PER_TABLE)]]


def mean_abs_error(cases: Sequence[Case], constants: PlannerConfig) -> dict[str, float]:
    """Mean absolute error of the step time by table, as a fraction of the measured one."""
    errors: dict[str, list[float]] = collections.defaultdict(list)
    for case in cases:
        predicted = planner_rows.predict(planner_rows.rebase(case, constants), constants).total_s
        errors[case.table].append(abs(predicted / case.step_s - 1))
    return {table: statistics.mean(values) for table, values in errors.items()}


def write(constants: PlannerConfig, rows: int, tables: int) -> None:
    body = OmegaConf.to_container(OmegaConf.structured(constants))
    assert isinstance(body, dict)
    body["fitted"] = f"{datetime.date.today().isoformat()}, to {rows} published rows of {tables} tables"
    rounded: dict[str, Any] = {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in body.items()}
    rounded["matmul_efficiency"] = {
        arch: {p: float(f"{v:.4g}") for p, v in shares.items()}
        for arch, shares in body["matmul_efficiency"].items()
    }
    # figures of one kind of runs in a line each
    lists = "".join(f"{name}:\n{_lines(rounded.pop(name))}" for name in ("best_published", "evidence"))
    head = "# The planner's constants, as 'python -m benchmarks.planner_fit --write' found them.\n"
    FILE.write_text(head + OmegaConf.to_yaml(OmegaConf.create(rounded)))
    PUBLISHED.write_text(HEAD_OF_PUBLISHED + lists)


def _lines(entries: Sequence[Mapping[str, Any]]) -> str:
    return "".join(f"- {json.dumps(one)}\n".replace('"', "") for one in entries)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=Path, default=ROWS)
    parser.add_argument("--write", action="store_true", help=f"write {FILE.name} and {PUBLISHED.name}")
    own = parser.parse_args()
    base = load_constants()
    cases, _ = planner_rows.cases(planner_rows.read(own.rows), base)
    constants = fit(cases, base)
    cases, _ = planner_rows.cases(planner_rows.read(own.rows), constants)
    constants = fit(cases, constants)
    for table, error in sorted(mean_abs_error(cases, constants).items()):
        print(f"{table:24} {error:6.1%}")
    for name in FREE:
        arch, _, precision = name.partition(".")
        value = constants.matmul_efficiency[arch][precision] if precision else getattr(constants, name)
        print(f"{name:24} {value:.4g}  (started at {FREE[name][0]:g})")
    if own.write:
        from benchmarks.planner_ranges import with_evidence  # which fits to all tables but one, each in turn

        constants = with_evidence(constants, planner_rows.read(own.rows))
        write(constants, len(cases), len({case.table for case in cases}))


if __name__ == "__main__":
    main()
