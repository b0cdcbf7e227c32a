"""From the command to the first step done: python -m benchmarks.launch [--rounds N] [--ranks N]

The same small DeepSpeed job, job/first_step.py, is started by torchrun, by the deepspeed launcher, by Ray
Train and by the orchestrator, in turn; the last two with no Ray there, and again on a cluster that is kept,
the orchestrator there also from a process that forks drivers.
What runs before the script is known from what each tool leaves behind, the rest from the script's own
notes. The result replaces this benchmark's section of docs/benchmarks.md, and docs/images/launch.svg.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from statistics import median

from benchmarks import launchers
from benchmarks.clusters import kept_cluster, kept_cluster_and_host, ray_cluster
from benchmarks.figures import interleaved_rounds, spread, table
from benchmarks.ground import Ground, ground
from benchmarks.launchers import Launcher, Task
from benchmarks.phases import Launch, phase_rows, total_s, typical
from benchmarks.picture import draw
from benchmarks.report import REPORT, conditions, gpus, write_section

ROOT = REPORT.parents[1]
WARM_GOAL, FORKED_GOAL, COLD_GOAL = 0.35, 0.1, 0.5


@dataclass(frozen=True)
class Case:
    """A way to start the job; `cluster` is what has to be there before, and is not timed."""

    name: str
    launcher: Launcher
    cluster: Callable[[Ground, Task], AbstractContextManager[Task]] | None = None

    def ready(self, here: Ground, task: Task) -> AbstractContextManager[Task]:
        """What has to be there stands; the task says where."""
        here.ended()
        return nullcontext(task) if self.cluster is None else self.cluster(here, task)

    def launch(self, here: Ground, task: Task) -> Launch:
        with self.ready(here, task) as ready:
            here.rest()
            return self.launcher.launch(here, ready)


TORCHRUN = Case("torchrun", launchers.TORCHRUN)
DEEPSPEED = Case("deepspeed", launchers.DEEPSPEED)
RAY_COLD = Case("Ray Train, cold", launchers.RAY_TRAIN)
RAY_WARM = Case("Ray Train, warm", launchers.RAY_TRAIN, ray_cluster)
COLD = Case("orchestrator, cold", launchers.ORCHESTRATOR)
WARM = Case("orchestrator, warm", launchers.ORCHESTRATOR, kept_cluster)
FORKED = Case("orchestrator, forked", launchers.FORKED, kept_cluster_and_host)
CASES = (TORCHRUN, DEEPSPEED, RAY_COLD, COLD, RAY_WARM, WARM, FORKED)


def interleaved(
    cases: Sequence[Case], task: Task, here: Ground, rounds: int, say: str = ""
) -> dict[str, list[Launch]]:
    """The launches of each case by round; every other round goes backwards."""
    launches: dict[str, list[Launch]] = {case.name: [] for case in cases}
    for turn in range(rounds):
        for case in cases[:: -1 if turn % 2 else 1]:
            launch = case.launch(here, task)
            launches[case.name].append(launch)
            print(f"{say}round {turn + 1}/{rounds}: {case.name}: {launch.total_s:.2f} s", flush=True)
    return launches


def ratio(launches: Mapping[str, Sequence[Launch]], ours: Case, theirs: Case) -> float:
    """Median over the rounds of one total by the other's of the same round."""
    pairs = zip(launches[ours.name], launches[theirs.name], strict=True)
    return median(one.total_s / other.total_s for one, other in pairs)


# --- the report ---------------------------------------------------------------------------------


def verdict(launches: Mapping[str, Sequence[Launch]], ours: Case, theirs: Case, goal: float) -> str:
    value = ratio(launches, ours, theirs)
    word = "met" if value <= goal else "MISSED"
    return f"- {ours.name} / {theirs.name}: **{value:.2f}** (goal: {goal:g} at most; {word})"


def reading(launches: Mapping[str, Sequence[Launch]], cuda: bool) -> str:
    """What the figures say, in words."""

    def share(case: Case, *phases: str) -> str:
        launch = typical(launches[case.name])
        return f"{sum(launch.phases.get(phase, 0.0) for phase in phases) / launch.total_s:.0%}"

    text = (
        f"Imports rule. A rank of torchrun spends {share(TORCHRUN, 'import', 'initialize')} of the launch on"
        " `import` and `initialize`, and the second is imports too, which DeepSpeed leaves until then. A"
        " rank that is forked has them already. What is left of a warm launch is the command's own start"
        f" ({share(WARM, 'tool')}), joining Ray ({share(WARM, 'attach')}) and the placement"
        f" ({share(WARM, 'place')}); of a cold one, the start of Ray ({share(COLD, 'attach')}), during which"
        " the zygote imports, so that hardly anything is left to wait for in `spawn`"
        f" ({share(COLD, 'spawn')})."
    )
    if not cuda:
        text += (
            " Not measured: a GPU. CUDA contexts and NCCL's start come on top of every row there, the same"
            " for all launchers, so that the ratios come closer to 1."
        )
    return text


