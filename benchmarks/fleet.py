"""Policies of a fleet on a trace: python -m benchmarks.fleet --trace FILE [--profile muri] [--json]

The trace is any that `simulate` reads. `--profile muri` runs the three policies of Muri's paper by its
simulator's rules, to be held against its published rows. Of the others ours is the mean of three seeds, each
with its own errors of what was predicted; `--early 0.3` lets three jobs of ten end before their time. What is
printed goes nowhere else: the traces are other people's.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path

from orchestrator import papers
from orchestrator.errors import OrchestratorError
from orchestrator.fleet.contest import POLICIES, PROFILES, Setting, Standing, contest
from orchestrator.fleet.hindsight import LATE, hindsight
from orchestrator.fleet.trace_formats import read_trace
from orchestrator.text import figure

_MOST_BYTES = 1 << 30


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trace", required=True, type=Path)
    parser.add_argument("--profile", choices=PROFILES)
    parser.add_argument("--gpus", type=int, default=64)
    parser.add_argument("--restart-s", type=float, default=3.0)
    parser.add_argument("--early", type=float, default=0.0, help="share of jobs that end before their time")
    parser.add_argument("--jitter-s", type=float, default=0.0, help="of submissions, either way")
    parser.add_argument("--scale", type=int, default=1, help="times the GPUs of every gang")
    parser.add_argument("--policies", default=",".join(POLICIES))
    parser.add_argument(
        "--forecasts", type=int, default=0, metavar="N", help="also of N jobs, held against what happened"
    )
    parser.add_argument("--nobody-else", action="store_true", help="forecasts as if nobody else came")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    try:
        return _measure(asked)
    except (OrchestratorError, papers.PaperError, OSError) as error:
        print(f"benchmarks.fleet: {error}", file=sys.stderr)
        return error.exit_code if isinstance(error, OrchestratorError) else 2


def _measure(asked: argparse.Namespace) -> int:
    jobs = read_trace(papers.read_text(asked.trace, _MOST_BYTES), str(asked.trace))
    jobs = [dataclasses.replace(job, gpus=job.gpus * asked.scale) for job in jobs]
    setting = Setting(asked.gpus, asked.restart_s, early=asked.early, jitter_s=asked.jitter_s)
    found = contest(jobs, str(asked.trace), setting, asked.policies.split(","), asked.profile)
    seen = None
    if asked.forecasts:
        seen = hindsight(
            jobs, asked.gpus, setting.policy, asked=asked.forecasts, restart_s=asked.restart_s,
            sigma=setting.sigma, late=0 if asked.nobody_else else LATE,
        )  # fmt: skip
    if asked.json:
        body = dataclasses.asdict(found) | ({"forecasts": dataclasses.asdict(seen)} if seen else {})
        print(json.dumps(body, indent=2))
        return 0
    print(
        f"{asked.trace.name}: {found.jobs:,} jobs, {found.gpus:,} GPUs; no policy can do better than"
        f" {found.bound_jct_s:,.0f} s on average\n"
    )
    rows = [_row(name, one, found.bound_jct_s) for name, one in found.policies.items()]
    head = [
        "policy", "average JCT, s", "spread", "× bound", "p99 JCT, s", "makespan, s", "preemptions", "lost",
        "CPU, s",
    ]  # fmt: skip
    print("\n".join(_aligned([head, *rows])))
    if seen:
        print(
            f"\nof {seen.asked} forecasts at submission {seen.within_twice:.0%} were within twice, and"
            f" {seen.in_range:.0%} of the ends in their ranges for eight of ten; {seen.cpu_s:.2f} s each"
        )
    return 0


def _row(name: str, one: Standing, bound_s: float) -> list[str]:
    spread = f"{one.least_avg_jct_s:,.0f}–{one.most_avg_jct_s:,.0f}" if one.seeds > 1 else ""
    return [
        name, f"{one.avg_jct_s:,.0f}", spread, figure(one.avg_jct_s / bound_s), f"{one.p99_jct_s:,.0f}",
        f"{one.makespan_s:,.0f}", f"{one.preemptions:,.0f}", f"{one.gpu_time_lost:.4%}", f"{one.cpu_s:.2f}",
    ]  # fmt: skip


def _aligned(rows: list[list[str]]) -> list[str]:
    wide = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            [
                row[0].ljust(wide[0]),
                *(cell.rjust(width) for cell, width in zip(row[1:], wide[1:], strict=True)),
            ]
        )
        for row in rows
    ]


if __name__ == "__main__":
    sys.exit(main())
