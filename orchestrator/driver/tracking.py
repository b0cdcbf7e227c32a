"""What the driver does for MLflow without ever calling it: the run's papers, and the process that reads
them."""

from __future__ import annotations

import dataclasses
import os
import secrets
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

from orchestrator import papers
from orchestrator.agent import facts
from orchestrator.config import load
from orchestrator.config.origin import origin_of
from orchestrator.config.run_params import telling, varied
from orchestrator.config.schema import Config
from orchestrator.config.sweeping import varied_keys
from orchestrator.driver.observer import Progress
from orchestrator.errors import ConfigError, TrackingError
from orchestrator.ledger.mlflow.names import START_ARTIFACTS
from orchestrator.ledger.mlflow.shared_messages import Follow
from orchestrator.ledger.mlflow.shared_process import Place, SharedSink
from orchestrator.ledger.mlflow.sink_process import WELL_AFTER_S, Process, SinkSupervisor, pass_on
from orchestrator.ledger.mlflow.tracking_file import Tracking
from orchestrator.ledger.mlflow.uri import absolute_uri, check_tracking
from orchestrator.ledger.mlflow.views import page_of
from orchestrator.ledger.run_directory import RunDirectory, number_of_run
from orchestrator.plan.plan import Plan, plan_json
from orchestrator.rank.tracking import URI_VARIABLE, script_run_id, without_password
from orchestrator.redact import redact
from orchestrator.supervise.loop import StopRequest
from orchestrator.users import known_name, user_name

# What the MLflow process may take beyond its own deadline before it is killed.
SINK_EXIT_S = 15.0
LAST_WORDS_S = 2.0
# Within a minute, before a run has a process of its own.
MOST_SHARED = 3
# In a run's directory, where Ray's dashboard is while the run goes on.
DASHBOARD = "dashboard.json"
# Of a layout, what a DeepSpeed file says.
_OF_ENGINE = ("zero_stage", "offload", "precision", "micro_batch", "accumulation", "global_batch")
# For a slow server to answer once the run goes on: as long as the process that tells it waits for an answer.
ANSWER_S = 10.0
MLFLOW_UI = "http://127.0.0.1:5000"


def write_run_metadata(config: Config, plan: Plan, name: str, directory: RunDirectory) -> None:
    """Everything about the run that is known before it starts, secrets hidden but for MLflow's address."""
    hidden = redact(load.to_container(config))
    directory.write("config.yaml", load.to_yaml(hidden))
    directory.write("plan.txt", f"{plan}\n")
    directory.write_json("plan.json", plan_json(plan))
    directory.write_json("deepspeed.json", redact(dict(plan.deepspeed)))
    # A script that was installed, or called from elsewhere, lies in a repository of its own.
    places = (Path(plan.cwd), Path(plan.cwd, plan.script).parent)
    commit, repository = next(filter(any, map(facts.git_state, places)), ("", ""))
    tags = {
        "cluster": plan.cluster,
        "gpu_type": plan.gpu_type,
        "unit": plan.unit,
        "job": plan.job,
        "price_source": plan.billed_by.source,
        "git_commit": commit,
        "run_dir": str(directory.path),
        "script_run_id": script_run_id(str(directory.path)),
        "run_number": number_of_run(directory.path),  # the label of its gauges
        "owner": config.owner or user_name(),
        "project": config.project or repository,
        "cost_center": config.cost_center,
        "mlflow.user": _known_user(),
        "mlflow.source.name": plan.script,
        "mlflow.source.git.commit": commit,
    }
    versions = {f"version.{name}": value for name, value in facts.versions(plan.facts).items()}
    flat, words, swept = load.flatten(hidden), origin_of(config)[1], varied_keys(config)
    params = {
        **telling(flat, words),
        **_trained_with(plan),
        **{f"layout.{k}": v for k, v in dataclasses.asdict(plan.layout).items()},
    }
    if not plan.hands_deepspeed:  # what the engine runs with comes as tags, once it is known
        params = {key: value for key, value in params.items() if not _of_deepspeed(key)}
    tracking = Tracking(
        uri=absolute_uri(config.tracking.uri),  # what reads this later may be started anywhere
        experiment=config.tracking.experiment,
        run_name=name,
        flush_s=config.tracking.flush_s,
        params={**params, **versions},
        tags={key: redact(value) for key, value in tags.items() if value},
        sweep="" if swept is None else _number_of_sweep(),
        sweep_values=varied(flat, swept or ()),
        go_on=shlex.join([sys.executable, "-m", "orchestrator", "resume", str(directory.path)]),
        artifacts=list(START_ARTIFACTS),
    )
    directory.write_json("tracking.json", dataclasses.asdict(tracking), mode=0o600)