def section(launches: Mapping[str, Sequence[Launch]], task: Task, rounds: int, load: float) -> str:
    torchrun_s = total_s(launches[TORCHRUN.name])
    totals = []
    for name, of_one in launches.items():
        seconds = [launch.total_s for launch in of_one]
        middle = median(seconds)
        totals.append([name, f"{middle:.2f}", spread(seconds), f"{middle / torchrun_s:.2f}"])
    lines = [
        "## From the command to the first step",
        "",
        verdict(launches, WARM, TORCHRUN, WARM_GOAL),
        verdict(launches, FORKED, TORCHRUN, FORKED_GOAL),
        verdict(launches, COLD, RAY_COLD, COLD_GOAL),
        f"- {WARM.name} / {RAY_WARM.name}: {ratio(launches, WARM, RAY_WARM):.2f}",
        "",
        (
            f"One DeepSpeed script (ZeRO-2, {'NCCL' if task.cuda else 'gloo'}, a model of a quarter of a"
            f" million parameters, made-up data) on {task.ranks}"
            f" {'GPUs' if task.cuda else 'processor cores, one thread each'}; {interleaved_rounds(rounds)},"
            " DeepSpeed's shared-memory collective off for all. Cold: no Ray is there. Warm: on a cluster"
            " that was started before, by `ray start` for Ray Train and by `orchestrator up` for the"
            " orchestrator. Forked: on such a cluster, and the driver from a process that has imported what"
            " it needs, as a queue starts it. Ratios are medians over the rounds."
        ),
        "",
        *table(["started by", "median, s", "rounds, s", "× torchrun"], totals),
        "",
        "![Seconds from the command to the first step done, by launcher and phase](images/launch.svg)",
        "",
        "Seconds by phase, of the launch with the median total:",
        "",
        *table(["phase", *launches], phase_rows(launches)),
        "",
        (
            "*tool*: the command's own imports and planning (of torchrun and deepspeed: all until the ranks'"
            " processes begin); *attach*: start Ray, or join it; *place*: resources and agents; *spawn*:"
            " until the ranks' processes begin; *start*: until the script's first line. Ray Train starts its"
            " workers ahead of time, and they import torch and form the process group before the script runs:"
            " its *start* holds all of that."
        ),
        "",
        reading(launches, task.cuda),
        "",
        *conditions(f"python -m benchmarks.launch --rounds {rounds} --ranks {task.ranks}", load),
    ]
    return "\n".join(lines)


def chosen_device(wanted: str, ranks: int | None) -> Task:
    """`auto` takes the GPUs of this machine, two at most; processor cores where it has none."""
    count = 0 if wanted == "cpu" else len(gpus())
    if wanted == "cuda" and not count:
        raise SystemExit(
            "--device=cuda: this machine has no NVIDIA GPU that its driver shows; use --device=cpu"
        )
    if count and ranks and ranks > count:
        raise SystemExit(
            f"--ranks={ranks}: this machine has {count} GPUs; ask for fewer, or use --device=cpu"
        )
    return Task(ranks or (min(2, count) if count else 2), cuda=bool(count))


def arguments(rounds: int, about: str | None, device: bool = False) -> argparse.ArgumentParser:
    """The flags that benchmarks share; `device` for those that can use GPUs too."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=rounds)
    if device:
        parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
        parser.add_argument("--ranks", type=int, help="default: 2, or 1 where there is one GPU")
    return parser


def main() -> int:
    args = arguments(5, __doc__, device=True).parse_args()
    task, load = chosen_device(args.device, args.ranks), os.getloadavg()[0]
    with ground(device="cuda" if task.cuda else "cpu") as here:
        launches = interleaved(CASES, task, here, args.rounds)
    text = section(launches, task, args.rounds, load)
    write_section("launch", text)
    draw(launches)
    print(f"\n{text}\n\nwritten to {REPORT.relative_to(ROOT)}")
    goals = ((WARM, TORCHRUN, WARM_GOAL), (FORKED, TORCHRUN, FORKED_GOAL), (COLD, RAY_COLD, COLD_GOAL))
    return 0 if all(ratio(launches, ours, theirs) <= goal for ours, theirs, goal in goals) else 1


if __name__ == "__main__":
    sys.exit(main())
