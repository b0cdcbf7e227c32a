"""The memory that running jobs take: python -m benchmarks.running_jobs [--jobs N ...] [--alone N ...]

So many jobs of one rank run beside each other on a Ray of this machine, which believes to have the cores. As
those of a queue are, their drivers are forked from one process, and told MLflow by one; with `--alone` so
many drivers with an interpreter and a sink of their own are measured, too. What a rank does is next to
nothing, a figure a second: this is about the machine that drivers run on, and drivers know steps and not
parameters.

Memory is what a process has to itself (USS), and what it has with its part of what it shares (PSS), as the
kernel tells in /proc/PID/smaps_rollup. The result replaces this benchmark's section of docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import psutil

from benchmarks.clusters import ray_cluster
from benchmarks.figures import table
from benchmarks.ground import Ground, ground, wait_for
from benchmarks.launchers import Task
from benchmarks.report import conditions, write_section
from orchestrator.driver.driver_host import DriverHost
from orchestrator.events import MetricLogged
from orchestrator.ledger.journal import replay

SCRIPT = """
import json, time
for step in range(1, 1_000_000):
    print(json.dumps({"step": step, "val_loss": 1 / step}), flush=True)
    time.sleep(1.0)
"""
WORDS = (
    "job=script", "job.script=hold.py", "gpu=cpu", "cluster.gpus_per_node=1",
    "cluster.cpu_threads_per_rank=1", "launch.zygote=false", "launch.dashboard=false",
    "launch.wait_for_resources_s=600", "launch.start_timeout_s=600",
)  # fmt: skip
GOAL_MB, MANY = 100.0, 100
TOGETHER = 2  # on two cores more of them only wait for each other
# After the last has begun, before anything is counted.
SETTLE_S = 20.0
HOST_IMPORTS_S = 30.0
JOURNAL = "journal.jsonl"


@dataclass(frozen=True)
class Used:
    """Memory of some processes together, in MB."""

    count: int
    own: float
    with_shared: float

    @classmethod
    def by(cls, processes: Sequence[psutil.Process]) -> Used:
        sums, count = [0, 0], 0
        for process in processes:
            with suppress(psutil.Error):
                seen = process.memory_full_info()
                sums, count = [sums[0] + seen.uss, sums[1] + seen.pss], count + 1
        return cls(count, sums[0] / 1e6, sums[1] / 1e6)


@dataclass(frozen=True)
class Jobs:
    """What so many took together, by what their processes are."""

    jobs: int
    drivers: Used
    sinks: Used
    host: Used
    agents: Used
    ranks: Used

    @property
    def own_mb_a_job(self) -> float:
        """Of driver and sink."""
        return (self.drivers.own + self.sinks.own) / self.jobs

    def row(self) -> list[str]:
        each = [self.drivers.own, self.drivers.with_shared, self.sinks.own]
        figures = [f"{value / self.jobs:.1f}" for value in each]
        others = [f"{used.own / self.jobs:.1f}" for used in (self.agents, self.ranks)]
        return [str(self.jobs), f"**{self.own_mb_a_job:.1f}**", *figures, f"{self.sinks.own:.0f}", *others]


HEAD = (
    "jobs", "driver and sink, MB a job", "driver", "driver, with its part of what is shared", "sinks",
    "all sinks, MB", "agent", "rank",
)  # fmt: skip


def measured(jobs: int, alone: bool) -> Jobs:
    """Start them, wait until each trains and MLflow knows of it, and look."""
    with ExitStack() as stack:
        here = stack.enter_context(ground())
        here.env["PYTHONPATH"] = str(Path(__file__).parents[1])  # the host forks a module of ours
        task = stack.enter_context(ray_cluster(here, Task(ranks=jobs, steps=1)))
        assert task.address is not None
        (here.folder / "hold.py").write_text(SCRIPT)
        host = None if alone else stack.enter_context(_host(here, task.address))
        drivers: list[int] = []
        for first in range(0, jobs, TOGETHER):
            names = [f"job-{number}" for number in range(first, min(first + TOGETHER, jobs))]
            drivers += [_start(here, host, name, task.address) for name in names]
            for name in names:
                wait_for(lambda name=name: _is_told(here, name), f"MLflow's record of {name}")
        time.sleep(SETTLE_S)
        return _seen(here, jobs, drivers, host)


@contextmanager
def _host(here: Ground, address: str) -> Iterator[DriverHost]:
    with mock.patch.dict(os.environ, here.env, clear=True):
        host = DriverHost(address)
    try:
        with (here.folder / "host.log").open("ab") as log:
            # One that has not answered in ten seconds, since it still imports, is replaced by another.
            while not host.start("platform", [], here.folder, log.fileno()).is_forked:
                time.sleep(HOST_IMPORTS_S)
        yield host
    finally:
        host.close()


def _start(here: Ground, host: DriverHost | None, name: str, address: str) -> int:
    words = [*WORDS, f"run_name={name}", f"ray_address={address}"]
    with (here.folder / f"{name}.log").open("ab") as log:
        if host is not None:
            driver = host.start(
                "benchmarks.queued_job", [str(here.folder / "fleet"), *words], here.folder, log.fileno()
            )
            if not driver.is_forked:
                raise RuntimeError(f"the driver of {name} was not forked")
            return driver.pid
        command = [sys.executable, "-m", "orchestrator", *words]
        return here.popen(command, log).pid


def _is_told(here: Ground, name: str) -> bool:
    """Whether its rank works, and MLflow knows the run. Raises RuntimeError for one that has ended."""
    run_dir = here.folder / "runs" / name
    if (said := here.said(f"{name}.log")).startswith("error") or "run failed" in said:
        raise RuntimeError(said)
    told = (run_dir / "mlflow_run.json").exists()
    return told and any(isinstance(record.event, MetricLogged) for record in replay(run_dir / JOURNAL))


def _line(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def _is_raylet(here: Ground, process: psutil.Process) -> bool:
    words = _line(process).split()
    return bool(words) and words[0].endswith("/raylet") and any(str(here.folder) in word for word in words)


def _seen(here: Ground, jobs: int, drivers: Sequence[int], host: DriverHost | None) -> Jobs:
    of_sinks = [process for process in here.processes() if "ledger.mlflow" in _line(process)]
    (raylet,) = (one for one in psutil.process_iter() if _is_raylet(here, one))
    on_node = raylet.children(recursive=True)  # whose titles are where their environments were
    of_agents = [process for process in on_node if "NodeAgent" in _line(process)]
    of_ranks = [process for process in on_node if "orchestrator rank" in _line(process)]
    hosts = [psutil.Process(host._process.pid)] if host is not None and host._process else []
    used = [
        Used.by(some) for some in (list(map(psutil.Process, drivers)), of_sinks, hosts, of_agents, of_ranks)
    ]
    if used[0].count != jobs or used[4].count != jobs:
        raise RuntimeError(f"of {jobs} jobs {used[0].count} drivers and {used[4].count} ranks are left")
    return Jobs(jobs, *used)


def report(seen: Sequence[Jobs], alone: Sequence[Jobs], command: str, load: float) -> str:
    """The section, of the greatest number first."""
    most = seen[-1]
    met = "met" if most.own_mb_a_job <= GOAL_MB else "missed"
    lines = [
        "## The memory of running jobs",
        "",
        f"- a running job has **{most.own_mb_a_job:.0f} MB** of its own where its driver runs, measured with"
        f" {most.jobs} (goal: {GOAL_MB:.0f} MB at most; {met})",
        "",
        "Jobs of one rank that prints a figure a second, all at once on a Ray of this machine that was told"
        " it had the cores. Their drivers are forked from one process, and one process tells MLflow (a SQLite"
        " file) of all of them, as of the jobs of a [queue](fleet.md#the-queue). What counts is what a"
        " process has to itself, in MB a job; the process that forks and Ray's own are not in it.",
        "",
        *table(HEAD, [one.row() for one in seen]),
    ]
    if len(seen) > 1:
        more_mb = most.own_mb_a_job * most.jobs - seen[0].own_mb_a_job * seen[0].jobs
        each = more_mb / (most.jobs - seen[0].jobs)
        lines += ["", f"Each further job: {each:.1f} MB."]
        if most.jobs < MANY:
            of_many = (most.own_mb_a_job * most.jobs + each * (MANY - most.jobs)) / MANY
            lines[-1] += (
                f" Of {MANY} that would be {of_many:.0f} MB a job: not measured, since their agents and ranks"
                " take more memory than there was. The process that tells MLflow does follow"
                " [as many](#one-process-that-tells-mlflow-of-many-runs)."
            )
    lines += ["", f"The process that forks has {most.host.own:.0f} MB to itself."]
    if alone:
        lines += [
            "",
            "With an interpreter and a sink for each driver, as where runs are started by hand:",
            "",
            *table(HEAD, [one.row() for one in alone]),
        ]
    return "\n".join([*lines, "", *conditions(command, load)])


def main() -> int:
    """Returns the exit code: 1 where the goal is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--jobs", type=int, nargs="+", default=[10, 100])
    parser.add_argument(
        "--alone", type=int, nargs="+", default=[], help="so many jobs that share nothing, too"
    )
    options = parser.parse_args()
    load = os.getloadavg()[0]
    seen = [measured(jobs, alone=False) for jobs in sorted(options.jobs)]
    alone = [measured(jobs, alone=True) for jobs in sorted(options.alone)]
    text = report(seen, alone, f"python -m benchmarks.running_jobs {' '.join(sys.argv[1:])}".strip(), load)
    print(text)
    write_section("running_jobs", text)
    return int(seen[-1].own_mb_a_job > GOAL_MB)


if __name__ == "__main__":
    sys.exit(main())
