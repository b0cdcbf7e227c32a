"""What is asked of the fleet and what it reaches: python -m benchmarks.fleet_goals [--trace FILE] [--drawn]

Each trace has a column: those that are named, and with `--drawn` one of each kind that is drawn by
benchmarks/fleet_drawn.py. What is missed has a star. Ours is the mean of three seeds where it is told
durations, and of one where it takes a setting of its own. Teams: the trace's jobs are of two teams at random,
each with half of the GPUs; a cost of delay of 1, 10 and 100 dollars an hour and deadlines for a fifth of the
jobs are drawn as in benchmarks/fleet_teams.py. `--submit-scale 0` has all jobs of each trace submitted at
once, 0.5 in half of the time. Rows without "at most" say how far anybody could come: SRSF is told every
duration, and who ends early, and no policy is below what the jobs take without a wait. Speeds have benchmarks
of their own.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks import fleet_drawn, fleet_teams
from orchestrator import papers
from orchestrator.errors import OrchestratorError
from orchestrator.fleet.contest import Setting, Standing, standings
from orchestrator.fleet.hindsight import hindsight
from orchestrator.fleet.settings import Policy
from orchestrator.fleet.trace import Arrivals, TraceJob
from orchestrator.fleet.trace_formats import read_trace

_MOST_BYTES = 1 << 30
_HALVES = ("left", "right")
_FORECASTS = 120


@dataclass(frozen=True)
class Goal:
    """``least`` and ``most`` are what it has to be between."""

    name: str
    words: str
    most: float = float("inf")
    least: float = 0.0
    as_percent: bool = False

    def told(self, value: float | None) -> str:
        if value is None:
            return "–"
        share = f"{value:.3%}" if value < 0.05 else f"{value:.1%}"
        text = share if self.as_percent else f"{value:.2f}"
        return text if self.least <= value <= self.most else f"{text} *"


GOALS = (
    Goal("ours_over_srsf", "average of ours, of SRSF's that knows durations: 1.10 at most", 1.10),
    Goal("ours_over_tiresias", "average of ours, of Tiresias-L's: 0.58 at most", 0.58),
    Goal("srsf_over_tiresias", "the same of SRSF's"),
    Goal("p99_over_better", "p99 of ours, of the better of these two: 1.10 at most", 1.10),
    Goal("srsf_p99_over_better", "the same of SRSF's"),
    Goal("blind_over_tiresias", "average of ours_blind, of Tiresias-L's: below 1", 1.0),
    Goal("early_over_tiresias", "the same of ours where 30% end early: 0.5 at most (trace 3: 0.6)", 0.5),
    Goal("early_srsf_over_tiresias", "the same of SRSF's, which knows who ends early"),
    Goal("lost_3s", "GPU time lost at 3 s a restart: 0.1% at most", 0.001, as_percent=True),
    Goal("lost_1800s", "at 1,800 s: 2% at most", 0.02, as_percent=True),
    Goal("delay_over_easy", "dollars of delay, of EASY's that knows durations: 0.2 at most", 0.2),
    Goal("deadlines_met", "deadlines met: 99% at least", least=0.99, as_percent=True),
    Goal("shared_over_partitions", "average with two quotas, of two partitions'"),
    Goal("takes_over_partitions", "the same if nobody waited at all"),
    Goal("worst_team", "the same of the worse-off team: 1 at most", 1.0),
    Goal("within_twice", "forecasts within twice: 80% at least", least=0.8, as_percent=True),
    Goal("in_range", "within their ranges: 70% to 90%", 0.9, 0.7, as_percent=True),
)  # fmt: skip


def _policies(jobs: Sequence[TraceJob], gpus: int) -> dict[str, float]:
    found = standings(jobs, Setting(gpus), ["srsf", "tiresias_l", "ours", "ours_blind"])
    better_s = min(found["srsf"].p99_jct_s, found["tiresias_l"].p99_jct_s)
    return {
        "ours_over_srsf": _ratio(found, "ours", "srsf"),
        "ours_over_tiresias": _ratio(found, "ours", "tiresias_l"),
        "srsf_over_tiresias": _ratio(found, "srsf", "tiresias_l"),
        "p99_over_better": found["ours"].p99_jct_s / better_s,
        "srsf_p99_over_better": found["srsf"].p99_jct_s / better_s,
        "blind_over_tiresias": _ratio(found, "ours_blind", "tiresias_l"),
        "lost_3s": found["ours"].gpu_time_lost,
    }


def _early(jobs: Sequence[TraceJob], gpus: int) -> dict[str, float]:
    found = standings(jobs, Setting(gpus, early=0.3), ["srsf", "tiresias_l", "ours"])
    return {
        "early_over_tiresias": _ratio(found, "ours", "tiresias_l"),
        "early_srsf_over_tiresias": _ratio(found, "srsf", "tiresias_l"),
    }


def _slow(jobs: Sequence[TraceJob], gpus: int) -> dict[str, float]:
    found = standings(jobs, Setting(gpus, restart_s=1800.0, seeds=(0,)), ["ours"])
    return {"lost_1800s": found["ours"].gpu_time_lost}


def _teams(jobs: Sequence[TraceJob], gpus: int) -> dict[str, float]:
    """With gangs that half of the GPUs are too few for there is one team."""
    arrivals = Arrivals.of(jobs)
    rng = np.random.default_rng(0)
    teams = _HALVES if arrivals.gpus.max() <= gpus // len(_HALVES) else _HALVES[:1]
    team = rng.integers(0, len(teams), len(jobs))
    draw = fleet_teams.draw_of(rng, arrivals.submit_s, arrivals.duration_s, arrivals.gpus, team, teams, gpus)
    return fleet_teams.measure(draw)


def _forecasts(jobs: Sequence[TraceJob], gpus: int) -> dict[str, float]:
    seen = hindsight(jobs, gpus, Policy(), asked=_FORECASTS)
    return {"within_twice": seen.within_twice, "in_range": seen.in_range}


PARTS = {"policies": _policies, "early": _early, "slow": _slow, "teams": _teams, "forecasts": _forecasts}


def _ratio(found: dict[str, Standing], one: str, other: str) -> float:
    return found[one].avg_jct_s / found[other].avg_jct_s


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trace", action="append", default=[], type=Path)
    parser.add_argument("--drawn", action="store_true")
    parser.add_argument("--kinds", default=",".join(fleet_drawn.KINDS))
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn")
    parser.add_argument("--gpus", type=int, default=64)
    parser.add_argument("--jobs", type=int, default=1000, help="of what is drawn")
    parser.add_argument(
        "--submit-scale", type=float, default=1.0, help="times when each is submitted; 0: all at once"
    )
    parser.add_argument("--parts", default=",".join(PARTS), help="of the goals, those that are measured")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    try:
        traces = {
            path.stem: read_trace(papers.read_text(path, _MOST_BYTES), str(path)) for path in asked.trace
        }
    except (OrchestratorError, papers.PaperError, OSError) as error:
        print(f"benchmarks.fleet_goals: {error}", file=sys.stderr)
        return 2
    if asked.drawn:
        traces |= {
            f"{kind}": fleet_drawn.drawn(kind, asked.seed, asked.jobs) for kind in asked.kinds.split(",")
        }
    found: dict[str, dict[str, float]] = {}
    for name, given in traces.items():
        jobs = [replace(job, submit_s=job.submit_s * asked.submit_scale) for job in given]
        found[name] = {}
        for part in asked.parts.split(","):
            found[name] |= PARTS[part](jobs, asked.gpus)
        print(f"{name}: {len(jobs):,} jobs {found[name]}", file=sys.stderr, flush=True)
    if asked.json:
        print(json.dumps(found, indent=2))
        return 0
    print("| " + " | ".join(["asked", *found]) + " |")
    print("|---|" + "---:|" * len(found))
    for goal in GOALS:
        print(
            "| " + " | ".join([goal.words, *(goal.told(row.get(goal.name)) for row in found.values())]) + " |"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
