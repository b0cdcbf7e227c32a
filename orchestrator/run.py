"""One run, wired: run directory, plan, journal, MLflow process, Ray, supervise loop, summary."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console

from orchestrator import config as configuration
from orchestrator import provenance
from orchestrator.config import Config
from orchestrator.errors import EXIT_INTERRUPTED, EXIT_TERMINATED, ConfigError, TrackingError, TrainingFailed
from orchestrator.events import Record, RunEnded, RunStarted, Status
from orchestrator.ledger.journal import Journal
from orchestrator.ledger.meter import Meter
from orchestrator.ledger.terminal import Terminal
from orchestrator.ledger.tracking_check import check_tracking
from orchestrator.plan.plan import Plan
from orchestrator.plan.show import plan_json, plan_text, show_plan
from orchestrator.preflight import check_ray_address, check_script_builds, plan_of
from orchestrator.redact import redact
from orchestrator.rundir import RunDirectory, new_run_name
from orchestrator.supervise.clock import SystemClock
from orchestrator.supervise.loop import StopRequest, supervise

# What the MLflow process may take beyond its own deadline before it is killed.
SINK_EXIT_S = 15.0


def run(config: Config, console: Console) -> int:
    """Plan, launch, supervise, account; returns the exit code.

    Raises :class:`~orchestrator.errors.OrchestratorError` for everything that a person can fix.
    """
    plan = plan_of(config)
    check_script_builds(config)
    _check_cluster(config)
    tracking_problem = _tracking_problem(config)
    name = config.run_name or new_run_name(plan.job)
    directory = RunDirectory(Path(config.run_dir or Path(config.run_root) / name))
    with ExitStack() as stack:
        directory.hold()
        stack.callback(directory.release)
        show_plan(plan, console, brief=True)
        if tracking_problem:
            console.print(
                f"MLflow: {tracking_problem}; going on without it, the journal keeps everything",
                style="yellow",
            )
        _write_papers(config, plan, name, directory)
        stop = StopRequest()
        stack.enter_context(_signals(stop))
        return _supervised(config, plan, name, directory, stop, tracking_problem is None, console)


def _check_cluster(config: Config) -> None:
    if config.ray_address is None and config.cluster.name != "local":
        raise ConfigError(
            f"cluster={config.cluster.name}: needs ray_address=host:port of that cluster's Ray "
            "('plan' works without it); only cluster=local is started here"
        )
    check_ray_address(config.ray_address)


def _supervised(
    config: Config,
    plan: Plan,
    name: str,
    directory: RunDirectory,
    stop: StopRequest,
    tracked: bool,
    console: Console,
) -> int:
    from orchestrator.cluster.group import RayWorkerGroup
    from orchestrator.cluster.session import connect
    from orchestrator.ledger.metrics import Gauges

    last: Record | None = None
    meter, terminal = Meter(), Terminal(console, plan.prediction.steps)
    where = {"run directory": str(directory.path)}
    with ExitStack() as stack:
        # Before Ray, so that the seconds Ray takes to start are on record (and cost nothing).
        journal = stack.enter_context(Journal(directory.path / "journal.jsonl"))
        sink = _start_sink(config, directory) if tracked else None
        with console.status("starting Ray" if config.ray_address is None else "connecting to Ray"):
            session = stack.enter_context(connect(config.ray_address, _local_cpus(plan), config.launch.dashboard))
        _take_signals(stop)
        if session.dashboard_url:
            ends = " (ended with the run)" if session.local else ""
            where["Ray dashboard"] = f"{session.dashboard_url}{ends}"
            asks = f"it asks for the token that '{_command('ray')} get-auth-token' prints"
            console.print(f"Ray dashboard  {session.dashboard_url}  ({asks})", highlight=False, soft_wrap=True)
        workers = RayWorkerGroup(
            assignment_of(config, plan, name, directory.path),
            plan.layout.nodes,
            config.launch.wait_for_resources_s,
            config.launch.start_timeout_s,
        )
        stack.callback(workers.close)
        gauges = Gauges(name, plan.cluster)
        started = run_started(plan, name)
        events = supervise(started, workers, config.recovery, SystemClock(), stop, config.launch.poll_s)
        with terminal:
            for event in events:
                last = journal.append(event)
                meter.fold(last)
                bill = meter.bill()
                terminal.observe(last, bill)
                gauges.observe(last, bill)
    where |= _tracking_places(config, tracked)
    if sink is not None:
        _finish_sink(sink, config, console)
    terminal.summary(last, meter.bill(), where)
    return _exit_code(last, stop)


def run_started(plan: Plan, name: str) -> RunStarted:
    """The run's first event: all that the meter needs."""
    return RunStarted(
        run=name,
        job=plan.job,
        cluster=plan.cluster,
        gpu_type=plan.gpu_type,
        gpus=plan.layout.ranks,
        price_usd_per_gpu_hour=plan.price.usd_per_gpu_hour,
        unit=plan.unit,
        steps=plan.prediction.steps,
        tokens_per_step=plan.model.tokens_per_step if plan.model else None,
        model_flops_per_token=plan.model.training_flops_per_token if plan.model else None,
        peak_flops_per_gpu=plan.peak_flops_per_gpu,
    )


