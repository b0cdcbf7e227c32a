"""Start and stop a Ray head of our own that outlives this process."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

import psutil

from orchestrator.cluster.ray_env import HEAD_SETTINGS, LOOPBACK_ONLY
from orchestrator.cluster.ray_folder import folder_of, make_ray_folder, remove
from orchestrator.cluster.warm import record
from orchestrator.cluster.warm.node_labels import labels_here
from orchestrator.cluster.warm.record import WarmCluster
from orchestrator.errors import ClusterError

GCS_PORT, DASHBOARD_PORT, AGENT_PORT = 6379, 8265, 52365
_STARTED = "Ray runtime started"
START_TIMEOUT_S = 60.0
# Ray drains a node for up to 30 s when it gets SIGTERM.
STOP_TIMEOUT_S = 40.0
KILL_TIMEOUT_S = 10.0  # of processes that do not die of SIGKILL at once
_LAST_LINES = 5


def ray_program() -> str:
    """The ``ray`` of this environment."""
    beside = Path(sys.executable).with_name("ray")
    found = str(beside) if beside.exists() else shutil.which("ray")
    if found is None:
        raise ClusterError(f"no 'ray' program beside {sys.executable} or on PATH; install ray[default] there")
    return found


def make_token() -> None:
    """A token there must be: the environment's, the user's, or a new one for the user's eyes alone.

    Ray's own command would leave it readable by everybody, who could then run anything on the cluster; what
    it left so is closed. Raises :class:`ClusterError`.
    """
    if os.environ.get("RAY_AUTH_TOKEN"):
        return
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named) if named else record.token_path()
    if path is not None and path.is_file():
        with contextlib.suppress(OSError):
            path.chmod(0o600)
        return
    home = record.home()
    places = [path] if path else [home / ".ray" / record.TOKEN] if home else []
    for place in [*places, record.make_state_dir() / record.TOKEN]:
        try:
            place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with os.fdopen(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(secrets.token_hex(32))
        except OSError as error:
            reason = f"{place}: {error.strerror}"
            continue
        return
    raise ClusterError(f"no token can be written ({reason}); set RAY_AUTH_TOKEN_PATH to a file that has one")


def start_head(cpus: int, dashboard: bool, node_address: str | None, undo: ExitStack) -> tuple[int, int]:
    """``ray start --head`` in a session of its own, with token authentication and the dashboard on loopback.

    Returns its process id and the port of its control store, once Ray says that it runs; ``undo`` ends it
    again with all that it left. Raises :class:`ClusterError`.
    """
    options = [f"--num-cpus={cpus}", f"--include-dashboard={'true' if dashboard else 'false'}"]
    options += [f"--node-ip-address={node_address}"] if node_address else []
    options += [f"--labels={labels}"] if (labels := labels_here(os.environ)) else []
    folder = make_ray_folder()
    undo.callback(remove, folder.parent)
    options += [f"--temp-dir={folder.path}"]
    more = {} if node_address else LOOPBACK_ONLY
    try:
        try:
            ports = [_free_port(one) for one in (GCS_PORT, DASHBOARD_PORT, AGENT_PORT)]
            pid, port = _try_head(ports, options, more, folder.lock_fd)
        except ClusterError:  # a port that was free was taken meanwhile, perhaps; nobody else picks these
            pid, port = _try_head([_free_port() for _ in range(3)], options, more, folder.lock_fd)
    finally:
        folder.let_go()
    undo.callback(stop_session, pid)
    return pid, port


def _try_head(
    ports: Sequence[int], options: list[str], more: dict[str, str], lock_fd: int
) -> tuple[int, int]:
    port, dashboard_port, agent_port = ports
    log_path = record.make_state_dir() / "ray-head.log"
    command = [ray_program(), "start", "--head", "--block", f"--port={port}", *options]
    # With Ray's own default ports a second head on a machine dies, or takes no jobs.
    command += [
        "--dashboard-host=127.0.0.1",
        f"--dashboard-port={dashboard_port}",
        f"--dashboard-agent-listen-port={agent_port}",
        f"--ray-client-server-port={_free_port()}",
    ]
    command += ["--log-style=record", "--log-color=false"]
    token = record.token_path()
    where = {"RAY_AUTH_TOKEN_PATH": str(token)} if token else {}
    with log_path.open("wb") as log:
        head = subprocess.Popen(
            command,
            env={**HEAD_SETTINGS, **where, **os.environ, **more, "RAY_AUTH_MODE": "token"},
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            pass_fds=(lock_fd,),  # the folder is the head's from here on
        )
    try:
        _await_start(head, log_path, port)
    except BaseException:
        stop_session(head.pid)
        head.wait()
        raise
    return head.pid, port


def _await_start(head: subprocess.Popen[bytes], log_path: Path, port: int) -> None:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while _STARTED not in (said := log_path.read_text(errors="replace")):
        if head.poll() is not None or time.monotonic() > deadline_s:
            last = " / ".join(said.strip().splitlines()[-_LAST_LINES:])
            raise ClusterError(
                f"'ray start' did not start a head on port {port}: {last or 'it said nothing'}"
            )
        time.sleep(0.1)


def stop_head(cluster: WarmCluster) -> None:
    """End our head and everything that it started here, and remove its session's folder."""
    head, ours = cluster.head(), cluster.is_running()
    if head is not None and hears(head.pid, signal.SIGTERM):
        head.send_signal(signal.SIGTERM)
        deadline_s = time.monotonic() + STOP_TIMEOUT_S
        while cluster.head() is not None and time.monotonic() < deadline_s:  # a zombie is gone, too
            time.sleep(0.1)
    if cluster.head_pid is not None and ours:
        stop_session(cluster.head_pid)
    if cluster.session_dir:
        folder = folder_of(cluster.session_dir)
        if folder is not None:
            remove(folder)
        else:  # of an earlier version's
            shutil.rmtree(cluster.session_dir, ignore_errors=True)
            _forget_current(Path(cluster.session_dir).parent, cluster.address)


