"""What the probes cost: python -m benchmarks.probe_overhead [--rounds N]

The job of job=tiny_gpt, two gloo ranks of one thread each, is run in turn as plain processes with
torchrun's environment and no probes, as ranks started by exec, and as ranks forked from a zygote. The step
time of all three is what the job itself prints: tokens_per_s of its JSON lines, from its own
perf_counter, each over 5 steps. Beside that stands the direct cost: processor time of the wrapped calls
on an engine that does nothing. The result replaces this benchmark's section of docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from hydra import compose, initialize_config_dir

from benchmarks.direct_cost import calls_s, in_a_rank_s
from benchmarks.report import REPORT, conditions, write_section
from orchestrator.config import load as schema
from orchestrator.plan.plan import Plan, make_plan
from orchestrator.rank.launch.launcher import ExecLauncher, RankProcess, ZygoteLauncher
from orchestrator.rank.launch.process import kill_group
from orchestrator.rank.messages import StepTaken
from tests.support.ports import free_port
from tests.support.rank_harness import Bench, environment

ROOT = Path(__file__).resolve().parents[1]
RANKS, WARM_UP_STEPS, STEPS, STEPS_PER_LINE = 2, 10, 60, 5
POLL_S, TIMEOUT_S = 0.1, 180.0  # poll as an agent does: launch.poll_s
GOAL = 0.005
PLAIN, EXEC, ZYGOTE = "plain processes, no probes", "ranks by exec, probes", "ranks from a zygote, probes"


def the_job(cache: Path) -> Plan:
    """`job=tiny_gpt` on two processor cores as the orchestrator plans it, without what is no step."""
    schema.register()
    wanted = ["job=tiny_gpt", "gpu=cpu", f"cluster.gpus_per_node={RANKS}", "cluster.cpu_threads_per_rank=1"]
    wanted += [f"job.steps={WARM_UP_STEPS + STEPS}", f"job.args.log_every={STEPS_PER_LINE}"]
    wanted += [f"job.args.{name}=0" for name in ("val_every", "checkpoint_every", "sample_tokens")]
    wanted += ["job.args.checkpoint_dir=null", f"+job.args.data_cache={cache}"]
    with initialize_config_dir(str(schema.conf_dir()), version_base="1.3"):
        config = schema.load(compose("config", overrides=wanted))
    return make_plan(config, str(ROOT / config.job.script), str(ROOT), {})


def command(plan: Plan, folder: Path) -> list[str]:
    path = folder / "deepspeed.json"
    path.write_text(json.dumps(plan.deepspeed))
    return [plan.script, *(argument.replace("{deepspeed_config}", str(path)) for argument in plan.args)]


# --- the same job, started in different ways ----------------------------------------------------


def run_plain(bench: Bench, argv: list[str]) -> None:
    """Processes with the environment that torchrun gives to its workers."""
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(RANKS)}
    started = []
    try:
        for rank in range(RANKS):
            place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(RANKS)}
            with open(bench.folder / f"rank{rank}.log", "w") as log:
                process = subprocess.Popen(
                    [sys.executable, *argv],
                    env={**bench.env, **where, **place},
                    cwd=bench.folder,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            started.append(process)
        wait_for(bench, lambda: [process.poll() for process in started])
    finally:
        for process in started:
            if process.poll() is None:
                kill_group(process.pid)
                process.wait()


def run_ranks(bench: Bench, argv: list[str]) -> None:
    """Ranks of ours; all of their steps must have been told, or it is no probe that was measured."""
    ranks: list[RankProcess] = []
    told = [0] * RANKS

    def statuses() -> list[int | None]:
        ended = [rank.poll() for rank in ranks]  # before the messages: the last ones are there by then
        for rank in ranks:
            told[rank.spec.rank] += sum(isinstance(message, StepTaken) for message in rank.messages())
        return ended

    try:
        ranks += bench.start_world(*argv, world_size=RANKS)
        wait_for(bench, statuses)
    finally:
        bench.clear()
    if told != [WARM_UP_STEPS + STEPS] * RANKS:
        raise RuntimeError(f"{told} steps were told by the ranks, {WARM_UP_STEPS + STEPS} were done by each")


def wait_for(bench: Bench, statuses: Callable[[], list[int | None]]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while (ended := statuses()).count(None) and not any(ended) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    if any(status != 0 for status in ended):
        said = "".join(bench.log(rank)[-2000:] for rank in range(RANKS))
        raise RuntimeError(
            f"the ranks ended with {ended} (None: not within {TIMEOUT_S:g} s); they said\n{said}"
        )


def step_s(log: str, tokens_per_step: int) -> float:
    """Median step time of the run, warm-up left out."""
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    rates = [line["tokens_per_s"] for line in lines if line["step"] > WARM_UP_STEPS]
    assert len(rates) == STEPS // STEPS_PER_LINE, log
    return tokens_per_step / float(median(rates))


def interleaved(plan: Plan, folder: Path, rounds: int) -> dict[str, list[float]]:
    """Step time in seconds of each way to start, by round; every other round goes backwards."""
    env = environment(**{name: setting.value for name, setting in plan.environment.items()})
    argv = command(plan, folder)
    assert plan.model is not None
    times: dict[str, list[float]] = {PLAIN: [], EXEC: [], ZYGOTE: []}
    with closing(ExecLauncher()) as by_exec, closing(ZygoteLauncher(env)) as zygote:
        zygote.wait_ready()
        for turn in range(rounds):
            for name in list(times)[:: -1 if turn % 2 else 1]:
                with tempfile.TemporaryDirectory(dir=folder) as place:
                    bench = Bench(zygote if name == ZYGOTE else by_exec, Path(place), env)
                    (run_plain if name == PLAIN else run_ranks)(bench, argv)
                    times[name].append(step_s(bench.log(), plan.model.tokens_per_step))
                print(f"round {turn + 1}/{rounds}: {name}: {times[name][-1] * 1e3:.2f} ms a step", flush=True)
    return times


# --- the report ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """Seconds: step times by way to start and round, and direct costs per step."""

    times: dict[str, list[float]]
    direct: dict[str, float]
    load: float

    @property
    def plain_s(self) -> float:
        return median(self.times[PLAIN])

    def ratio(self, name: str) -> float:
        """Median over the rounds of step time by that of the plain processes of the same round."""
        return median(ours / plain for ours, plain in zip(self.times[name], self.times[PLAIN], strict=True))

    @property
    def noise(self) -> float:
        """How far apart the rounds of one way to start lie, as a share of their step; of the worst way."""
        return max((max(times) - min(times)) / median(times) for times in self.times.values())

    @property
    def share(self) -> float:
        """The largest direct cost as a share of the step."""
        return max(self.direct.values()) / self.plain_s


def section(measured: Measured, rounds: int) -> str:
    effect = max(abs(measured.ratio(name) - 1) for name in (EXEC, ZYGOTE))
    told = f"Rounds of one and the same way to start differ by up to {measured.noise:.1%}"
    if effect < measured.noise:
        told += (
            f", the ways to start by {effect:.1%} at most: what the probes cost is lost in the noise of this"
        )
        told += " machine, and the direct cost below is the firm figure."
    else:
        told += f", the ways to start by up to {effect:.1%}: more than noise alone explains."
    verdict = "met" if measured.share < GOAL else "MISSED"
    runs = [
        f"| {name} | {median(times) * 1e3:.2f} | {min(times) * 1e3:.2f}–{max(times) * 1e3:.2f} "
        f"| {measured.ratio(name):.4f} |"
        for name, times in measured.times.items()
    ]
    direct = [
        f"| {name} | {seconds * 1e6:.1f} | {seconds / measured.plain_s:.3%} |"
        for name, seconds in measured.direct.items()
    ]
    lines = [
        "## What the probes cost",
        "",
        f"Goal: under {GOAL:.1%} of a step; {verdict}, with a direct cost of {measured.share:.3%}.",
        "",
        f"`job=tiny_gpt`, {RANKS} gloo ranks of one thread, {STEPS} steps after {WARM_UP_STEPS} to warm up, "
        f"{rounds} interleaved rounds. Step times are the job's own (`tokens_per_s`, which it prints every "
        f"{STEPS_PER_LINE} steps), the median of a run; a ratio is the median over the rounds.",
        "",
        "| started as | step, ms | rounds, ms | ratio |",
        "|---|---:|---:|---:|",
        *runs,
        "",
        told,
        "",
        "| direct cost on an engine that does nothing | µs a step | share of the step |",
        "|---|---:|---:|",
        *direct,
        "",
        *conditions(f"python -m benchmarks.probe_overhead --rounds {rounds}", measured.load),
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="of three runs each, about 80 s")
    rounds = parser.parse_args().rounds
    if rounds < 2:
        parser.error(f"--rounds={rounds}: noise shows between rounds only; give 2 or more")
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="probe-overhead-") as folder:
        rank = in_a_rank_s(Path(folder))
        direct = {
            "the wrapped calls alone, as `tests/unit/rank/test_probes.py` measures them": calls_s(),
            "processor time of a rank's training thread": rank["thread_s"],
            "processor time of all its threads, the delivery of messages included": rank["process_s"],
        }
        times = interleaved(the_job(Path(folder) / "tokens"), Path(folder), rounds)
    measured = Measured(times, direct, load)
    text = section(measured, rounds)
    write_section("probe_overhead", text)
    print(f"\n{text}\n\nwritten to {REPORT.relative_to(ROOT)}")
    return 0 if measured.share < GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
