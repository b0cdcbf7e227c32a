"""How near a calibrated plan comes to runs that it has not seen: python -m benchmarks.planner_on_this_machine

`jobs/pretrain.py` trains models of several shapes and batches for some steps each. `orchestrator calibrate`
is fitted to half of the runs, and predicts step time and memory of the others; then the halves change places.
The result replaces this benchmark's section of docs/benchmarks.md.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.figures import percentile, table
from benchmarks.ground import Ground, ground
from benchmarks.launch import arguments, chosen_device
from benchmarks.launchers import ORCHESTRATOR_COMMAND, Task, orchestrator_cluster, ranks_in_words
from benchmarks.report import REPORT, conditions, write_section
from orchestrator.planner.calibrate import fit_group
from orchestrator.planner.measured_run import MeasuredRun, measured_run
from tests.support.measured_runs import configuration

GOAL = 0.15
ROOT = REPORT.parents[1]


@dataclass(frozen=True)
class Shape:
    """Of one run: a model, and its batch on one rank."""

    layers: int
    hidden: int
    seq_len: int
    micro_batch: int
    accumulation: int = 1

    @property
    def name(self) -> str:
        return f"{self.layers}x{self.hidden}-{self.seq_len}-{self.micro_batch}x{self.accumulation}"

    @property
    def keys(self) -> list[str]:
        heads, ffn = self.hidden // 64, 64 * round(self.hidden * 8 / 3 / 64)
        model = {"layers": self.layers, "hidden": self.hidden, "heads": heads, "kv_heads": heads}
        model |= {"ffn": ffn, "seq_len": self.seq_len}
        batch = [f"job.micro_batch={self.micro_batch}", f"job.gradient_accumulation={self.accumulation}"]
        return [*(f"model.{key}={value}" for key, value in model.items()), *batch]


# Neighbours lie in different halves; each half has small and large ones of every kind.
ON_CORES = (
    Shape(2, 128, 128, 4), Shape(2, 192, 256, 4), Shape(4, 256, 128, 4), Shape(4, 256, 256, 8),
    Shape(6, 384, 256, 2), Shape(4, 384, 256, 4), Shape(8, 512, 256, 1), Shape(6, 512, 256, 2),
    Shape(4, 256, 256, 2, 4), Shape(2, 384, 256, 2, 2), Shape(2, 512, 512, 2), Shape(3, 256, 512, 2),
)  # fmt: skip
ON_GPUS = (
    Shape(8, 1024, 1024, 4), Shape(12, 1024, 1024, 8), Shape(12, 1536, 2048, 2), Shape(16, 1536, 2048, 4),
    Shape(16, 2048, 2048, 2), Shape(24, 2048, 2048, 4), Shape(16, 2048, 1024, 4, 4),
    Shape(12, 2048, 1024, 8, 2),
)  # fmt: skip


@dataclass(frozen=True)
class Foretold:
    """A run that was predicted from others: relative errors, None where the figure was not measured."""

    run: MeasuredRun
    step_time_s: float
    memory_bytes: int

    @property
    def step_error(self) -> float | None:
        return self.step_time_s / self.run.step_time_s - 1 if self.run.step_time_s else None

    @property
    def memory_error(self) -> float | None:
        return self.memory_bytes / self.run.memory_bytes - 1 if self.run.memory_bytes else None


def trained(here: Ground, task: Task, shape: Shape, steps: int, alone: bool = True) -> MeasuredRun:
    """One run, as its journal tells it; `alone` waits until its Ray is gone too."""
    keys = [
        "job=pretrain",
        f"job.script={ROOT / 'jobs' / 'pretrain.py'}",
        *orchestrator_cluster(task),
        *shape.keys,
    ]
    keys += [f"run_name={shape.name}", f"job.steps={steps}", "job.global_batch=null", "deepspeed=zero1"]
    keys += [f"job.args.{name}=0" for name in ("val_every", "checkpoint_every", "sample_tokens")]
    here.rest()
    here.run([*ORCHESTRATOR_COMMAND, *keys, "job.args.checkpoint_dir=null", "snapshot.enabled=false"])
    if alone:
        here.ended()
    return measured_run(here.folder / "runs" / shape.name, configuration().planner, unfinished=False)


def foretold(runs: Sequence[MeasuredRun]) -> list[Foretold]:
    """Each half by a calibration on the other."""
    found = []
    for half in (0, 1):
        known, unknown = runs[1 - half :: 2], runs[half::2]
        calibration = fit_group(known[0].group, known).calibration
        for run in unknown:
            assert run.step is not None
            memory = calibration.apply_memory(run.memory).total_bytes
            found.append(Foretold(run, calibration.apply(run.step).total_s, memory))
    return sorted(found, key=lambda one: one.run.step_time_s or 0.0)


def _spread(errors: Sequence[float | None]) -> str:
    sizes = [100 * abs(error) for error in errors if error is not None]
    return (
        f"{median(sizes):.0f}% (nine of ten within {percentile(sizes, 0.9):.0f}%, all within"
        f" {max(sizes):.0f}%)"
    )


def section(found: Sequence[Foretold], task: Task, steps: int, load: float) -> str:
    rows = []
    for one in found:
        step_s, memory = one.run.step_time_s, one.run.memory_bytes
        row = [
            one.run.name,
            f"{1000 * (step_s or 0):.0f}",
            f"{1000 * one.step_time_s:.0f}",
            _percent(one.step_error),
        ]
        rows.append(
            [*row, f"{(memory or 0) / 1e6:.0f}", f"{one.memory_bytes / 1e6:.0f}", _percent(one.memory_error)]
        )
    head = ["layers x hidden - sequence - micro-batch x accumulation", "step, ms", "predicted, ms", "error"]
    lines = [
        "## A calibrated plan",
        "",
        (
            f"{ranks_in_words(task)}, ZeRO-1, {len(found)} shapes of `jobs/pretrain.py`, {steps} steps each."
            " `orchestrator calibrate` is fitted to every other run and predicts the rest, then the halves"
            " change places: no run is predicted from itself."
        ),
        "",
        *table([*head, "memory per rank, MB", "predicted, MB", "error"], rows),
        "",
        (
            f"Median of the errors: step time {_spread([one.step_error for one in found])}, memory "
            f"{_spread([one.memory_error for one in found])}. The goal is {GOAL:.0%}."
        ),
        "",
        *conditions(f"python -m benchmarks.planner_on_this_machine --steps {steps}", load),
    ]
    return "\n".join(lines)


def _percent(error: float | None) -> str:
    return "–" if error is None else f"{error:+.0%}"


def main() -> int:
    parser = arguments(1, __doc__, device=True)
    parser.add_argument("--steps", type=int, default=24, help="of each run; the first three do not count")
    args, load = parser.parse_args(), os.getloadavg()[0]
    task = chosen_device(args.device, args.ranks)
    runs = []
    with ground(device="cuda" if task.cuda else "cpu") as here:
        for shape in ON_GPUS if task.cuda else ON_CORES:
            run = trained(here, task, shape, args.steps)
            runs.append(run)
            print(f"{shape.name}: {run.step_time_s} s, {run.memory_bytes} bytes", flush=True)
    text = section(foretold(runs), task, args.steps, load)
    write_section("planner_on_this_machine", text)
    print(f"\n{text}\n\nwritten to {REPORT.relative_to(REPORT.parents[1])}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