def assignment_of(config: Config, plan: Plan, name: str, run_dir: Path) -> Any:
    """What the plan says to every node."""
    from orchestrator.cluster.agent import Assignment

    checkpoint_dir = config.job.checkpoint_dir or str(run_dir / "checkpoints")
    return Assignment(
        run=name,
        run_dir=str(run_dir),
        checkpoint_dir=str(Path(plan.cwd, checkpoint_dir)),
        script=plan.script,
        args=list(plan.args),
        cwd=plan.cwd,
        environment={key: setting.value for key, setting in plan.environment.items()},
        deepspeed=dict(plan.deepspeed),
        ranks_per_node=plan.layout.ranks_per_node,
        world_size=plan.layout.ranks,
        device=plan.device,
        zygote=config.launch.zygote,
        product_names=list(plan.product_names),
        expected=dict(plan.facts),
        corpus=list(plan.corpus),
        sample_every_s=config.tracking.system_metrics_every_s,
        kill_after_s=config.recovery.kill_after_s,
    )


def _write_papers(config: Config, plan: Plan, name: str, directory: RunDirectory) -> None:
    """Everything about the run that is known before it starts, secrets hidden."""
    hidden = redact(configuration.to_container(config))
    directory.write("config.yaml", configuration.to_yaml(hidden))
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
        "mlflow.user": getpass.getuser(),
        "mlflow.source.name": plan.script,
        "mlflow.source.git.commit": commit,
    }
    versions = {f"version.{k.removeprefix('package ')}": v for k, v in plan.facts.items() if "sha256" not in k}
    layout = {f"layout.{k}": v for k, v in plan_json(plan)["layout"].items()}  # type: ignore[attr-defined]
    directory.write_json(
        "tracking.json",
        {
            "uri": config.tracking.uri,
            "experiment": config.tracking.experiment,
            "run_name": name,
            "flush_s": config.tracking.flush_s,
            "params": {**configuration.flatten(hidden), **layout, **versions},
            "tags": {key: value for key, value in tags.items() if value},
            "artifacts": ["config.yaml", "plan.json", "plan.txt", "deepspeed.json"],
        },
    )


def _tracking_problem(config: Config) -> str | None:
    """Why MLflow can not be written to; the journal has everything all the same."""
    problem = check_tracking(config.tracking.uri, config.tracking.connect_timeout_s)
    if problem and config.tracking.required:
        raise TrackingError(f"tracking.uri: {problem}; start it, or set tracking.required=false to go on without")
    return problem


def _tracking_places(config: Config, tracked: bool) -> dict[str, str]:
    uri = redact(config.tracking.uri)
    if not tracked:
        return {}
    if uri.startswith("http"):
        return {"MLflow": uri}
    return {"MLflow": f"{_command('mlflow')} ui --backend-store-uri {uri}"}


def _command(name: str) -> str:
    """How to call a program of this environment from here."""
    return name if shutil.which(name) else os.path.relpath(Path(sys.executable).with_name(name))


def _start_sink(config: Config, directory: RunDirectory) -> subprocess.Popen[bytes]:
    """The process that tells MLflow; in a session of its own, so that Ctrl-C does not reach it.

    It sees for itself when the run ends and when this process dies, and ends with either.
    """
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "orchestrator.ledger.mlflow_sink",
            str(directory.path),
            f"--finish-timeout-s={config.tracking.finish_timeout_s}",
            f"--parent-pid={os.getpid()}",
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )


def _finish_sink(sink: subprocess.Popen[bytes], config: Config, console: Console) -> None:
    try:
        with console.status("MLflow is being brought up to date"):
            code = sink.wait(config.tracking.finish_timeout_s + SINK_EXIT_S)
    except subprocess.TimeoutExpired:
        sink.kill()
        code = sink.wait()
    if code != 0:
        console.print("MLflow could not be brought up to date; the journal has everything", style="yellow")


@contextmanager
def _signals(stop: StopRequest) -> Iterator[None]:
    """Ctrl-C and SIGTERM ask to stop; the second time, at once."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    _take_signals(stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _take_signals(stop: StopRequest) -> None:
    """Ray sets handlers of its own when it connects."""

    def ask(number: int, _frame: FrameType | None) -> None:
        stop.ask("Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, ask)


def _local_cpus(plan: Plan) -> int:
    """Logical CPUs of a cluster that we start: at least one per rank, so that placement never fails."""
    return max(os.cpu_count() or 1, plan.layout.ranks)


def _exit_code(last: Record | None, stop: StopRequest) -> int:
    assert last is not None
    assert isinstance(last.event, RunEnded), "supervise ends every run with RunEnded"
    match last.event.status:
        case Status.FINISHED:
            return 0
        case Status.INTERRUPTED:
            return EXIT_TERMINATED if stop.by == "SIGTERM" else EXIT_INTERRUPTED
        case _:
            return TrainingFailed.exit_code