@cache
def _number_of_sweep() -> str:
    """All runs of a sweep are this process's; it names their parent."""
    return f"{time.strftime('%y%m%d-%H%M%S')}-{secrets.token_hex(4)}"


def _known_user() -> str:
    """For a person to read. In a container the system may know no name of its user, where the shell does."""
    named = (os.environ.get(name) for name in ("SUDO_USER", "LOGNAME", "USER"))
    return known_name(os.geteuid()) or next(filter(None, named), None) or user_name()


def _of_deepspeed(key: str) -> bool:
    """Whether a parameter says what is the script's own choice where it brings its own DeepSpeed file."""
    group, _, name = key.partition(".")
    return group == "deepspeed" or (group == "layout" and name in _OF_ENGINE)


def _trained_with(plan: Plan) -> dict[str, object]:
    """DeepSpeed's part as it was trained with; the configuration may say "auto", or nothing."""
    return load.flatten({"deepspeed": redact(dict(plan.deepspeed))})


def tracking_problem(config: Config) -> str | None:
    """Why MLflow cannot be written to now; the journal has everything all the same.

    Raises :class:`TrackingError` where MLflow is required, :class:`ConfigError` where it can never be at this
    address.
    """
    problem = check_tracking(config.tracking.uri, config.tracking.connect_timeout_s)
    if problem and config.tracking.required:
        raise TrackingError(
            f"tracking.uri: {problem}; start it, or set tracking.required=false to go on without"
        )
    return problem


def shell_address_remark(config: Config, plan: Plan, shell: Mapping[str, str]) -> str | None:
    """That ranks do not go by an address of MLflow in the shell; None where there is none, or the plan sets
    it."""
    address = shell.get(URI_VARIABLE)
    if not address or URI_VARIABLE in plan.environment or address == config.tracking.uri:
        return None
    shown = without_password(address)
    return (
        f"{URI_VARIABLE}={shown} of this shell is not what the script gets: what it logs arrives in this run."
        f" To record the run there write tracking.uri={shown}; to have the script log there by itself write"
        f" +env.{URI_VARIABLE}={shown}"
    )


def tracking_places(config: Config, tracked: bool) -> dict[str, str]:
    uri = redact(config.tracking.uri)
    if not tracked:
        return {}
    if uri.startswith("http"):
        return {"MLflow": uri}
    return {"MLflow": f"{command('mlflow')} ui --backend-store-uri {uri}"}


def runs_page(uri: str, run_dir: Path) -> str | None:
    """Where MLflow shows what the runs of this one's experiment cost; None where it has not had the run. What
    is in a file has its page where ``mlflow ui`` puts it unless told."""
    try:
        experiment_id = papers.read_object(run_dir / "mlflow_run.json").get("experiment_id")
    except (OSError, ValueError):
        return None
    if not isinstance(experiment_id, str) or not experiment_id.isalnum():
        return None
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https"):
        return f"{MLFLOW_UI}{page_of(experiment_id)} (once 'mlflow ui' is started)"
    server = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}".rstrip("/")
    return server + page_of(experiment_id)


def command(name: str) -> str:
    """How to call a program of this environment from here."""
    if shutil.which(name):
        return name
    path = Path(sys.executable).with_name(name)
    below = os.path.relpath(path)
    return str(path) if below.startswith(os.pardir) else below


