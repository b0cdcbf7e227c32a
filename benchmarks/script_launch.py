"""A script as it is, from its command line: python -m benchmarks.script_launch [--rounds N]

`torchrun … train.py` is typed as it is, and after `python -m orchestrator … --`, with no Ray there and on a
cluster that is kept; the time ends when all ranks have done their first step. Two scripts: plain DDP
(job/ddp_fit.py) and transformers' Trainer with DeepSpeed (job/trainer_fit.py). Then a rank of the second is
killed, under both and under Ray Train, and the time ends with the first step that none had done before. The
result replaces this benchmark's section of docs/benchmarks.md.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from statistics import median

from benchmarks import launchers, trail
from benchmarks.clusters import kept_cluster
from benchmarks.figures import interleaved_rounds, spread, table
from benchmarks.ground import Ground, ground
from benchmarks.launch import arguments, chosen_device
from benchmarks.launchers import JOB, ORCHESTRATOR_COMMAND, Launcher, Place, Task, ranks_in_words
from benchmarks.report import REPORT, conditions, write_section
from benchmarks.restart import KILLED_AFTER, PHASES, SAVE_EVERY, STEPS_UNTIL_KILLED, Restart, restart

DDP, TRAINER = "DDP", "Trainer + DeepSpeed"
SCRIPTS = {DDP: str(JOB / "ddp_fit.py"), TRAINER: str(JOB / "trainer_fit.py")}
OPTIONS = {DDP: {}, TRAINER: {"output_dir": "{place}/checkpoints", "every": str(SAVE_EVERY)}}
TORCHRUN, RAY_TRAIN, COLD, WARM = "torchrun", "Ray Train", "orchestrator, cold", "orchestrator, warm"
OURS = "orchestrator"
STEPS = 2  # none is saved


def typed_after_dashes(task: Task, place: Place) -> list[str]:
    """Torchrun's own command line, behind ours."""
    keys = [f"run_name={place.name}", f"run_dir={place.inside}/run"]
    keys += [f"recovery.max_restarts={task.restarts}"]
    keys += [] if task.cuda else ["gpu=cpu", "cluster.cpu_threads_per_rank=1"]
    command = ["torchrun", f"--nproc_per_node={task.ranks}", *launchers.script_arguments(task, place)]
    return [*ORCHESTRATOR_COMMAND, *keys, "--", *command]


AS_TYPED = Launcher(typed_after_dashes, launchers.seen_in_journal)
STARTS: dict[str, tuple[Launcher, Callable[[Ground, Task], AbstractContextManager[Task]] | None]] = {
    TORCHRUN: (launchers.TORCHRUN, None),
    COLD: (AS_TYPED, None),
    WARM: (AS_TYPED, kept_cluster),
}
RESTARTS = {TORCHRUN: launchers.TORCHRUN, RAY_TRAIN: launchers.RAY_TRAIN, OURS: AS_TYPED}


@dataclass(frozen=True)
class Start:
    """Seconds from the command to the script's first line, to its imports done, to the first step of all."""

    script_s: float
    imported_s: float
    step_s: float


def start(launcher: Launcher, here: Ground, task: Task) -> Start:
    """Start the script, let it end. Raises RuntimeError where a rank has done no step."""
    place = Place.fresh(here)
    begin_unix_s = here.run(launcher.command(task, place))
    notes = trail.read(place.folder)
    ends = [trail.last_s(notes, *point) for point in (("script", task.ranks), ("imported", task.ranks))]
    ends.append(trail.last_s(notes, "step", task.ranks, 1))
    moments = [end - begin_unix_s for end in ends if end is not None]
    if len(moments) < len(ends):
        raise RuntimeError(f"not all of {task.ranks} ranks did a step: {here.said()}")
    return Start(*moments)


def starts(here: Ground, tasks: Mapping[str, Task], rounds: int) -> dict[tuple[str, str], list[Start]]:
    """By script and by who starts it; every other round goes backwards. On the kept cluster the script has
    run before, so that what it imports is warm there."""
    cases = [(script, name) for script in tasks for name in STARTS]
    found: dict[tuple[str, str], list[Start]] = {case: [] for case in cases}
    for turn in range(rounds):
        for case in cases[:: -1 if turn % 2 else 1]:
            script, name = case
            launcher, cluster = STARTS[name]
            here.ended()
            with nullcontext(tasks[script]) if cluster is None else cluster(here, tasks[script]) as ready:
                if cluster is not None:
                    start(launcher, here, ready)
                here.rest()
                found[case].append(start(launcher, here, ready))
            print(f"round {turn + 1}/{rounds}: {script}, {name}: {found[case][-1].step_s:.2f} s", flush=True)
    return found


def restarts(here: Ground, task: Task, rounds: int) -> dict[str, list[Restart]]:
    """By launcher; every other round goes backwards."""
    found: dict[str, list[Restart]] = {name: [] for name in RESTARTS}
    for turn in range(rounds):
        for name in list(RESTARTS)[:: -1 if turn % 2 else 1]:
            here.ended()
            here.rest()
            found[name].append(restart(RESTARTS[name], here, task))
            total_s = found[name][-1].total_s
            print(f"round {turn + 1}/{rounds}: {name}, killed: {total_s:.2f} s", flush=True)
    return found


