"""Whole commands on the device: a launch, a killed rank, a save, and what the probes add to a step."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from statistics import median

from benchmarks import launch as launches
from benchmarks import restart as restarts
from benchmarks import snapshot_stall
from benchmarks.clusters import kept_cluster
from benchmarks.gpu_check.outcome import Figure, Setting, Tell
from benchmarks.gpu_check.ranks import rank_environment
from benchmarks.ground import ground
from benchmarks.launch import chosen_device
from benchmarks.launchers import JOB, Task
from orchestrator.rank.launch.launcher import ZygoteLauncher
from orchestrator.rank.messages import StepTaken
from tests.support.ports import free_port
from tests.support.rank_harness import Bench

MILLIONS, MILLIONS_ON_CORES = 300, 10
PROBED_ROUNDS, PROBED_STEPS, WARM_UP_STEPS = 3, 200, 20
PROBE_GOAL = 0.01


def launch(setting: Setting, tell: Tell) -> None:
    """From the command to the first step: torchrun, and ours without and with a warm cluster."""
    task, total_s = chosen_device(setting.device, None), {}
    with ground(device=setting.device) as here:
        for case in (launches.WARM, launches.TORCHRUN, launches.COLD):
            found = case.launch(here, task)
            total_s[case.name] = found.total_s
            tell(Figure(case.name, found.total_s, "s"))
            for phase, seconds in found.phases.items():
                tell(Figure(f"{case.name}, {phase}", seconds, "s"))
            if case is launches.TORCHRUN:
                ratio = total_s[launches.WARM.name] / found.total_s
                goal = launches.WARM_GOAL
                tell(Figure("warm / torchrun", ratio, "", f"at most {goal:g}", ratio <= goal))


def restart(setting: Setting, tell: Tell) -> None:
    """From a killed rank to the next new step."""
    task = replace(chosen_device(setting.device, None), steps=restarts.STEPS_UNTIL_KILLED, restarts=1)
    options = {"checkpoints": "{place}/checkpoints", "every": str(restarts.SAVE_EVERY)}
    task, total_s = replace(task, script=restarts.TRAINS_ON, options=options), {}
    with ground(device=setting.device) as here:
        for name in (restarts.OURS, restarts.TORCHRUN):
            found = restarts.restart(restarts.CASES[name], here, task)
            total_s[name] = found.total_s
            tell(Figure(name, found.total_s, "s"))
            for phase, seconds in found.phases.items():
                tell(Figure(f"{name}, {restarts.PHASES[phase]}", seconds, "s"))
    ratio, goal = total_s[restarts.OURS] / total_s[restarts.TORCHRUN], restarts.GOALS[restarts.TORCHRUN]
    tell(Figure("ours / torchrun", ratio, "", f"at most {goal:g}", ratio <= goal))


def snapshot(setting: Setting, tell: Tell) -> None:
    """How long a save holds the training up: staged through the pinned arena, and by DeepSpeed itself."""
    millions = MILLIONS if setting.cuda else MILLIONS_ON_CORES
    options = {"checkpoints": "{place}/checkpoints", "parameters": str(millions * 1_000_000)}
    ranks = chosen_device(setting.device, None).ranks
    task = Task(
        ranks,
        cuda=setting.cuda,
        steps=snapshot_stall.SAVES,
        script=str(JOB / "saves.py"),
        options=options,
    )
    warm_s = {}
    with ground(device=setting.device) as here, kept_cluster(here, task) as there:
        for name, launcher in snapshot_stall.CASES.items():
            staged = name == snapshot_stall.OURS
            found = snapshot_stall.saves(launcher, here, there if staged else task, staged)
            warm_s[name] = found.warm_s
            if staged:
                tell(Figure("checkpoint", found.size / 1e9, "GB"))
                tell(Figure(f"{name}, first save", found.first_s * 1e3, "ms"))
                tell(Figure("copied to memory at", found.size / ranks / found.warm_s / 1e9, "GB/s a rank"))
                tell(Figure("committed to the disk after", found.durable_s, "s"))
            tell(Figure(f"{name}, warm saves", found.warm_s * 1e3, "ms"))
    ratio = warm_s[snapshot_stall.OURS] / warm_s[snapshot_stall.THEIRS]
    goal = snapshot_stall.GOAL
    tell(Figure("staged / DeepSpeed's own", ratio, "", f"at most {goal:g}", ratio <= goal))


def probes(setting: Setting, tell: Tell) -> None:
    """A step of an engine in a rank of ours, and in a plain process with the same environment."""
    env = rank_environment(setting)
    times: dict[str, list[float]] = {"plain": [], "probed": []}
    with closing(ZygoteLauncher(env)) as zygote:
        zygote.wait_ready()
        for turn in range(PROBED_ROUNDS):
            place = setting.folder / f"round-{turn}"
            place.mkdir()
            bench = Bench(zygote, place, env)
            words = [str(JOB / "steady_steps.py"), setting.device, str(WARM_UP_STEPS), str(PROBED_STEPS)]
            times["plain"].append(_plain_step_s(words, env))
            (rank,) = bench.start_world(*words, world_size=1)
            outcome = bench.finish(rank)
            if outcome.status != 0 or len(outcome.of(StepTaken)) != PROBED_STEPS + WARM_UP_STEPS:
                raise RuntimeError(
                    f"the rank ended with {outcome.status} and told {len(outcome.of(StepTaken))} steps:"
                    f" {outcome.output[-1500:]}"
                )
            times["probed"].append(_step_s(outcome.output))
    plain_s, ratios = median(times["plain"]), [o / p for p, o in zip(*times.values(), strict=True)]
    tell(Figure("step without probes", plain_s * 1e3, "ms"))
    tell(Figure("step with probes", median(times["probed"]) * 1e3, "ms"))
    added = median(ratios) - 1
    tell(Figure("added by the probes", 100 * added, "%", f"at most {PROBE_GOAL:.0%}", added <= PROBE_GOAL))
    tell(
        Figure("rounds without probes, apart by", 100 * (max(times["plain"]) / min(times["plain"]) - 1), "%")
    )


def _plain_step_s(words: list[str], env: dict[str, str]) -> float:
    world = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "1"}
    place = {"RANK": "0", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    command, env = [sys.executable, *words], {**env, **world, **place}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the plain process ended with {done.returncode}: {done.stderr[-1500:]}")
    return _step_s(done.stdout)


def _step_s(output: str) -> float:
    line = next(line for line in output.splitlines() if line.startswith('{"step_s"'))
    return float(json.loads(line)["step_s"])
