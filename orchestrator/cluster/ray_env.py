"""What Ray's native library reads from the environment when it is imported. Imports no Ray."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from orchestrator.cluster.warm import record
from orchestrator.errors import ClusterError

# Read by Ray's own processes where we start them. The memory monitor would kill the agent, not the rank that
# grew. Token authentication is not here: a local ray.init turns it on by itself and writes the token, but
# refuses to start when it is told to and finds none.
# Ray's workers have a niceness of 15 by default, and so would the ranks.
HEAD_SETTINGS = {
    "RAY_memory_monitor_refresh_ms": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
}
# Ray would otherwise hide the GPUs of actors that ask for none, and warn about it.
_SETTINGS = {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
# With it a Ray of one machine has every port on loopback; on several machines it has them on all interfaces.
LOOPBACK_ONLY = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
# So long Ray tries to be let in; by default 20 s, while somebody listens already and a refusal is final.
_CONNECT_S = "5"
# By which a user says which token is meant; Ray looks at the first, then at the second, then into the home.
TOKEN_VARIABLES = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")

# Below the folder of a Ray: where a job that was handed to it finds its copy of a folder. It is deleted some
# time after the job.
_OF_A_JOB = "/runtime_resources/working_dir_files/"


def goes_with_the_job(path: Path) -> bool:
    """Whether it is in the copy of a folder that Ray has made for one job."""
    return _OF_A_JOB in f"{path}/"


def prepare_to_attach(address: str) -> None:
    """Call before Ray is imported, when the cluster at ``host:port`` is to be joined.

    A token is shown where there is one: a cluster that asks for none does not mind. Raises
    :class:`ClusterError` for one that is no secret.
    """
    os.environ.update(_SETTINGS)
    if address.rpartition(":")[0] in ("127.0.0.1", "localhost"):
        os.environ.update(LOOPBACK_ONLY)
    os.environ.setdefault("RAY_gcs_server_port_wait_time_s", _CONNECT_S)
    if has_token():
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    if (path := check_token()) is not None:
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(path)


def check_token() -> Path | None:
    """The file of the user's token that Ray is to read; None where there is none, or the shell names another.

    Raises :class:`ClusterError` for one that is no secret.
    """
    path = None if any(os.environ.get(name) for name in TOKEN_VARIABLES) else record.token_path()
    if path is not None:
        _refuse_open_token(path)
    return path


def _refuse_open_token(path: Path) -> None:
    """Ray's own commands leave it readable by everybody, and whoever has it runs what he likes on the
    cluster."""
    if path.stat().st_mode & 0o077:
        raise ClusterError(
            f"{path}: others may read this token, and whoever has it can run code as you on the cluster; type"
            f" 'chmod 600 {path}', and on a machine that you share give the cluster a new one"
        )


def prepare() -> None:
    """Call before Ray is imported, when one is to be started on this machine alone."""
    os.environ.update(_SETTINGS | LOOPBACK_ONLY)


def has_token() -> bool:
    """Whether there is a token where Ray looks for one."""
    return any(os.environ.get(name) for name in TOKEN_VARIABLES) or record.token_path() is not None


@contextlib.contextmanager
def token_from(path: Path) -> Iterator[None]:
    """Ray finds its token there meanwhile."""
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(path)
    try:
        yield
    finally:
        del os.environ["RAY_AUTH_TOKEN_PATH"]
