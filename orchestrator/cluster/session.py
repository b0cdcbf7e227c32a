"""Attach to a Ray cluster, or start a local one that ends with this process."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil
import ray
from ray.exceptions import RayError, RuntimeEnvSetupError
from ray.job_config import JobConfig

from orchestrator.cluster.ray_env import HEAD_SETTINGS, TOKEN_VARIABLES, has_token, token_from
from orchestrator.cluster.ray_errors import asks_for_a_token, is_submitted_with_a_folder, last_line, reason
from orchestrator.cluster.ray_folder import ray_folder
from orchestrator.cluster.warm import record
from orchestrator.cluster.warm.head import stop_sessions
from orchestrator.errors import ClusterUnreachable, ConfigError

NAMESPACE = "orchestrator"
LOOPBACK = "127.0.0.1"
# So long the driver has to say goodbye to a Ray that ends with it.
_LEAVE_S = 1.0

_SHIP_LESS = "name what need not travel in its .rayignore or .gitignore, or give the nodes a shared folder"


@dataclass(frozen=True)
class Session:
    """A connection to Ray. ``local`` means that the cluster is ours and ends with us; ``token_path`` is where
    its token is, if that was made for it."""

    address: str
    dashboard_url: str | None
    local: bool
    session_dir: str
    token_path: Path | None = None


@contextlib.contextmanager
def connect(
    address: str | None,
    cpus: int,
    dashboard: bool,
    working_dir: Path | None = None,
    run_root: Path | None = None,
    unheard: Iterable[int] = (),
    about: Mapping[str, str] | None = None,
) -> Iterator[Session]:
    """Join the cluster at ``address`` (``host:port`` or ``auto``), or start one with ``cpus`` logical CPUs.

    A cluster started here has token authentication on, is on loopback as a whole, and lives in a folder of
    its own, which needs no home and is gone when this ends. Its processes do not hear the signals
    ``unheard``, which ask the run to stop: it lives until the ranks have saved. Ray ships ``working_dir``,
    without the runs below it, to every node that an actor of ours starts on. Its dashboard and `ray list
    jobs` show what this connection is ``about``. What ``client.py`` prepares must
    have been prepared before Ray was imported. Raises :class:`ClusterUnreachable`, and :class:`ConfigError`
    for a folder that cannot be shipped.
    """
    with contextlib.ExitStack() as stack:
        token_path = None
        if address is None:
            os.environ.update({k: v for k, v in HEAD_SETTINGS.items() if k not in os.environ})
            folder = stack.enter_context(ray_folder())
            if not any(os.environ.get(name) for name in TOKEN_VARIABLES):
                folder.write_token()
                token_path = folder.token_path
                stack.enter_context(token_from(token_path))
            local = {
                "num_cpus": cpus,
                "include_dashboard": dashboard,
                "dashboard_host": LOOPBACK,
                # Whatever this machine's names, networks and address families are.
                "_node_ip_address": LOOPBACK,
                "_temp_dir": str(folder.path),
            }
            sessions: list[psutil.Process] = []
            stack.callback(_end, sessions)
            context = _start(
                sessions, frozenset(unheard), lambda: _init(None, working_dir, run_root, about, **local)
            )
        else:
            _refuse_cut_off(address)
            stack.callback(ray.shutdown)
            context = _init(address, working_dir, run_root, about)
        url, info = context.dashboard_url, context.address_info
        yield Session(
            info["address"],
            f"http://{url}" if url else None,
            address is None,
            info["session_dir"],
            token_path,
        )


def _refuse_cut_off(address: str) -> None:
    kept = record.find()
    if kept is not None and kept.address == address and (why := kept.why_cut_off()) is not None:
        raise ClusterUnreachable(f"{why}; 'orchestrator down --force' ends it")


def _start(sessions: list[psutil.Process], unheard: frozenset[int], init: Callable[[], Any]) -> Any:
    """A Ray of our own. Twice, if need be: on a machine that is busy its processes may not find together in
    the 30 s that it gives them, and ports that it has chosen may be taken before it listens."""
    try:
        with _sessions_of_their_own(sessions, unheard):
            return init()
    except ClusterUnreachable:
        _end(sessions)
    with _sessions_of_their_own(sessions, unheard):
        return init()


def _init(
    address: str | None,
    working_dir: Path | None,
    run_root: Path | None,
    about: Mapping[str, str] | None,
    **settings: Any,
) -> Any:
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False, "namespace": NAMESPACE}
    settings["job_config"] = JobConfig(metadata=dict(about or {}))
    if working_dir is not None:
        settings["runtime_env"] = {
            "working_dir": str(working_dir),
            "excludes": _left_behind(working_dir, run_root),
        }
    said = b""
    try:
        if address is None:
            return ray.init("local", **quiet, **settings)
        with tempfile.TemporaryFile() as heard:
            try:
                with _standard_error_in(heard):
                    return ray.init(address, **quiet, **settings)
            finally:
                heard.seek(0)
                said = heard.read()
    except RuntimeEnvSetupError as error:
        why = last_line(error).partition(". ")[0]
        raise ConfigError(f"launch.working_dir={working_dir}: {why}; {_SHIP_LESS}") from None
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        failed: Exception = error
    except Exception as error:  # a bare one is all that Ray has for a start that takes too long
        if address is not None:
            raise
        failed = error
    why = reason(failed)
    if address is None:
        raise ClusterUnreachable(f"a local Ray cluster did not start: {why}")
    if working_dir is not None and is_submitted_with_a_folder(failed):
        raise ConfigError(
            f"launch.working_dir={working_dir}: this command was itself submitted to Ray with a working"
            " directory, which every node gets; leave launch.working_dir out"
        )
    if asks_for_a_token(failed, said):
        why = (
            "the cluster asks for a token, and this is not it"
            if has_token()
            else "the cluster asks for a token"
        )
        raise ClusterUnreachable(
            f"ray_address={address}: {why}; set RAY_AUTH_TOKEN, or write ~/.ray/auth_token, to what "
            "'ray get-auth-token' prints on a node of that cluster"
        )
    raise ClusterUnreachable(f"ray_address={address}: {why}; is Ray running there ('ray start --head')?")


def _left_behind(working_dir: Path, run_root: Path | None) -> list[str]:
    """What a node has no use for, as patterns of .gitignore."""
    runs = (
        []
        if run_root is None or not run_root.is_relative_to(working_dir)
        else [run_root.relative_to(working_dir)]
    )
    return [".git", ".venv", "__pycache__", *(f"/{path}" for path in runs)]


@contextlib.contextmanager
def _standard_error_in(file: IO[bytes]) -> Iterator[None]:
    """Ray's native code writes there once a second why it is not let in, past Python, and raises without the
    why."""
    sys.stderr.flush()
    kept = os.dup(2)
    os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)


@contextlib.contextmanager
def _sessions_of_their_own(started: list[psutil.Process], unheard: frozenset[int]) -> Iterator[None]:
    """Processes that this thread starts lead a session each, and hear none of these signals; they are added.

    Those of other threads are none of Ray's: MLflow's process may be started just then, and outlives it.

    Ray would leave its own in our process group, and a SIGTERM or Ctrl-C for the group (a terminal,
    ``timeout``, a container) would take the cluster away while the ranks still save. A job manager that
    signals every process finds them in whatever group: what is blocked here is blocked in all that they
    start.
    """
    original = subprocess.Popen.__init__
    thread = threading.get_ident()

    def start(self: Any, *args: Any, **kwargs: Any) -> None:
        if threading.get_ident() != thread:
            original(self, *args, **kwargs)
            return
        original(self, *args, **{"start_new_session": True, **kwargs})
        with contextlib.suppress(psutil.NoSuchProcess):  # ended and buried at once
            started.append(psutil.Process(self.pid))

    before = signal.pthread_sigmask(signal.SIG_BLOCK, unheard)
    subprocess.Popen.__init__ = start  # type: ignore[method-assign]
    try:
        yield
    finally:
        subprocess.Popen.__init__ = original  # type: ignore[method-assign]
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end(sessions: list[psutil.Process]) -> None:
    """Leave Ray, and end what we started of it: it would wait for its processes to hear a SIGTERM."""
    kill = threading.Timer(_LEAVE_S, lambda: stop_sessions(sessions))
    kill.start()
    try:
        ray.shutdown()
    finally:
        kill.cancel()
        stop_sessions(sessions)
