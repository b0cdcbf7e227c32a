"""What the driver does for MLflow without ever calling it: the run's papers, and the process that reads them."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console

from orchestrator import load, provenance
from orchestrator.config import Config
from orchestrator.errors import TrackingError
from orchestrator.ledger.tracking_check import absolute_uri, check_tracking
from orchestrator.plan.plan import Plan
from orchestrator.plan.show import plan_json, plan_text
from orchestrator.redact import redact
from orchestrator.rundir import RunDirectory
from orchestrator.supervise.loop import StopRequest

# What the MLflow process may take beyond its own deadline before it is killed.
SINK_EXIT_S = 15.0


def write_papers(config: Config, plan: Plan, name: str, directory: RunDirectory) -> None:
    """Everything about the run that is known before it starts, secrets hidden."""
    hidden = redact(load.to_container(config))
    directory.write("config.yaml", load.to_yaml(hidden))
    directory.write("plan.txt", plan_text(plan))
    directory.write_json("plan.json", plan_json(plan))
    directory.write_json("deepspeed.json", dict(plan.deepspeed))
    commit = provenance.git_commit(Path(plan.cwd))
    tags = {
        "cluster": plan.cluster,
        "gpu_type": plan.gpu_type,
        "unit": plan.unit,
        "job": plan.job,
        "price_source": plan.price.source,
        "git_commit": commit,
        "run_dir": str(directory.path),
        "mlflow.user": os.environ.get("USER") or f"uid {os.getuid()}",
        "mlflow.source.name": plan.script,
        "mlflow.source.git.commit": commit,
    }
    versions = {f"version.{k.removeprefix('package ')}": v for k, v in plan.facts.items() if "sha256" not in k}
    layout = {f"layout.{k}": v for k, v in dataclasses.asdict(plan.layout).items()}
    directory.write_json(
        "tracking.json",
        {
            "uri": absolute_uri(config.tracking.uri),  # what reads this later may be started anywhere
            "experiment": config.tracking.experiment,
            "run_name": name,
            "flush_s": config.tracking.flush_s,
            "params": {**load.flatten(hidden), **layout, **versions},
            "tags": {key: value for key, value in tags.items() if value},
            "artifacts": ["config.yaml", "plan.json", "plan.txt", "deepspeed.json"],
        },
    )


def tracking_problem(config: Config) -> str | None:
    """Why MLflow can not be written to; the journal has everything all the same."""
    problem = check_tracking(config.tracking.uri, config.tracking.connect_timeout_s)
    if problem and config.tracking.required:
        raise TrackingError(f"tracking.uri: {problem}; start it, or set tracking.required=false to go on without")
    return problem


def tracking_places(config: Config, tracked: bool) -> dict[str, str]:
    uri = redact(config.tracking.uri)
    if not tracked:
        return {}
    if uri.startswith("http"):
        return {"MLflow": uri}
    return {"MLflow": f"{command('mlflow')} ui --backend-store-uri {uri}"}


def command(name: str) -> str:
    """How to call a program of this environment from here."""
    return name if shutil.which(name) else os.path.relpath(Path(sys.executable).with_name(name))


def start_sink(config: Config, directory: RunDirectory) -> subprocess.Popen[bytes]:
    """The process that tells MLflow; in a session of its own, so that Ctrl-C does not reach it.

    It sees for itself when the run ends and when this process dies, and ends with either. An end that is in the
    journal by now is an earlier driver's.
    """
    journal = directory.path / "journal.jsonl"
    earlier_bytes = journal.stat().st_size if journal.exists() else 0
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "orchestrator.ledger.mlflow_sink",
            str(directory.path),
            f"--finish-timeout-s={config.tracking.finish_timeout_s}",
            f"--parent-pid={os.getpid()}",
            f"--earlier-bytes={earlier_bytes}",
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )


def finish_sink(
    sink: subprocess.Popen[bytes], config: Config, directory: RunDirectory, stop: StopRequest, console: Console
) -> None:
    """Wait until MLflow has everything; a Ctrl-C meanwhile leaves the process to go on by itself."""
    asked = stop.level
    deadline_s = time.monotonic() + config.tracking.finish_timeout_s + SINK_EXIT_S
    with console.status("MLflow is being brought up to date"):
        while sink.poll() is None and stop.level == asked and time.monotonic() < deadline_s:
            time.sleep(0.1)
    if sink.poll() is None and stop.level > asked:
        console.print(f"MLflow is brought up to date in the background (process {sink.pid})", style="yellow")
        return
    if sink.poll() is None:
        sink.kill()
    if sink.wait() != 0:
        again = f"{sys.executable} -m orchestrator sync {directory.path}"
        console.print(
            f"MLflow could not be brought up to date; the journal has everything. Later: {again}",
            style="yellow",
            soft_wrap=True,
        )
