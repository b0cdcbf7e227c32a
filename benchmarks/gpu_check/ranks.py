"""Ranks on the device itself, without Ray: what a fork keeps, what a context and a communicator take."""

from __future__ import annotations

import json
import os
import time
from contextlib import closing
from statistics import median
from typing import Any

import pynvml

import orchestrator as orc
from benchmarks.gpu_check.outcome import Figure, Setting, Tell
from benchmarks.launchers import JOB
from orchestrator.rank.launch.launcher import ExecLauncher, Launcher, ZygoteLauncher
from tests.support.rank_harness import Bench, environment

# What a driver's libraries are found by, and what chooses among the GPUs.
HANDED_ON = ("LD_LIBRARY_PATH", "CUDA_HOME", "CUDA_VISIBLE_DEVICES", "PYTHONPATH", "VIRTUAL_ENV")
FORKS = 3


def rank_environment(setting: Setting) -> dict[str, str]:
    """What the plan of a job on this machine gives to its ranks, and what finds the driver."""
    keys = [] if setting.cuda else ["gpu=cpu", "cluster.cpu_threads_per_rank=1"]
    plan = orc.make_plan(orc.compose("job=pretrain", "cluster.gpus_per_node=1", *keys))
    planned = {name: setting_.value for name, setting_ in plan.environment.items()}
    handed_on = {name: os.environ[name] for name in HANDED_ON if name in os.environ}
    return environment(**{"DS_ACCELERATOR": setting.device, **handed_on, **planned})


def fork(setting: Setting, tell: Tell) -> None:
    """A zygote imports and holds no context; its children use the device; the same by exec beside it."""
    env = rank_environment(setting)
    begun_s = time.monotonic()
    with closing(ZygoteLauncher(env)) as zygote, closing(ExecLauncher()) as by_exec:
        zygote.wait_ready()
        tell(Figure("zygote ready", time.monotonic() - begun_s, "s"))
        forked = [_first_use(setting, zygote, env, turn) for turn in range(FORKS)]
        clean = not any(one["initialized_before"] for one in forked)
        tell(Figure("CUDA is untouched before a fork", "yes" if clean else "no", "", "yes", clean))
        if setting.cuda:
            holds = zygote.pid in context_holders()
            said = "it holds one" if holds else "it holds none"
            tell(Figure("context of the zygote", said, "", "none", not holds))
        tell(Figure("fork to first line", median(one["began"] - one["asked"] for one in forked), "s"))
        tell(Figure("first use of the device", median(one["used"] - one["imported"] for one in forked), "s"))
        ours = median(one["used"] - one["asked"] for one in forked)
        other = _first_use(setting, by_exec, env, FORKS)
        theirs = other["used"] - other["asked"]
        tell(Figure("fork until the device is used", ours, "s"))
        tell(Figure("exec until the device is used", theirs, "s"))
        tell(Figure("fork / exec", ours / theirs, "", "at most 0.5", ours / theirs <= 0.5))


def context_holders() -> set[int]:
    """Processes with a context on any GPU; in a container the driver may know them by other numbers."""
    pynvml.nvmlInit()
    try:
        handles = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
        return {
            process.pid
            for handle in handles
            for process in pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
        }
    finally:
        pynvml.nvmlShutdown()


def collectives(setting: Setting, tell: Tell, megabytes: int = 256) -> None:
    """The process group of the plan's environment: its start, and all-reduces on all GPUs that are here."""
    env = rank_environment(setting)
    ranks = max(1, len(orc_gpus())) if setting.cuda else 2
    with closing(ZygoteLauncher(env)) as zygote:
        zygote.wait_ready()
        bench = Bench(zygote, setting.folder, env)
        words = (str(JOB / "collectives.py"), setting.device, str(megabytes))
        started = bench.start_world(*words, world_size=ranks)
        outcomes = [bench.finish(rank) for rank in started]
    for outcome in outcomes:
        if outcome.status != 0:
            raise RuntimeError(f"a rank ended with {outcome.status}: {outcome.output[-1500:]}")
    told = [_last_json(outcome.output) for outcome in outcomes]
    slowest = [max(seconds) for seconds in zip(*(one["seconds"] for one in told), strict=True)]
    init, first, second, _, large, destroy = slowest
    tell(Figure("ranks", ranks))
    tell(Figure("NCCL", told[0]["nccl"]))
    tell(Figure("process group", init, "s"))
    tell(Figure("first all-reduce", first, "s"))
    tell(Figure("second all-reduce", second * 1e6, "µs"))
    bytes_on_the_wire = (megabytes << 20) * 2 * (ranks - 1) / ranks
    if bytes_on_the_wire:
        rate = bytes_on_the_wire / large / 1e9
        tell(Figure(f"bus bandwidth at {megabytes} MiB", rate, "GB/s"))
    tell(Figure("end of the process group", destroy, "s"))


def orc_gpus() -> list[str]:
    """Names of the GPUs that are visible here."""
    from orchestrator.config.hardware import local_gpus  # asks the driver, which a step on cores does not

    return [gpu.product for gpu in local_gpus()]


def _first_use(setting: Setting, launcher: Launcher, env: dict[str, str], turn: int) -> dict[str, Any]:
    """When a rank of that launcher came to what, in Unix seconds."""
    place = setting.folder / f"first-use-{turn}"
    place.mkdir()
    bench = Bench(launcher, place, env)
    asked = time.time()
    outcome = bench.run(str(JOB / "first_use.py"), setting.device)
    if outcome.status != 0:
        raise RuntimeError(f"a rank ended with {outcome.status}: {outcome.output[-1500:]}")
    return {"asked": asked, **_last_json(outcome.output)}


def _last_json(output: str) -> dict[str, Any]:
    lines = [line for line in output.splitlines() if line.startswith("{")]
    if not lines:
        raise RuntimeError(f"a rank has printed no figures: {output[-1500:]}")
    read: dict[str, Any] = json.loads(lines[-1])
    return read