class MlflowSink:
    """The process that tells MLflow, kept going while the run lasts; see :class:`SinkSupervisor`.

    An end that is in the journal by now is an earlier driver's, so make this before the run's first word.
    """

    def __init__(
        self, config: Config, directory: RunDirectory, problem: str | None, place: Place | None = None
    ) -> None:
        """With a ``place`` it is shared with the other runs there, for as long as that can be had."""
        journal = directory.path / "journal.jsonl"
        self._earlier_bytes = journal.stat().st_size if journal.exists() else 0
        self._config, self._directory = config, directory
        self._say: Callable[[str], None] = lambda text: None
        self._listener: threading.Thread | None = None
        self._place = place
        self._shared_since_s: deque[float] = deque(maxlen=MOST_SHARED)
        self._supervisor = SinkSupervisor(self._start, self._check, problem)

    @property
    def recorded(self) -> bool:
        """Whether anybody has told MLflow of the run."""
        return self._supervisor.ever_started

    def begin(self, say: Callable[[str], None]) -> None:
        """From here on; ``say`` puts a line before the user."""
        self._say = say
        self._supervisor.begin(say)

    def run_ended(self) -> None:
        """The run's end is on record."""
        self._supervisor.run_ended()

    def close(self) -> None:
        """Look after it no more; it sees for itself when the driver is gone."""
        self._supervisor.close()

    def finish(self, stop: StopRequest, progress: Progress) -> None:
        """Wait until MLflow has everything; a Ctrl-C meanwhile leaves the process to go on by itself."""
        asked = stop.level
        deadline_s = time.monotonic() + self._config.tracking.finish_timeout_s + SINK_EXIT_S
        with progress.busy("MLflow is being brought up to date"):
            done = self._supervisor.wait(lambda: stop.level > asked or time.monotonic() > deadline_s)
        left = self._supervisor.close()
        if done:
            if (page := runs_page(self._config.tracking.uri, self._directory.path)) is not None:
                progress.say(f"what it cost, beside the other runs: {page}")
            return
        if left is not None and left.poll() is None:
            if stop.level > asked:
                progress.warn(f"MLflow is brought up to date in the background (process {left.pid})")
                return
            left.kill()
        if self._listener is not None:
            self._listener.join(LAST_WORDS_S)
        again = f"{sys.executable} -m orchestrator sync {self._directory.path}"
        progress.warn(f"MLflow could not be brought up to date; the journal has everything. Later: {again}")

    def _check(self, last: bool) -> str | None:
        timeout_s = self._config.tracking.finish_timeout_s if last else ANSWER_S
        try:
            return check_tracking(self._config.tracking.uri, timeout_s)
        except ConfigError as error:  # a driver that was there when the run began
            return str(error)

    def _start(self) -> Process:
        if self._place is None or self._shared_breaks():
            return self._start_own()
        try:
            return self._start_shared(self._place)
        except OSError as error:
            why = error.strerror or error
            self._say(f"MLflow: the process that runs share: {why}; this run has one of its own")
            return self._start_own()

    def _shared_breaks(self) -> bool:
        """Whether the shared process has been gone so often that it may be for this run's sake."""
        now_s, since_s = time.monotonic(), self._shared_since_s
        if len(since_s) < MOST_SHARED or now_s - since_s[0] > WELL_AFTER_S:
            return False
        self._say(
            f"MLflow: the process that runs share ended {MOST_SHARED} times; this run has one of its own"
        )
        since_s.clear()
        return True

    def _start_shared(self, place: Place) -> SharedSink:
        follow = Follow(
            str(self._directory.path.resolve()), self._config.tracking.finish_timeout_s, self._earlier_bytes
        )
        shared = SharedSink(place, follow, self._say)
        self._shared_since_s.append(time.monotonic())
        self._listener = shared.listener
        return shared

    def _start_own(self) -> subprocess.Popen[str]:
        """In a session of its own, so that Ctrl-C does not reach it."""
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "orchestrator.ledger.mlflow.sink",
                str(self._directory.path),
                f"--finish-timeout-s={self._config.tracking.finish_timeout_s}",
                f"--parent-pid={os.getpid()}",
                f"--earlier-bytes={self._earlier_bytes}",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._listener = pass_on(process, self._say)
        return process
