"""``sync``: MLflow is brought up to the journal, after the run or after its driver died."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rich.console import Console

from orchestrator import papers
from orchestrator.driver.tracking import runs_page
from orchestrator.errors import ConfigError, RunDirectoryError, TrackingError
from orchestrator.events import RunEnded, RunStarted
from orchestrator.ledger.journal import replay
from orchestrator.ledger.mlflow.credentials import (
    AWS_SIGV4,
    CLIENT_CERTIFICATE,
    FILE,
    PASSWORD,
    PLUGIN,
    TOKEN,
    USER,
    has_file,
)
from orchestrator.ledger.mlflow.uri import check_tracking, refuse_unusable
from orchestrator.ledger.run_directory import find_run, holder
from orchestrator.redact import redact
from orchestrator.text import plural

CONNECT_TIMEOUT_S = 5.0
# For all of a long run's records; that MLflow answers at all is known before.
FINISH_TIMEOUT_S = 600.0
POLL_S = 0.1
SIGTERM_GRACE_S = 5.0
_ANEW = "copy it from a run of the same job, and give it this run's run_name"
NOBODY = "nobody"
# What MLflow's client shows to whatever server it is told of.
CREDENTIALS = (
    USER, PASSWORD, TOKEN, AWS_SIGV4, CLIENT_CERTIFICATE, PLUGIN, "DATABRICKS_TOKEN", "DATABRICKS_HOST",
)  # fmt: skip


def sync(run: str, run_root: str, console: Console, trust: bool = False, own_uri: str | None = None) -> None:
    """Write what MLflow lacks of a run; doing it twice changes nothing.

    A run without an end on record is marked KILLED, with the tag ``status=unknown``: its driver is dead.
    Where MLflow is, the run's directory says; this shell's credentials go there only if ``own_uri`` is the
    same server. Raises :class:`ConfigError` for a run that is not there or was never to be tracked,
    :class:`RunDirectoryError` while a live driver holds it, :class:`TrackingError` when MLflow does not take
    it.
    """
    directory = find_run(run, run_root, trust)
    process = holder(directory)
    if process is not None:
        raise RunDirectoryError(
            f"{directory}: its driver is alive (process {process}) and tells MLflow by itself; "
            "wait for the run's end, or stop it"
        )
    uri = _tracking_uri(directory)
    try:
        refuse_unusable(uri)
    except ConfigError as error:
        raise ConfigError(f"{directory / 'tracking.json'}: {error}") from None
    environment, withheld = _credentials_for(uri, own_uri)
    try:
        reason = check_tracking(uri, CONNECT_TIMEOUT_S, environment)
    except ConfigError as error:
        raise ConfigError(f"{error}. {_withheld(uri, withheld)}" if withheld else str(error)) from None
    if reason:
        raise TrackingError(f"tracking.uri: {reason}; start it and sync again, the journal keeps everything")
    began, last = False, None
    for record in replay(directory / "journal.jsonl"):
        began, last = began or isinstance(record.event, RunStarted), record
    if not began or last is None:
        console.print(f"{directory.name} never began: there is nothing to tell MLflow", highlight=False)
        return
    before, total = _written(directory), last.seq + 1
    if withheld:
        console.print(_withheld(uri, withheld), style="yellow", highlight=False, soft_wrap=True)
    _run_sink(directory, total, environment, console)
    console.print(_summary(directory, before, total), highlight=False, soft_wrap=True)
    console.print(f"MLflow: {redact(uri)}", highlight=False, soft_wrap=True)
    if (page := runs_page(uri, directory)) is not None:
        console.print(f"what it cost, beside the other runs: {page}", highlight=False, soft_wrap=True)
    if not isinstance(last.event, RunEnded):
        console.print(
            "the run has no end on record: its driver is gone, its status is unknown", style="yellow"
        )


def _tracking_uri(directory: Path) -> str:
    path = directory / "tracking.json"
    try:
        uri = papers.read_object(path).get("uri")
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: missing, so nobody knows where MLflow is; a run writes it at its start; {_ANEW}"
        ) from None
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}; {_ANEW}"
        ) from None
    if not isinstance(uri, str) or not uri:
        raise ConfigError(f"{path}: 'uri' is {papers.short(uri)} and has to be where MLflow is; {_ANEW}")
    return uri


def _credentials_for(uri: str, own_uri: str | None) -> tuple[dict[str, str], list[str]]:
    """The environment for a process that tells this server, and what of it is kept back: whoever wrote the
    run's directory could have named a server of his own."""
    environment = dict(os.environ)
    ours = {_server(known) for known in (own_uri, environment.get("MLFLOW_TRACKING_URI")) if known}
    if _server(uri) in ours:
        return environment, []
    withheld = [name for name in CREDENTIALS if environment.pop(name, None)]
    if has_file(environment):
        # MLflow's client goes by its file where these are not set; what they say is nobody's.
        environment |= {USER: NOBODY, PASSWORD: NOBODY}
        withheld.append(f"~/{FILE}")
    return environment, withheld


def _server(uri: str) -> str:
    """Scheme, host and port; of what is no server, the whole address."""
    parts = urlsplit(uri)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}" if parts.netloc else uri


def _withheld(uri: str, names: Sequence[str]) -> str:
    server = redact(_server(uri))
    what = f"{', '.join(names)} of this shell are not shown to {server}, which only the run's directory names"
    return f"{what}; add tracking.uri={server} if that is your server"


def _run_sink(directory: Path, total: int, environment: dict[str, str], console: Console) -> None:
    """The same process that a run starts, without a driver to wait for."""
    command = [sys.executable, "-m", "orchestrator.ledger.mlflow.sink", str(directory)]
    command += ["--parent-pid=0", f"--finish-timeout-s={FINISH_TIMEOUT_S}"]
    sink = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        with console.status("") as status:
            while sink.poll() is None:
                written = min(total, _written(directory)[1] + 1)
                status.update(f"MLflow is being brought up to date: {written:,} of {plural(total, 'record')}")
                time.sleep(POLL_S)
    finally:
        _end(sink)
    assert sink.stderr is not None
    lines = sink.stderr.read().strip().splitlines()
    sink.stderr.close()
    if sink.returncode:
        why = lines[-1] if lines else ""
        raise TrackingError(why or f"its process ended with status {sink.returncode}")


def _end(sink: subprocess.Popen[str]) -> None:
    """After a Ctrl-C; what is written stays, and the next time goes on from there."""
    if sink.poll() is not None:
        return
    sink.terminate()
    try:
        sink.wait(SIGTERM_GRACE_S)
    except subprocess.TimeoutExpired:
        sink.kill()
        sink.wait()


def _written(directory: Path) -> tuple[str | None, int]:
    """Which MLflow run it is, and up to which record it has been written; -1 is none."""
    run_id, seq = (
        _field(directory / "mlflow_run.json", "run_id"),
        _field(directory / "mlflow_sink.json", "written_seq"),
    )
    return run_id if isinstance(run_id, str) else None, seq if isinstance(seq, int) else -1


def _field(path: Path, name: str) -> Any:
    try:
        return papers.read_object(path).get(name)
    except (OSError, ValueError):
        return None


def _summary(directory: Path, before: tuple[str | None, int], total: int) -> str:
    run_id, new = before[0], total - 1 - before[1]
    everything = f"all {plural(total, 'record')} of {directory.name}"
    if run_id is not None and _written(directory)[0] != run_id:
        return f"MLflow did not have the run any more: {everything} written anew"
    if new <= 0:
        return f"up to date: MLflow had {everything}"
    return f"{plural(new, 'new record')} of {total:,} written, MLflow has {everything}"
