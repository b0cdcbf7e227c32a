"""Tokens per second once it runs: python -m benchmarks.steady [--rounds N] [--steps N]

`job=tiny_gpt`, the real training job, is run under the orchestrator and under torchrun in turn. torchrun
gets what `orchestrator plan --json` prints: script, arguments, environment and DeepSpeed's JSON. The speed
is what the job itself prints. The result replaces this benchmark's section of docs/benchmarks.md.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import harmonic_mean, median
from typing import Any

from benchmarks.figures import interleaved_rounds, median_interval, spread, table
from benchmarks.ground import BIN, Ground, ground
from benchmarks.launch import arguments, chosen_device
from benchmarks.launchers import ORCHESTRATOR_COMMAND, Task, orchestrator_cluster
from benchmarks.report import REPORT, conditions, write_section
from tests.support.ports import free_port

WARM_UP_STEPS, STEPS_PER_LINE = 20, 5
GOAL, LEAST_SURE = 0.01, 0.8
OURS, THEIRS = "orchestrator", "torchrun"
ROOT = REPORT.parents[1]


def overrides(task: Task, steps: int) -> list[str]:
    """The job without what is no step: no validation, checkpoint or sample."""
    keys = ["job=tiny_gpt", f"job.script={ROOT / 'jobs' / 'pretrain.py'}", *orchestrator_cluster(task)]
    keys += [f"job.steps={WARM_UP_STEPS + steps}", f"job.args.log_every={STEPS_PER_LINE}"]
    keys += [f"job.args.{name}=0" for name in ("val_every", "checkpoint_every", "sample_tokens")]
    return [*keys, "job.args.checkpoint_dir=null"]


def planned(here: Ground, keys: Sequence[str]) -> dict[str, Any]:
    command = [*ORCHESTRATOR_COMMAND, "plan", "--json", *keys]
    done = subprocess.run(
        command, cwd=here.folder, env=here.env, stdout=subprocess.PIPE, text=True, check=True
    )
    plan: dict[str, Any] = json.loads(done.stdout)
    return plan


def by_torchrun(here: Ground, plan: Mapping[str, Any]) -> str:
    """What rank 0 printed."""
    settings = here.folder / "deepspeed.json"
    settings.write_text(json.dumps(plan["deepspeed"]))
    arguments = [word.replace("{deepspeed_config}", str(settings)) for word in plan["args"]]
    how = [f"--nproc_per_node={plan['layout']['ranks']}", f"--master_port={free_port()}"]
    environment = {name: setting["value"] for name, setting in plan["environment"].items()}
    replace(here, env=here.env | environment).run([str(BIN / "torchrun"), *how, plan["script"], *arguments])
    return here.said(most=None)


def by_orchestrator(here: Ground, keys: Sequence[str], turn: int) -> str:
    """What rank 0 printed."""
    run_dir = here.folder / f"run-{turn}"
    here.run([*ORCHESTRATOR_COMMAND, f"run_dir={run_dir}", *keys])
    (log,) = run_dir.glob("logs/attempt-1.rank-0.log")
    return log.read_text()


def tokens_per_s(printed: str, steps: int) -> float:
    """Of all steps after the warm-up: each line stands for as many tokens as any other."""
    lines = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    rates = [
        line["tokens_per_s"] for line in lines if "tokens_per_s" in line and line["step"] > WARM_UP_STEPS
    ]
    if len(rates) != steps // STEPS_PER_LINE:
        raise RuntimeError(
            f"{steps // STEPS_PER_LINE} rates were to be printed, {len(rates)} were: {printed[-2000:]}"
        )
    return harmonic_mean(rates)


def interleaved(here: Ground, task: Task, steps: int, rounds: int) -> dict[str, list[float]]:
    """Tokens per second by launcher and round; every other round goes backwards."""
    keys = overrides(task, steps)
    plan = planned(here, keys)
    speeds: dict[str, list[float]] = {THEIRS: [], OURS: []}
    for turn in range(rounds):
        for name in list(speeds)[:: -1 if turn % 2 else 1]:
            here.ended()
            here.rest()
            printed = by_orchestrator(here, keys, turn) if name == OURS else by_torchrun(here, plan)
            speeds[name].append(tokens_per_s(printed, steps))
            print(f"round {turn + 1}/{rounds}: {name}: {speeds[name][-1]:,.0f} tokens/s", flush=True)
    return speeds


# --- the report ---------------------------------------------------------------------------------


def ratios(speeds: Mapping[str, Sequence[float]]) -> list[float]:
    return [ours / theirs for ours, theirs in zip(speeds[OURS], speeds[THEIRS], strict=True)]


def verdict(low: float, high: float, sure: float) -> str:
    """What the interval of the ratio allows to say about the goal."""
    if sure < LEAST_SURE:
        return f"not decided: too few rounds to be {LEAST_SURE:.0%} sure of anything"
    if low >= 1 - GOAL:
        word = "met: all of the interval is"
    elif high < 1 - GOAL:
        word = "MISSED: none of the interval is"
    else:
        word = f"not decided at {sure:.0%}: part of the interval is"
    return f"{word} within {GOAL:.0%} of torchrun, or faster"


def section(speeds: Mapping[str, Sequence[float]], task: Task, steps: int, load: float) -> str:
    rounds = len(speeds[OURS])
    of_rounds = ratios(speeds)
    low, high, sure = median_interval(of_rounds)
    rows = [[name, f"{median(rates):,.0f}", spread(rates, 0)] for name, rates in speeds.items()]
    units = "GPUs" if task.cuda else "processor cores, one thread each"
    lines = [
        "## Speed once it runs",
        "",
        (
            f"Orchestrator / torchrun: **{median(of_rounds):.4f}**, {low:.4f} to {high:.4f} with a confidence"
            f" of {sure:.0%}. Goal: within {GOAL:.0%}; {verdict(low, high, sure)}."
        ),
        "",
        (
            f"`job=tiny_gpt` on {task.ranks} {units}: {steps} steps after {WARM_UP_STEPS} to warm up, as the"
            f" job itself counts them; {interleaved_rounds(rounds)}, the same script, arguments, environment"
            " and DeepSpeed JSON. The ratio is the median over the rounds, its interval that of the sign"
            " test, which supposes nothing of how the rounds are distributed."
        ),
        "",
        *table(["started by", "tokens/s, median", "rounds"], rows),
        "",
        (
            f"Ratios of the rounds: {', '.join(f'{ratio:.3f}' for ratio in of_rounds)}. The orchestrator's"
            " probes, its agent, Ray and the MLflow process are all in it; they have the cores to themselves"
            " that the ranks leave."
        ),
        "",
        *conditions(f"python -m benchmarks.steady --rounds {rounds} --steps {steps}", load),
    ]
    return "\n".join(lines)


def main() -> int:
    parser = arguments(8, __doc__, device=True)
    parser.add_argument("--steps", type=int, default=120)
    args = parser.parse_args()
    if args.steps % STEPS_PER_LINE:
        parser.error(f"--steps={args.steps}: the job prints every {STEPS_PER_LINE} steps; give a multiple")
    task, load = chosen_device(args.device, args.ranks), os.getloadavg()[0]
    with ground(device="cuda" if task.cuda else "cpu") as here:
        speeds = interleaved(here, task, args.steps, args.rounds)
    text = section(speeds, task, args.steps, load)
    write_section("steady", text)
    print(f"\n{text}\n\nwritten to {REPORT.relative_to(ROOT)}")
    _low, high, sure = median_interval(ratios(speeds))
    return 1 if sure >= LEAST_SURE and high < 1 - GOAL else 0


if __name__ == "__main__":
    sys.exit(main())