# --- the report ---------------------------------------------------------------------------------


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Median over the rounds of one by the other's of the same round."""
    return median(one / other for one, other in zip(ours, theirs, strict=True))


def starts_table(found: Mapping[tuple[str, str], Sequence[Start]]) -> list[str]:
    rows = []
    for (script, name), of_one in found.items():
        seconds = [one.step_s for one in of_one]
        theirs = [one.step_s for one in found[script, TORCHRUN]]
        parts = [median(one.script_s for one in of_one)]
        parts += [median(one.imported_s - one.script_s for one in of_one)]
        parts += [median(one.step_s - one.imported_s for one in of_one)]
        figures = [f"{median(seconds):.2f}", spread(seconds), f"{ratio(seconds, theirs):.2f}"]
        rows.append([f"{script}, {name}", *figures, *(f"{part:.2f}" for part in parts)])
    head = ["script, started by", "command to first step, s", "rounds, s", "× torchrun"]
    return table([*head, "until the script runs", "its imports", "the rest"], rows)


def restarts_table(found: Mapping[str, Sequence[Restart]]) -> list[str]:
    rows, theirs = [], [one.total_s for one in found[TORCHRUN]]
    for name, of_one in found.items():
        totals = [one.total_s for one in of_one]
        parts = [f"{median(one.phases[phase] for one in of_one):.2f}" for phase in PHASES]
        rows.append([name, f"{median(totals):.2f}", spread(totals), f"{ratio(totals, theirs):.3f}", *parts])
    head = ["started by", "kill to next new step, s", "rounds, s", "× torchrun", *PHASES.values()]
    return table(head, rows)


def verdicts(
    begun: Mapping[tuple[str, str], Sequence[Start]], again: Mapping[str, Sequence[Restart]]
) -> list[str]:
    def of_starts(script: str, name: str) -> str:
        ours, theirs = ([one.step_s for one in begun[script, each]] for each in (name, TORCHRUN))
        return f"- {script}: {name} / {TORCHRUN}: **{ratio(ours, theirs):.2f}**"

    def of_restarts(other: str) -> str:
        ours, theirs = ([one.total_s for one in again[each]] for each in (OURS, other))
        return f"- {TRAINER}, a rank killed: {OURS} / {other}: **{ratio(ours, theirs):.3f}**"

    lines = [of_starts(script, name) for script in SCRIPTS for name in (WARM, COLD)]
    return lines + [of_restarts(other) for other in RESTARTS if other != OURS]


def section(
    begun: Mapping[tuple[str, str], Sequence[Start]],
    again: Mapping[str, Sequence[Restart]],
    task: Task,
    rounds: int,
    load: float,
) -> str:
    lines = [
        "## A script as it is",
        "",
        *verdicts(begun, again),
        "",
        (
            "`torchrun --nproc_per_node=N train.py …` as it is typed, and the same line after `python -m"
            f" orchestrator … --`; {ranks_in_words(task)}, {interleaved_rounds(rounds)}, ratios are medians"
            " over the rounds. One script is a plain loop with DDP, which imports torch alone; the other"
            " trains a GPT-2 of half a million parameters by transformers' Trainer with DeepSpeed (ZeRO-1,"
            ' "auto" in the file). Cold: no Ray is there. Warm: on a cluster that `orchestrator up` keeps'
            " and on which the script has run before, so that the zygote there has imported what it imports."
        ),
        "",
        *starts_table(begun),
        "",
        (
            f"After a kill: the Trainer's script saves every {SAVE_EVERY} steps and resumes from its newest"
            f" checkpoint by itself; one rank gets SIGKILL after step {KILLED_AFTER}. `torchrun"
            " --max-restarts=1` with `TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1` (PyTorch issue 135712), Ray"
            " Train's TorchTrainer with `max_failures=1`."
        ),
        "",
        *restarts_table(again),
        "",
        *conditions(f"python -m benchmarks.script_launch --rounds {rounds}", load),
    ]
    return "\n".join(lines)


def main() -> int:
    args, load = arguments(5, __doc__, device=True).parse_args(), os.getloadavg()[0]
    missing = [name for name in ("transformers", "accelerate") if importlib.util.find_spec(name) is None]
    if missing:
        raise SystemExit(f"{' and '.join(missing)} not installed: pip install 'orchestrator[scripts]'")
    task = chosen_device(args.device, args.ranks)
    tasks = {
        name: replace(task, script=script, options=OPTIONS[name], steps=STEPS)
        for name, script in SCRIPTS.items()
    }
    with ground(device="cuda" if task.cuda else "cpu") as here:
        begun = starts(here, tasks, args.rounds)
        again = restarts(here, replace(tasks[TRAINER], steps=STEPS_UNTIL_KILLED, restarts=1), args.rounds)
    text = section(begun, again, task, args.rounds, load)
    write_section("script_launch", text)
    print(f"\n{text}\n\nwritten to {REPORT.relative_to(REPORT.parents[1])}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