def hears(pid: int, number: int) -> bool:
    """Whether a signal reaches a process, as the kernel tells it: what a batch script starts may have it
    blocked, so that whoever cancels the job does not take Ray away while the ranks save."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        blocked = next(line for line in lines if line.startswith("SigBlk:"))
    except (OSError, StopIteration):
        return True
    return not int(blocked.split()[1], 16) >> (number - 1) & 1


def stop_session(session: int) -> None:
    """SIGKILL every process of a session, group by group, until a look finds none: one may be forked between
    a look and a signal. A session's number is not reused while one of it lives."""
    deadline_s = time.monotonic() + KILL_TIMEOUT_S
    while (groups := _groups_alive(session)) and time.monotonic() < deadline_s:
        for group in groups:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(group, signal.SIGKILL)
        time.sleep(0.02)


def stop_sessions(leaders: Iterable[psutil.Process]) -> None:
    """The same for several, of which some may have ended long ago: where another process has the number of
    one by now, nothing of its session is left."""
    for leader in leaders:
        if leader.is_running() or not psutil.pid_exists(leader.pid):
            stop_session(leader.pid)


def _groups_alive(session: int) -> set[int]:
    """A group's processes are all of one session. Zombies are left out: whoever is to bury them may be
    busy."""
    groups = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError, PermissionError):
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                groups.add(os.getpgid(process.pid))
    return groups


def _forget_current(folder: Path, address: str) -> None:
    """Ray keeps the address of the cluster that it started last, and the link to its session's folder."""
    current, latest = folder / "ray_current_cluster", folder / "session_latest"
    with contextlib.suppress(OSError):
        if current.read_text().strip() == address:
            current.unlink()
    with contextlib.suppress(OSError):
        if latest.is_symlink() and not latest.exists():
            latest.unlink()


def _free_port(wished: int = 0) -> int:
    """A port that was free a moment ago: the one wished for, if possible."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", wished))
        except OSError:
            return _free_port()
        return int(probe.getsockname()[1])
